"""Where in an image something is wrong: a voxel, the point in the patient, a box for a picture. A slab at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medseg.components import components_of
from medseg.evaluation.shape import ObjectShape

Box = tuple[tuple[int, int], ...]
MaskOf = Callable[[tuple[slice, ...]], NDArray[np.bool_]]
"""Box of the image -> the mask there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where to look.

    Parameters
    ----------
    voxel : tuple of float
        Centroid, voxel indices of the image.
    mm : tuple of float or None
        The same in RAS+, mm; None where the image has no affine.
    box : tuple of (int, int)
        First and last index along each axis, both inside.
    """

    voxel: tuple[float, ...]
    mm: tuple[float, float, float] | None
    box: Box


def place_at(voxel: Sequence[float], box: Box, affine: NDArray[np.float64] | None) -> Place:
    """A place with its point in the patient."""
    mm = None
    if affine is not None:
        x, y, z = (float(v) for v in (affine @ [*voxel, *[0.0] * (3 - len(voxel)), 1.0])[:3])
        mm = (x, y, z)
    return Place(voxel=tuple(float(v) for v in voxel), mm=mm, box=box)


def place_of_shape(shape: ObjectShape, affine: NDArray[np.float64] | None) -> Place:
    """The place of a whole structure."""
    return place_at(shape.centroid, shape.box, affine)


def place_of_face(shape: ObjectShape, mask: MaskOf, affine: NDArray[np.float64] | None) -> Place:
    """Where a structure meets the first face of the image that it touches."""
    axis, end = "ijk".index(shape.touches[0][0]), shape.touches[0].endswith("last")
    box = list(shape.box)
    box[axis] = (box[axis][end],) * 2
    return place_of_mask(tuple(box), mask, affine)


def place_of_mask(box: Box, mask: MaskOf, affine: NDArray[np.float64] | None) -> Place:
    """The place of what a mask has inside a box; that of the box where it has nothing."""
    sums = [np.zeros(last - first + 1, np.int64) for first, last in box]
    first, last = box[0]
    rest = tuple(slice(a, b + 1) for a, b in box[1:])
    for row in range(first, last + 1):
        plane = mask((slice(row, row + 1), *rest))
        for axis, profile in enumerate(sums):
            others = tuple(a for a in range(plane.ndim) if a != axis)
            part = plane.sum(axis=others, dtype=np.int64)
            profile[row - first if axis == 0 else slice(None)] += part[0] if axis == 0 else part
    if not sums[0].any():
        return place_at([(a + b) / 2 for a, b in box], box, affine)
    centre, tight = [], []
    for profile, (start, _) in zip(sums, box, strict=True):
        filled = np.flatnonzero(profile)
        tight.append((start + int(filled[0]), start + int(filled[-1])))
        centre.append(start + float((profile * np.arange(len(profile))).sum() / profile.sum()))
    return place_at(centre, tuple(tight), affine)


def place_of_stray(shape: ObjectShape, mask: MaskOf, affine: NDArray[np.float64] | None) -> Place | None:
    """The second largest part of a structure; None where there is one part."""
    return _component(shape.box, mask, affine, second=True)


def place_of_hole(shape: ObjectShape, mask: MaskOf, affine: NDArray[np.float64] | None) -> Place | None:
    """The largest closed hole of a structure; None where there is none."""
    return _component(shape.box, lambda part: ~mask(part), affine, second=False)


def _component(box: Box, mask: MaskOf, affine: NDArray[np.float64] | None, *, second: bool) -> Place | None:
    """The second largest component in a box, or the largest that does not reach its rim."""
    rest = tuple(slice(a, b + 1) for a, b in box[1:])
    start, shape = box[0][0], tuple(b - a + 1 for a, b in box)

    def rows_of(rows: slice) -> NDArray[np.bool_]:
        return mask((slice(start + rows.start, start + rows.stop), *rest))

    found = components_of(rows_of, shape, faces_only=True)
    sizes = found.sizes.copy()
    if second:
        sizes[found.largest()] = 0
    else:
        sizes[found.at_rim] = 0
    number = int(np.argmax(sizes))
    if sizes[number] == 0:
        return None
    total, corner, counted = np.zeros(len(box)), [np.array(shape), np.zeros(len(box), np.int64)], 0
    for rows, numbers in found.slabs():
        inside = np.argwhere(numbers == number)
        if len(inside):
            inside[:, 0] += rows.start
            total += inside.sum(axis=0)
            counted += len(inside)
            corner = [np.minimum(corner[0], inside.min(axis=0)), np.maximum(corner[1], inside.max(axis=0))]
    origin = np.array([a for a, _ in box])
    low, high = corner[0] + origin, corner[1] + origin
    tight = tuple((int(a), int(b)) for a, b in zip(low, high, strict=True))
    return place_at((total / counted + origin).tolist(), tight, affine)
