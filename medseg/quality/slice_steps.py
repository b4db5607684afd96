"""Steps from slice to slice: of a mask, where one was lost or moved, and of an image, where one is there twice."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medseg.quality.place import Box, MaskOf

_LEAST_AREA = 0.25
"""Slices smaller than this share of the largest are the tapering ends of a structure."""

_NEIGHBOURS = 3
_ISOTROPIC = 1.2


@dataclass(frozen=True, slots=True, kw_only=True)
class SliceStep:
    """The largest step of a mask.

    Parameters
    ----------
    value : float
        How much less two neighbouring slices overlap than those around them: 1 - Dice minus the median of 1 - Dice of
        three pairs on either side. 1 where slices are missing between others.
    axis, index : int
        Axis of the slices, and the first of the two slices; where some are missing, the last before them.
    missing : int
        Empty slices between filled ones.
    """

    value: float
    axis: int
    index: int
    missing: int = 0


def slice_axis(spacing_mm: Sequence[float] | None, dims: int) -> int:
    """Axis across the slices: the coarsest, and the last where they are much alike or not known."""
    if spacing_mm is None or max(spacing_mm) < _ISOTROPIC * min(spacing_mm):
        return dims - 1
    return int(np.argmax(spacing_mm))


def largest_step(box: Box, mask: MaskOf, axis: int) -> SliceStep | None:
    """Find the largest step of a structure, two slices in memory at a time.

    Parameters
    ----------
    box : sequence of (int, int)
        Of the structure, both ends inside.
    mask : callable
        Box of the image -> the structure there.
    axis : int
        Across the slices.

    Returns
    -------
    SliceStep, or None for a structure of fewer than three slices.
    """
    first, last = box[axis]
    if last - first < 2:
        return None
    areas, common = np.zeros(last - first + 1), np.zeros(last - first)
    before: NDArray[np.bool_] | None = None
    for index in range(first, last + 1):
        part = tuple(
            slice(index, index + 1) if a == axis else slice(s, e + 1) for a, (s, e) in enumerate(box)
        )
        plane = mask(part)
        areas[index - first] = np.count_nonzero(plane)
        if before is not None:
            common[index - first - 1] = np.count_nonzero(plane & before)
        before = plane
    empty = np.flatnonzero(areas == 0)
    if len(empty):
        return SliceStep(value=1.0, axis=axis, index=first + int(empty[0]) - 1, missing=len(empty))
    return _step(areas, common, axis, first)


def _step(areas: NDArray[np.float64], common: NDArray[np.float64], axis: int, first: int) -> SliceStep | None:
    change = 1.0 - 2.0 * common / (areas[1:] + areas[:-1])
    large = np.minimum(areas[1:], areas[:-1]) >= _LEAST_AREA * areas.max()
    best: SliceStep | None = None
    for index in np.flatnonzero(large).tolist():
        near = [
            other
            for other in range(max(0, index - _NEIGHBOURS), min(len(change), index + _NEIGHBOURS + 1))
            if other != index and large[other]
        ]
        if near:
            value = float(change[index] - np.median(change[near]))
            if best is None or value > best.value:
                best = SliceStep(value=value, axis=axis, index=first + index)
    return best


def doubled_slices(array: NDArray[Any], axis: int) -> tuple[int, ...]:
    """Slices that equal the next one, voxel for voxel; slices of one value (padding) do not count.

    Parameters
    ----------
    array : (C, I, J, K) array
        As read.
    axis : int
        Across the slices, 0 for i.

    Returns
    -------
    tuple of int
        First of each equal pair.
    """
    found = []
    planes = np.moveaxis(array, 1 + axis, 0)
    for index in range(len(planes) - 1):
        one, two = planes[index], planes[index + 1]
        # A look at every 16th row spares most full comparisons.
        if np.array_equal(one[:, ::16], two[:, ::16]) and np.array_equal(one, two) and one.min() != one.max():
            found.append(index)
    return tuple(found)
