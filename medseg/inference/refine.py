"""Geometry of the second pass: what the first found, and the part of the source around it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medseg.errors import ConfigError
from medseg.geometry import GridMap
from medseg.inference.options import RefineOptions
from medseg.inference.postprocess import bounding_box, keep_largest_component
from medseg.labels import LabelTable
from medseg.volume import Volume


def crop_volume(volume: Volume, start: Sequence[int], size: Sequence[int]) -> Volume:
    """The box of a volume that begins at voxel `start`, its affine moved along."""
    box = tuple(slice(a, a + n) for a, n in zip(start, size, strict=True))
    affine = volume.affine
    if affine is not None:
        affine = affine.copy()
        affine[:3, 3] += affine[:3, : len(start)] @ np.asarray(start, dtype=np.float64)
    return replace(volume, array=volume.array[(slice(None), *box)], affine=affine, pixel_sha256="")


def refine_classes(options: RefineOptions, table: LabelTable) -> tuple[tuple[int, ...], ...]:
    """Classes of each structure that the second pass must hold."""
    if options.labels == "all":
        return tuple((index,) for index in range(1, table.class_count))
    known = table.region_classes()
    unknown = [name for name in options.labels if name not in known]
    if unknown:
        raise ConfigError(f"inference.refine.labels names {unknown}; known: {', '.join(known)}")
    return tuple(known[name] for name in options.labels)


def main_components(label_map: NDArray[Any], structures: Sequence[Sequence[int]]) -> NDArray[np.bool_]:
    """Union of the largest component of each structure: stray specks must not move the frame.

    Parameters
    ----------
    label_map : (*target) integer array
        On the prepared grid.
    structures : sequence of sequence of int
        Classes of each.
    """
    mask = np.zeros(label_map.shape, dtype=np.bool_)
    for classes in structures:
        mask |= keep_largest_component(np.isin(label_map, classes))
    return mask


def source_voxels(mask: NDArray[np.bool_], grid: GridMap) -> float:
    """How many source voxels a mask on the target grid covers."""
    scale = np.prod([abs(factor) for _, factor, _ in grid.axis_maps()])
    return float(np.count_nonzero(mask) * scale)


def cut_out(
    mask: NDArray[np.bool_], grid: GridMap, *, margin: float
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """First source voxel and size of the box around a mask, widened by `margin` and kept in the source."""
    box = bounding_box(mask, (1,))
    if box is None:
        raise ValueError("the mask is empty")
    start, size = [0] * mask.ndim, [0] * mask.ndim
    for part, (axis, scale, offset) in zip(box, grid.axis_maps(), strict=True):
        low, high = sorted((scale * (part.start - 0.5) + offset, scale * (part.stop - 0.5) + offset))
        room = margin * (high - low)
        length = grid.source_shape[axis]
        first = min(max(int(np.floor(low - room + 0.5)), 0), length - 1)
        last = max(min(int(np.ceil(high + room + 0.5)), length), first + 1)
        start[axis], size[axis] = first, last - first
    return tuple(start), tuple(size)
