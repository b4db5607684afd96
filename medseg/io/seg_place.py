"""Where the frames of a segmentation lie: on their own stack, or on the grid of an image."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medseg.errors import GeometryError, ImageReadError
from medseg.geometry import GridMap, affine_lps_to_ras, lattice_map, spacing_of
from medseg.io.dicom_header import DicomHeader
from medseg.io.limits import ReadLimits
from medseg.io.orientation import letters_of_header
from medseg.io.seg_frame_table import FrameTable
from medseg.io.seg_lattice import OffLattice, Stack, stack_of
from medseg.volume import ImageGrid, Source

_SAME_COSINES, _SAME_MM, _ORTHOGONAL = 1e-4, 1e-4, 1e-3


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """Slices of the frames, and the way from their stack to the grid.

    Parameters
    ----------
    grid : ImageGrid
    slices : int
        Of the stack in which frames are put together.
    slice_of : (N,) int array
        Slice of each frame, -1 for frames that are not of this image.
    map : GridMap or None
        From the stack to the grid; None where they are one.
    """

    grid: ImageGrid
    slices: int
    slice_of: NDArray[np.int64]
    map: GridMap | None = None

    def onto_grid(self, stack: NDArray[Any], path: Path) -> NDArray[Any]:
        """(I, J, K) of the stack -> the shape of the grid.

        Raises
        ------
        GeometryError
            Voxels that are not 0 lie outside the grid.
        """
        if self.map is None:
            return stack.reshape(self.grid.shape, order="F") if len(self.grid.shape) == 2 else stack
        axes = self.map.axis_maps()
        moved = stack.transpose([axis for axis, _, _ in axes])
        target, source = [], []
        for n, (_, scale, offset) in enumerate(axes):
            # Target voxels whose source voxel exists, and those, in the target's direction.
            first, count = round(offset), moved.shape[n]
            at = np.arange(self.map.target_shape[n])
            inside = at[(first + round(scale) * at >= 0) & (first + round(scale) * at < count)]
            target.append(slice(int(inside[0]), int(inside[-1]) + 1) if len(inside) else slice(0, 0))
            picked = first + round(scale) * inside
            source.append(_run(picked, round(scale)))
        out = np.zeros(self.map.target_shape, dtype=stack.dtype, order="F")
        inner = moved[tuple(source)]
        if inner.size < moved.size and np.count_nonzero(inner) != np.count_nonzero(moved):
            outside = np.count_nonzero(moved) - np.count_nonzero(inner)
            raise GeometryError(
                f"{path}: {outside} voxels of the segmentation lie outside the image of {self.grid.shape} voxels"
            )
        out[tuple(target)] = inner
        return out.reshape(self.grid.shape, order="F")


def _run(indices: NDArray[np.int64], step: int) -> slice:
    if not len(indices):
        return slice(0, 0)
    last = int(indices[-1]) + step
    return slice(int(indices[0]), last if last >= 0 else None, step)


def place_frames(
    header: DicomHeader, table: FrameTable, like: ImageGrid | None, limits: ReadLimits
) -> Placement:
    """Find the slice of every frame.

    Raises
    ------
    GeometryError
        See `medseg.io.dicom_seg.read_dicom_seg`.
    """
    shape = (header.whole("Columns", 1, 65535), header.whole("Rows", 1, 65535))
    with_position = table.planes >= 0
    shared = header.numbers("ImagePositionPatient")
    if not with_position.any() and len(shared) != 3:
        return _by_reference(header, table, like, shape)
    if like is not None and like.affine is None:
        raise GeometryError(
            f"{header.path}: the segmentation has patient coordinates, the image it is to be put on has none"
        )
    return _by_position(header, table, like, shape, limits)


def _by_position(
    header: DicomHeader,
    table: FrameTable,
    like: ImageGrid | None,
    shape: tuple[int, int],
    limits: ReadLimits,
) -> Placement:
    positions, planes = _positions(header, table)
    plane = _plane(header, table)
    _check_frame_of_reference(header, like)
    stack = _stack(header, table, positions, plane, like)
    whole = (*shape, stack.slices)
    limits.check_voxels(header.path, whole)
    affine_lps = np.eye(4)
    affine_lps[:3, :2] = plane[:, :2]
    affine_lps[:3, 2], affine_lps[:3, 3] = stack.step, stack.origin
    affine = affine_lps_to_ras(affine_lps)
    slice_of = stack.index[planes]
    if like is None:
        return Placement(grid=_own_grid(header, whole, affine), slices=stack.slices, slice_of=slice_of)
    return _onto(header, like, whole, affine, slice_of)


def _onto(
    header: DicomHeader,
    like: ImageGrid,
    shape: tuple[int, int, int],
    affine: NDArray[np.float64],
    slice_of: NDArray[np.int64],
) -> Placement:
    target = like.shape if len(like.shape) == 3 else (*like.shape, 1)
    found = lattice_map(affine, shape, np.asarray(like.affine), target)
    if found is None:
        raise GeometryError(
            f"{header.path}: the segmentation and the image do not share a grid: affine "
            f"{_rows(affine)} of {shape} voxels, the image's {_rows(np.asarray(like.affine))} of {target}; "
            "resample the segmentation, or give the image it was made on"
        )
    start = -round(float(found.matrix[2, 3]))
    straight = np.array_equal(found.matrix[:3, :3], np.eye(3)) and not found.matrix[:2, 3].any()
    inside = start >= 0 and start + shape[2] <= target[2]
    if straight and inside and shape[:2] == target[:2]:
        # The usual case: the stack is some of the image's slices, and is put together in its place.
        return Placement(grid=like, slices=target[2], slice_of=slice_of + start)
    return Placement(grid=like, slices=shape[2], slice_of=slice_of, map=found)


def _rows(affine: NDArray[np.float64]) -> str:
    return "[" + "; ".join(" ".join(f"{v:.6g}" for v in row) for row in affine[:3]) + "]"


def _stack(
    header: DicomHeader,
    table: FrameTable,
    positions: NDArray[np.float64],
    plane: NDArray[np.float64],
    like: ImageGrid | None,
) -> Stack:
    known = []
    if like is not None and like.affine is not None:
        axes = affine_lps_to_ras(like.affine)[:3, :3]
        along = np.abs(plane[:, 2] @ axes) / np.linalg.norm(axes, axis=0)
        known = [np.asarray(axes[:, int(along.argmax())], dtype=np.float64)]
    spacing = _length(header, "SpacingBetweenSlices", table.between)
    depth = spacing or _length(header, "SliceThickness", table.thicknesses) or 1.0
    try:
        return stack_of(positions, plane[:, 2], known_steps=known, spacing_mm=spacing, depth_mm=depth)
    except OffLattice as err:
        frame = table.first_frame(err.plane) if (table.planes >= 0).any() else 1
        raise GeometryError(f"{header.path}: the plane of frame {frame} {err}") from err


def _length(header: DicomHeader, keyword: str, own: dict[tuple[float, ...], int]) -> float | None:
    values = next(iter(own), ()) or header.numbers(keyword)
    return abs(values[0]) if len(values) == 1 and 0 < abs(values[0]) < math.inf else None


def _positions(header: DicomHeader, table: FrameTable) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Distinct positions, and which one each frame has."""
    shared = header.numbers("ImagePositionPatient")
    missing = np.flatnonzero(table.planes < 0)
    if not len(missing):
        return table.positions, table.planes
    if len(shared) != 3 or not all(map(math.isfinite, shared)):
        raise GeometryError(
            f"{header.path}: frame {int(missing[0]) + 1} of {len(table)} has no position, others have one"
        )
    positions = np.vstack([table.positions, shared])
    return positions, np.where(table.planes < 0, len(positions) - 1, table.planes)


