"""Contours in mm -> polygons in the slices of an image, with what does not fit refused or said."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from medseg.errors import GeometryError, ImageReadError
from medseg.geometry import affine_lps_to_ras
from medseg.io.polygon_fill import SlicePolygons, count_crossings, slices_with_partial_overlap
from medseg.io.roi_contours import Contour
from medseg.volume import ImageGrid

LARGEST_OFFSET = 0.1  # of the step between slices
_SILENT_MM = 0.01
_ON_LATTICE = 4  # decimals of a voxel to which points are rounded
_CROSSINGS_PER_PIXEL = 16
_EMPTY = SlicePolygons(points=np.zeros((0, 2)), starts=np.zeros(1, np.int64), slices=np.zeros(0, np.int64))


@dataclass(frozen=True, slots=True, kw_only=True)
class SlicePlanes:
    """Planes of an image's slices.

    Parameters
    ----------
    shape : (I, J, K)
    to_index : (4, 4) float64 array
        mm in LPS+ -> voxel index.
    along_normal : (2,) float64 array
        How far (i, j) move on a step along the normal, from one slice's plane to the next; zero
        where the slice axis is the normal (no tilt).
    step_mm : float
        Distance between the planes, or the thickness of a single slice.
    """

    shape: tuple[int, int, int]
    to_index: NDArray[np.float64]
    along_normal: NDArray[np.float64]
    step_mm: float

    @classmethod
    def of(cls, grid: ImageGrid) -> SlicePlanes:
        """Planes of a grid with an affine.

        Raises
        ------
        GeometryError
            The grid has no affine.
        """
        if grid.affine is None:
            raise GeometryError(
                "an RT structure set lies in patient coordinates, which this image does not have; "
                "give the CT, MR or PET series it was drawn on"
            )
        affine = affine_lps_to_ras(grid.affine)
        normal = np.cross(affine[:3, 0], affine[:3, 1])
        normal /= np.linalg.norm(normal)
        step = float(normal @ affine[:3, 2])
        inverse = np.asarray(np.linalg.inv(affine), dtype=np.float64)
        shape = (*grid.shape, 1)[:3]
        return cls(
            shape=(shape[0], shape[1], shape[2]),
            to_index=inverse,
            along_normal=inverse[:2, :3] @ normal * step,
            step_mm=abs(step),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class PlacedContours:
    """Polygons of one ROI, and notes on what was done to place them, each to follow the ROI's name."""

    polygons: SlicePolygons
    notes: tuple[str, ...]


def place_contours(
    contours: Sequence[Contour],
    planes: SlicePlanes,
    slice_of: dict[tuple[str, int], int],
    *,
    roi: str,
    path: Path,
) -> PlacedContours:
    """Assign the closed contours of one ROI to slices, by their distance along the slices' normal.

    Parameters
    ----------
    contours : sequence of Contour
    planes : SlicePlanes
    slice_of : dict
        Slice of each instance and frame of the image.
    roi : str
        The ROI in messages.
    path : Path

    Raises
    ------
    GeometryError
        A contour that is not parallel to the slices, or further from the nearest than a tenth of
        their step.
    ImageReadError
        Contours that cross the rows of a slice so often that they must be damaged.
    """
    closed = [contour for contour in contours if contour.encloses]
    notes = _left_out(contours)
    if not closed:
        return PlacedContours(polygons=_EMPTY, notes=tuple(notes))
    where = f"{path}: {roi}"
    index, starts = _indices(closed, planes)
    slices, inside = _nearest_slices(index, starts, closed, planes, where, notes)
    offset = index[:, 2] - np.repeat(slices, np.diff(starts))
    points = np.round(index[:, :2] - offset[:, np.newaxis] * planes.along_normal, _ON_LATTICE)
    polygons = SlicePolygons(points=points, starts=starts, slices=slices).take(np.flatnonzero(inside))
    kept = [contour for contour, here in zip(closed, inside, strict=True) if here]
    polygons = _without_doubles(polygons, kept, notes)
    _check_crossings(polygons, planes, where)
    _describe(polygons, planes, notes)
    _compare_references(kept, slices[inside], slice_of, notes)
    return PlacedContours(polygons=polygons, notes=tuple(notes))


def _left_out(contours: Sequence[Contour]) -> list[str]:
    others = sorted({c.kind for c in contours if not c.encloses and len(c.points_lps)})
    count = sum(not c.encloses and len(c.points_lps) > 0 for c in contours)
    return [f"contours that enclose nothing, left out: {count} ({', '.join(others)})"] if count else []


