"""Connected components of a mask, a slab at a time: numbers for whole volumes without an array of numbers.

Slabs are labelled by SciPy and joined across their borders. Only the last plane of a slab is kept, so that a volume
of any depth takes a few megabytes beside its mask; whoever needs the number of each voxel
goes through the slabs once more.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

SLAB_VOXELS = 1 << 22
"""About so many voxels are looked at together."""

Mask = Callable[[slice], NDArray[np.bool_]]
"""Rows of the first axis -> the mask there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Components:
    """Components of a mask, numbered from 1 in the order in which they are met; 0 is what is not in the mask.

    Parameters
    ----------
    sizes : (count + 1,) int64 array
        Voxels of each; entry 0 is 0.
    at_rim : (count + 1,) bool array
        Whether any voxel of it lies at the rim of the array.
    """

    sizes: NDArray[np.int64]
    at_rim: NDArray[np.bool_]
    _mask: Mask
    _rows: tuple[slice, ...]
    _structure: NDArray[np.bool_]
    _final: NDArray[np.int64]
    _only: NDArray[np.int32] | None

    @property
    def count(self) -> int:
        """Number of components."""
        return len(self.sizes) - 1

    def largest(self, count: int = 1) -> NDArray[np.bool_]:
        """(count + 1,) whether a component is one of the `count` largest; of two of one size the one met first."""
        keep = np.zeros(len(self.sizes), dtype=np.bool_)
        keep[1:][np.argsort(-self.sizes[1:], kind="stable")[:count]] = True
        return keep

    def slabs(self) -> Iterator[tuple[slice, NDArray[np.int64]]]:
        """Rows of the first axis, and the number of the component of each voxel there."""
        before = 0
        for rows in self._rows:
            if self._only is not None:
                yield rows, self._final[self._only]
                return
            numbers, count = ndimage.label(self._mask(rows), structure=self._structure)
            table = np.concatenate([[0], self._final[before + 1 : before + count + 1]])
            before += count
            yield rows, table[numbers]


def components_of(mask: Mask, shape: tuple[int, ...], *, faces_only: bool = False) -> Components:
    """Find the components of a mask.

    Parameters
    ----------
    mask : callable
        Rows of the first axis -> bool array; asked twice for each, and always alike.
    shape : tuple of int
        Of the whole mask.
    faces_only : bool, optional
        Voxels are neighbours across faces; by default across edges and corners too.
    """
    structure = np.asarray(ndimage.generate_binary_structure(len(shape), 1 if faces_only else len(shape)))
    layer = max(1, int(np.prod(shape[1:])))
    step = max(1, SLAB_VOXELS // layer)
    rows = tuple(slice(start, min(shape[0], start + step)) for start in range(0, shape[0], step))
    joined, sizes, rims = _Joined(), [np.zeros(1, np.int64)], [np.zeros(1, np.bool_)]
    last: NDArray[np.int64] | None = None
    only: NDArray[np.int32] | None = None
    before = 0
    for part in rows:
        numbers, count = ndimage.label(mask(part), structure=structure)
        sizes.append(np.bincount(numbers.ravel(), minlength=count + 1)[1:])
        rims.append(_at_rim(numbers, count, first=part.start == 0, last=part.stop == shape[0])[1:])
        if last is not None:
            joined.join(_touching(last, _raised(numbers[0], before), structure))
        last = _raised(numbers[-1], before)
        before += count
        only = numbers if len(rows) == 1 else None
    final = joined.numbers(before)
    count = int(final.max(initial=0))
    return Components(
        sizes=np.bincount(final, weights=np.concatenate(sizes), minlength=count + 1).astype(np.int64),
        at_rim=np.bincount(final, weights=np.concatenate(rims), minlength=count + 1) > 0,
        _mask=mask,
        _rows=rows,
        _structure=structure,
        _final=final,
        _only=only,
    )


def components_of_array(mask: NDArray[np.bool_], *, faces_only: bool = False) -> Components:
    """Find the components of a mask that is there."""
    return components_of(lambda rows: mask[rows], mask.shape, faces_only=faces_only)


def _raised(plane: NDArray[Any], before: int) -> NDArray[np.int64]:
    """Numbers of a plane that follow those of the slabs before."""
    return np.where(plane > 0, plane.astype(np.int64) + before, 0)


def _at_rim(numbers: NDArray[Any], count: int, *, first: bool, last: bool) -> NDArray[np.bool_]:
    """(count + 1,) which components touch the rim of the whole array."""
    found = np.zeros(count + 1, dtype=np.bool_)
    for axis in range(numbers.ndim):
        for end, is_rim in ((0, first or axis > 0), (-1, last or axis > 0)):
            if is_rim:
                found[np.unique(numbers.take(end, axis))] = True
    return found


def _touching(
    above: NDArray[np.int64], below: NDArray[np.int64], structure: NDArray[np.bool_]
) -> NDArray[np.int64]:
    """(pairs, 2) numbers of components of neighbouring planes that touch."""
    pairs = []
    across = structure[2]
    for offset in itertools.product(*(range(-1, 2) for _ in above.shape)):
        if not across[tuple(o + 1 for o in offset)]:
            continue
        one = above[tuple(slice(max(o, 0), n + min(o, 0)) for o, n in zip(offset, above.shape, strict=True))]
        two = below[
            tuple(slice(max(-o, 0), n + min(-o, 0)) for o, n in zip(offset, above.shape, strict=True))
        ]
        both = (one > 0) & (two > 0)
        pairs.append(np.stack([one[both], two[both]], axis=1))
    return np.unique(np.concatenate(pairs), axis=0)


class _Joined:
    """Which numbers mean the same component (union-find; the least number stands for all)."""

    def __init__(self) -> None:
        self._parent: dict[int, int] = {}

    def join(self, pairs: NDArray[np.int64]) -> None:
        for one, two in pairs.tolist():
            first, second = sorted((self._root(one), self._root(two)))
            if first != second:
                self._parent[second] = first

    def _root(self, number: int) -> int:
        while number in self._parent:
            above = self._parent[number]
            if above in self._parent:
                self._parent[number] = self._parent[above]
            number = above
        return number

    def numbers(self, count: int) -> NDArray[np.int64]:
        """(count + 1,) final number of each provisional one, without gaps and in their order."""
        roots = np.arange(count + 1)
        for number in self._parent:
            roots[number] = self._root(number)
        return np.asarray(np.unique(roots, return_inverse=True)[1], dtype=np.int64)