def _plane(header: DicomHeader, table: FrameTable) -> NDArray[np.float64]:
    """(3, 3): steps along i and j in mm, and the unit normal; LPS+."""
    cosines = _one(header, "ImageOrientationPatient", table.orientations, 6, _SAME_COSINES)
    spacing = _one(header, "PixelSpacing", table.spacings, 2, _SAME_MM)
    along_i, along_j = np.array(cosines[:3]), np.array(cosines[3:])
    errors = (np.linalg.norm(along_i) - 1, np.linalg.norm(along_j) - 1, along_i @ along_j)
    if np.max(np.abs(errors)) > _ORTHOGONAL or min(spacing) <= 0:
        raise GeometryError(
            f"{header.path}: the orientation or the pixel spacing of the planes is impossible "
            "(axes not of length 1 and at right angles, or a spacing of 0 or less)"
        )
    normal = np.cross(along_i, along_j)
    columns = [along_i * spacing[1], along_j * spacing[0], normal / np.linalg.norm(normal)]
    return np.stack(columns, axis=1)


def _one(
    header: DicomHeader, keyword: str, own: dict[tuple[float, ...], int], count: int, tolerance: float
) -> tuple[float, ...]:
    """The value that all frames have in common."""
    shared = header.numbers(keyword)
    values = list(own) or [shared]
    if len(values[0]) != count or not all(map(math.isfinite, values[0])):
        raise ImageReadError(f"{header.path}: {keyword} of the frames is missing or not {count} numbers")
    for value, frame in own.items():
        if np.abs(np.subtract(value, values[0])).max() > tolerance:
            raise GeometryError(
                f"{header.path}: frame {frame + 1} has another {keyword} than frame 1; "
                "planes that differ do not make one volume"
            )
    return values[0]