def _indices(
    contours: Sequence[Contour], planes: SlicePlanes
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    points = np.concatenate([contour.points_lps for contour in contours])
    starts = np.cumsum([0, *(len(contour.points_lps) for contour in contours)])
    return points @ planes.to_index[:3, :3].T + planes.to_index[:3, 3], starts.astype(np.int64)


def _nearest_slices(
    index: NDArray[np.float64],
    starts: NDArray[np.int64],
    contours: Sequence[Contour],
    planes: SlicePlanes,
    where: str,
    notes: list[str],
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Slice of each contour, and whether the image has it."""
    low = np.minimum.reduceat(index[:, 2], starts[:-1])
    high = np.maximum.reduceat(index[:, 2], starts[:-1])
    worst = int((high - low).argmax())
    if high[worst] - low[worst] > LARGEST_OFFSET:
        raise GeometryError(
            f"{where}, contour {contours[worst].number} is not parallel to the slices: its points spread "
            f"{(high[worst] - low[worst]) * planes.step_mm:.3f} mm across them (slice step "
            f"{planes.step_mm:.3f} mm); give the image it was drawn on"
        )
    slices = np.rint((low + high) / 2).astype(np.int64)
    offset = np.maximum(np.abs(low - slices), np.abs(high - slices))
    inside = (slices >= 0) & (slices < planes.shape[2])
    if planes.shape[2] == 1:
        # Whatever lies beside a single slice is on others, whose step is not known.
        inside &= offset <= LARGEST_OFFSET
    worst = int(np.where(inside, offset, 0).argmax())
    if offset[worst] > LARGEST_OFFSET and inside[worst]:
        raise GeometryError(
            f"{where}, contour {contours[worst].number} lies {offset[worst] * planes.step_mm:.3f} mm from "
            f"the nearest slice, {slices[worst] + 1} of {planes.shape[2]} (slice step {planes.step_mm:.3f} mm, "
            f"allowed {LARGEST_OFFSET * planes.step_mm:.3f} mm); give the image it was drawn on"
        )
    beside = float(offset[inside].max(initial=0)) * planes.step_mm
    if beside > _SILENT_MM:
        notes.append(f"contours lie up to {beside:.3f} mm beside their slices and are taken onto them")
    if not inside.all():
        notes.append(f"contours on no slice of the image, left out: {(~inside).sum()}")
    return slices, inside


def _without_doubles(polygons: SlicePolygons, contours: Sequence[Contour], notes: list[str]) -> SlicePolygons:
    """Drop contours that stand twice in a slice: even-odd filling would make them vanish together."""
    sizes = np.diff(polygons.starts)
    _, group, members = np.unique(
        np.column_stack([polygons.slices, sizes]), axis=0, return_inverse=True, return_counts=True
    )
    seen: set[tuple[int, bytes]] = set()
    keep = np.ones(len(polygons), dtype=np.bool_)
    for p in np.flatnonzero(members[group.ravel()] > 1).tolist():
        key = (int(polygons.slices[p]), _edge_set(polygons[p]))
        # A second one of the XOR kind is meant to take the first one away.
        keep[p] = key not in seen or contours[p].kind == "CLOSEDPLANAR_XOR"
        seen.add(key)
    if keep.all():
        return polygons
    notes.append(f"contours that stand twice, taken once: {(~keep).sum()}")
    return polygons.take(np.flatnonzero(keep))


def _edge_set(points: NDArray[np.float64]) -> bytes:
    """Edges of a polygon, wherever it starts and whichever way it runs."""
    following = np.roll(points, -1, axis=0)
    ahead = (points[:, 0] < following[:, 0]) | (
        (points[:, 0] == following[:, 0]) & (points[:, 1] <= following[:, 1])
    )
    edges = np.where(ahead[:, np.newaxis], np.hstack([points, following]), np.hstack([following, points]))
    return edges[np.lexsort(edges.T)].tobytes()


def _check_crossings(polygons: SlicePolygons, planes: SlicePlanes, where: str) -> None:
    shape = planes.shape
    most = _CROSSINGS_PER_PIXEL * shape[0] * shape[1] + 1000
    found = count_crossings(polygons, shape)
    if found.max(initial=0) > most:
        raise ImageReadError(
            f"{where}: its contours cross the rows of slice {int(found.argmax()) + 1} {int(found.max())} times, "
            f"the limit is {most}; the file is damaged"
        )


def _describe(polygons: SlicePolygons, planes: SlicePlanes, notes: list[str]) -> None:
    """Notes on what a reader of the mask could not see."""
    if not len(polygons):
        return
    points, used = polygons.points, np.unique(polygons.slices)
    if (points < -0.501).any() or (points > np.array(planes.shape[:2]) - 0.499).any():
        notes.append("contours reach beyond the image and are cut at its border")
    if (gaps := int(used[-1] - used[0] + 1 - len(used))) > 0:
        notes.append(f"slices between its contours without one, left empty: {gaps}")
    if (partly := len(slices_with_partial_overlap(polygons, planes.shape))) > 0:
        notes.append(
            f"slices on which contours overlap in part, and what two share counts as outside: {partly}"
        )
    if (points == np.rint(points)).all():
        notes.append(
            "its contours run through voxel centres; centres on their right and lower edges are left out"
        )


def _compare_references(
    contours: Sequence[Contour],
    slices: NDArray[np.int64],
    slice_of: dict[tuple[str, int], int],
    notes: list[str],
) -> None:
    pairs = [(slice_of.get(c.image), k) for c, k in zip(contours, slices.tolist(), strict=True) if c.image]
    other = sum(named is not None and named != k for named, k in pairs)
    if other:
        notes.append(f"contours that refer to another slice than the one they lie on, which counts: {other}")
