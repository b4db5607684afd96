"""Label maps onto the grid of an image: exactly where the voxels coincide, else refused or, on request, resampled."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from medseg.errors import GeometryError
from medseg.geometry import GridMap, axis_codes, lattice_map, spacing_of
from medseg.tilt import shear_of, unstraighten_labels
from medseg.volume import ImageGrid, Volume

Resampling = Literal["never", "nearest"]
_TOLERANCE_MM = 0.01
_SLAB_VOXELS = 1 << 20


def onto_grid(label_map: Volume, grid: ImageGrid, *, resample: Resampling = "never") -> NDArray[Any]:
    """Values of a label map at the voxels of an image.

    Where both have the same voxels, up to the order and direction of their axes and the part they
    cover, the values are moved and nothing is computed; voxels outside of the label map are 0. A label
    map on the straightened grid of a tilted series goes back by the inverse of the straightening.

    Parameters
    ----------
    label_map : Volume
        (1, I, J) or (1, I, J, K).
    grid : ImageGrid
        Of the image.
    resample : {"never", "nearest"}, optional
        What to do where voxels do not coincide: refuse, or take the nearest voxel by world
        coordinates, a slab at a time.

    Returns
    -------
    (I, J) or (I, J, K) array of the same type
        A view of the label map where both grids are the same.

    Raises
    ------
    GeometryError
        The voxels do not coincide and `resample` is "never", or labelled voxels lie outside of the
        image; the message names both grids, their distance and what may have gone wrong. Also where
        either has no affine and their shapes differ, or the label map lies elsewhere altogether, whatever
        `resample` says.
    """
    labels: NDArray[Any] = label_map.array[0]
    if label_map.grid.same(grid, tolerance_mm=_TOLERANCE_MM):
        return labels
    if label_map.affine is None or grid.affine is None:
        raise GeometryError(_mismatch(label_map, grid, _shape_hint(label_map.spatial_shape, grid.shape)))
    lifted = labels.reshape((*labels.shape, 1)) if labels.ndim == 2 else labels
    shape = (*grid.shape, 1)[:3]
    affine, target = label_map.affine, grid.affine
    if lifted.shape[2] == shape[2] == 1:  # how thick a single slice is does not matter
        affine, target = _unit_normal(affine), _unit_normal(target)
    found = _moved(lifted, affine, target, shape)
    if found is None:
        found = _off_straight_grid(lifted, affine, target, shape)
    if found is not None and resample == "never":
        _check_nothing_lost(lifted, found, label_map, grid)
    if found is None and resample == "nearest":
        found = _nearest(lifted, np.linalg.inv(affine) @ target, shape)
    if found is None:
        raise GeometryError(_mismatch(label_map, grid, _hint(label_map, grid)))
    return found.reshape(grid.shape)


def _unit_normal(affine: NDArray[np.float64]) -> NDArray[np.float64]:
    """The affine of one slice with a third axis of 1 mm along the normal."""
    changed = np.array(affine, dtype=np.float64)
    normal = np.cross(changed[:3, 0], changed[:3, 1])
    changed[:3, 2] = normal / np.linalg.norm(normal)
    return changed


def _moved(
    labels: NDArray[Any], affine: NDArray[np.float64], target: NDArray[np.float64], shape: tuple[int, ...]
) -> NDArray[Any] | None:
    """Values on a grid whose voxels coincide with those of the labels; None where they do not."""
    move = lattice_map(affine, labels.shape, target, shape, tolerance_mm=_TOLERANCE_MM)
    return None if move is None else _apply(labels, move)


def _apply(labels: NDArray[Any], move: GridMap) -> NDArray[Any] | None:
    """Move along a map that permutes, flips and crops; 0 outside; None where nothing is inside."""
    maps = move.axis_maps()
    turned = labels.transpose([source for source, _, _ in maps])
    result = np.zeros(move.target_shape, dtype=labels.dtype, order="F" if labels.flags.f_contiguous else "C")
    picks, places = [], []
    for count, length, (_, scale, offset) in zip(move.target_shape, turned.shape, maps, strict=True):
        step, first = int(scale), int(offset)
        # Target t shows source first + step * t; the t whose source exists.
        low, high = (-first, length - 1 - first) if step > 0 else (first - length + 1, first)
        low, high = max(low, 0), min(high, count - 1)
        if low > high:
            return None
        begin, end = first + step * low, first + step * high + step
        picks.append(slice(begin, end if end >= 0 else None, step))
        places.append(slice(low, high + 1))
    result[tuple(places)] = turned[tuple(picks)]
    return result


def _check_nothing_lost(
    labels: NDArray[Any], found: NDArray[Any], label_map: Volume, grid: ImageGrid
) -> None:
    lost = int(np.count_nonzero(labels)) - int(np.count_nonzero(found))
    if lost:
        raise GeometryError(
            f"{lost} of {int(np.count_nonzero(labels))} labelled voxels lie outside of the image: "
            f"{_described(label_map.grid)}, but {_described(grid)}; cut the mask to the image, or allow "
            "resampling to drop them"
        )


def _off_straight_grid(
    labels: NDArray[Any], affine: NDArray[np.float64], target: NDArray[np.float64], shape: tuple[int, ...]
) -> NDArray[Any] | None:
    """From the straightened grid of a tilted image back onto its sheared one; None for another grid."""
    try:
        shear = shear_of(target, shape)
    except GeometryError:  # no tilted stack
        return None
    if shear is None:
        return None
    straight = _moved(labels, affine, shear.straight_affine, shear.straight_shape)
    return None if straight is None else unstraighten_labels(straight, shear)


def _nearest(
    labels: NDArray[Any], matrix: NDArray[np.float64], shape: tuple[int, ...]
) -> NDArray[Any] | None:
    """The value of the voxel that is nearest in voxels of the label map; 0 outside, None if all are.

    `matrix` leads from target to source voxels. Half-way positions take the lower index.
    """
    result = np.zeros(shape, dtype=labels.dtype, order="F")
    i, j = np.arange(shape[0])[:, None, None], np.arange(shape[1])[None, :, None]
    touched = False
    for part in _slabs(shape):
        k = np.arange(shape[2])[None, None, part]
        inside = np.ones((shape[0], shape[1], k.size), dtype=bool)
        index = []
        for row, length in zip(matrix[:3], labels.shape, strict=True):
            position = np.ceil(np.round(row[0] * i + row[1] * j + row[2] * k + row[3], 6) - 0.5)
            inside &= (position >= 0) & (position < length)
            index.append(np.clip(position, 0, length - 1).astype(np.int32))
        result[:, :, part] = np.where(inside, labels[tuple(index)], labels.dtype.type(0))
        touched = touched or bool(inside.any())
    return result if touched else None


def _slabs(shape: tuple[int, ...]) -> Iterator[slice]:
    step = max(1, _SLAB_VOXELS // max(1, shape[0] * shape[1]))
    return (slice(first, first + step) for first in range(0, shape[2], step))


def _mismatch(label_map: Volume, grid: ImageGrid, hint: str) -> str:
    apart = ""
    if label_map.affine is not None and grid.affine is not None:
        apart = f"; the corners lie up to {_corner_distance(label_map.grid, grid):.2f} mm apart"
    return (
        f"image and mask do not share a grid: {_described(grid)}, but {_described(label_map.grid)}"
        f"{apart}{f'; {hint}' if hint else ''}"
    )


def _described(grid: ImageGrid) -> str:
    """Files, shape, axis directions, spacing and affine in words."""
    name = ", ".join(str(path) for path in grid.source.paths[:2]) or "the image"
    more = f" and {len(grid.source.paths) - 2} more" if len(grid.source.paths) > 2 else ""
    shape = " x ".join(str(n) for n in grid.shape)
    if grid.affine is None:
        return f"{name}{more} has {shape} voxels and no affine"
    spacing = " x ".join(f"{v:.4g}" for v in spacing_of(grid.affine)[: len(grid.shape)])
    rows = "; ".join(" ".join(f"{v:.4g}" for v in row) for row in grid.affine[:3])
    return f"{name}{more} has {shape} voxels of {spacing} mm, axes {axis_codes(grid.affine)}, and the affine [{rows}]"


def _corners(grid: ImageGrid) -> NDArray[np.float64]:
    """(8, 3) world positions of the corner voxels, lowest and highest along each world axis first."""
    indices = np.array(
        [(*c, 1) for c in product(*((0, n - 1) for n in (*grid.shape, 1)[:3]))], dtype=np.float64
    )
    return np.asarray((np.asarray(grid.affine) @ indices.T).T[:, :3])


def _corner_distance(first: ImageGrid, second: ImageGrid) -> float:
    """Largest distance in mm from a corner of one grid to the nearest corner of the other."""
    gaps = np.linalg.norm(_corners(first)[:, None] - _corners(second)[None], axis=2)
    return float(max(gaps.min(axis=0).max(), gaps.min(axis=1).max()))


def _hint(label_map: Volume, grid: ImageGrid) -> str:
    """What may have gone wrong, tried out; "" where nothing fits."""
    affine, target = np.asarray(label_map.affine), np.asarray(grid.affine)
    source_shape, shape = (*label_map.spatial_shape, 1)[:3], (*grid.shape, 1)[:3]

    def fits(changed: NDArray[np.float64]) -> bool:
        return lattice_map(changed, source_shape, target, shape, tolerance_mm=0.1) is not None

    if fits(np.diag([-1.0, -1, 1, 1]) @ affine):
        return "the mask looks as if LPS and RAS coordinates were confused: it fits with x and y reversed"
    for axis, name in enumerate(("left and right", "front and back", "head and foot")):
        signs = np.ones(4)
        signs[axis] = -1
        if fits(np.diag(signs) @ affine):
            return f"the mask fits with {name} exchanged"
    moved = affine.copy()
    moved[:3, 3] += _corners(grid).mean(axis=0) - _corners(label_map.grid).mean(axis=0)
    if sorted(source_shape) == sorted(shape) and fits(moved):
        apart = float(np.linalg.norm(moved[:3, 3] - affine[:3, 3]))
        return f"the mask fits when it is moved by {apart:.2f} mm: its origin was lost or shifted"
    if source_shape == shape and np.allclose(np.abs(affine[:3, :3]), np.eye(3)):
        return "the affine of the mask is that of a file without one; write it again with the image's"
    return _shape_hint(label_map.spatial_shape, grid.shape)


def _shape_hint(found: tuple[int, ...], wanted: tuple[int, ...]) -> str:
    if found != wanted and found == wanted[::-1]:
        return "the mask looks as if its rows and columns were swapped"
    return ""