def _check_frame_of_reference(header: DicomHeader, like: ImageGrid | None) -> None:
    mine = header.uid("FrameOfReferenceUID")
    if like is not None and mine and like.source.frame_of_reference_uid not in ("", mine):
        raise GeometryError(
            f"{header.path}: the segmentation and the image have different frames of reference "
            f"({mine} and {like.source.frame_of_reference_uid}), so their coordinates are not comparable"
        )


def _by_reference(
    header: DicomHeader, table: FrameTable, like: ImageGrid | None, shape: tuple[int, int]
) -> Placement:
    """Frames without coordinates belong to the source frames that they refer to."""
    references = [table.references(frame) for frame in range(len(table))]
    if like is None:
        found = {reference for frame in references for reference in frame}
        if len(found) > 1:
            raise GeometryError(
                f"{header.path}: frames without coordinates refer to {len(found)} images; say which one is meant"
            )
        return Placement(
            grid=_own_grid(header, shape, None), slices=1, slice_of=np.zeros(len(table), dtype=np.int64)
        )
    if like.shape[:2] != shape:
        raise GeometryError(
            f"{header.path}: the segmentation has {shape[0]} columns and {shape[1]} rows and no coordinates, "
            f"the image {like.shape[0]} and {like.shape[1]}"
        )
    uids, numbers = like.source.sop_instance_uids, like.source.frame_numbers
    slice_at = {
        (uid, number): k
        for k, (uid, number) in enumerate(zip(uids, numbers or (0,) * len(uids), strict=True))
    }
    slice_of = np.array(
        [next((slice_at[r] for r in frame if r in slice_at), -1) for frame in references], dtype=np.int64
    )
    if not (slice_of >= 0).any():
        raise GeometryError(
            f"{header.path}: no frame refers to the image, and frames without coordinates have no other place"
        )
    return Placement(grid=like, slices=like.shape[2] if len(like.shape) == 3 else 1, slice_of=slice_of)


def _own_grid(header: DicomHeader, shape: tuple[int, ...], affine: NDArray[np.float64] | None) -> ImageGrid:
    return ImageGrid(
        shape=shape,
        affine=affine,
        spacing_mm=None if affine is None else spacing_of(affine),
        patient_orientation=letters_of_header(header.texts("PatientOrientation")) if affine is None else None,
        modality="SEG",
        source=Source(
            paths=(header.path,),
            format="dicom",
            sop_class_uid=header.uid("SOPClassUID"),
            series_instance_uid=header.uid("SeriesInstanceUID"),
            study_instance_uid=header.uid("StudyInstanceUID"),
            frame_of_reference_uid=header.uid("FrameOfReferenceUID"),
        ),
    )
