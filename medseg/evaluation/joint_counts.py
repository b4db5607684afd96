"""Two label maps counted together in one pass: how many voxels hold each pair of values, and where."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medseg.errors import GeometryError, LabelError

_BLOCK_VOXELS = 1 << 22


@dataclass(frozen=True, slots=True, kw_only=True)
class JointCounts:
    """Voxels by (set index of the reference, class index of the prediction).

    Parameters
    ----------
    histogram : (S, L) int64 array
    first, last : (S, L, d) int64 array
        Lowest and highest index along each axis at which a pair occurs; the background of both (0, 0) is
        not looked for. Where a pair does not occur `first` is larger than `last`.
    """

    histogram: NDArray[np.int64]
    first: NDArray[np.int64]
    last: NDArray[np.int64]

    def box(self, pairs: NDArray[np.bool_]) -> tuple[slice, ...] | None:
        """Smallest box with every voxel of the pairs, an (S, L) choice without (0, 0); None where there is none."""
        chosen = pairs & (self.histogram > 0)
        if not chosen.any():
            return None
        low, high = self.first[chosen].min(axis=0), self.last[chosen].max(axis=0)
        return tuple(slice(int(a), int(b) + 1) for a, b in zip(low, high, strict=True))


def count_pairs(
    reference: NDArray[Any], prediction: NDArray[Any], *, set_count: int, class_count: int
) -> JointCounts:
    """Count the pairs of two label maps.

    Label maps hardly change from one voxel to the next, so runs of equal pairs are counted instead of
    voxels. Done in blocks: a large image needs no large temporary array.

    Parameters
    ----------
    reference, prediction : integer arrays of the same shape, two or three axes
        Set indices 0..S-1 and class indices 0..L-1.
    set_count, class_count : int
        S and L.

    Raises
    ------
    GeometryError
        The shapes differ.
    LabelError
        An index outside its range.
    """
    if reference.shape != prediction.shape:
        raise GeometryError(
            f"prediction and reference must share a grid, found {prediction.shape} and {reference.shape}"
        )
    _check_range("reference set index", reference, set_count)
    _check_range("predicted class index", prediction, class_count)
    count, dims = set_count * class_count, prediction.ndim
    histogram = np.zeros(count, dtype=np.int64)
    first = np.full((dims, count), np.iinfo(np.int64).max, dtype=np.int64)
    last = np.full((dims, count), -1, dtype=np.int64)
    turned = in_memory_order(prediction)
    for start, pairs in _blocks(
        reference.transpose(turned), prediction.transpose(turned), class_count, count
    ):
        begin, length, values = _runs(pairs)
        histogram += np.bincount(values, weights=length, minlength=count).astype(np.int64)
        shown = np.flatnonzero(values)
        begin, length, values = begin[shown], length[shown], values[shown].astype(np.intp)
        for axis, low, high in _extents(begin, length, pairs.shape, start):
            np.minimum.at(first[turned[axis]], values, low)
            np.maximum.at(last[turned[axis]], values, high)
    shape = (set_count, class_count)
    return JointCounts(
        histogram=histogram.reshape(shape),
        first=first.T.reshape(*shape, dims),
        last=last.T.reshape(*shape, dims),
    )


def joint_histogram(
    reference: NDArray[Any], prediction: NDArray[Any], *, set_count: int, class_count: int
) -> NDArray[np.int64]:
    """The (S, L) histogram of `count_pairs` alone, of arrays of any number of axes."""
    two = (np.atleast_2d(array) for array in (reference, prediction))
    return count_pairs(*two, set_count=set_count, class_count=class_count).histogram


def in_memory_order(array: NDArray[Any]) -> tuple[int, ...]:
    """Axes from the one with the largest stride to the one whose neighbours lie side by side."""
    return tuple(int(axis) for axis in np.argsort([-abs(stride) for stride in array.strides], kind="stable"))


def _check_range(what: str, array: NDArray[Any], count: int) -> None:
    if not np.issubdtype(array.dtype, np.integer):
        raise LabelError(f"{what} must be whole numbers, found an array of {array.dtype}")
    if array.size and (array.min() < 0 or array.max() >= count):
        raise LabelError(f"{what} must be 0..{count - 1}, found {array.min()}..{array.max()}")


def _blocks(
    reference: NDArray[Any], prediction: NDArray[Any], class_count: int, count: int
) -> Iterator[tuple[int, NDArray[Any]]]:
    """(first row, pair numbers of a block of rows), C-contiguous in the smallest type."""
    kind = np.min_scalar_type(count)
    rows = max(1, _BLOCK_VOXELS * len(reference) // max(1, reference.size))
    for start in range(0, len(reference) if reference.size else 0, rows):
        block = slice(start, start + rows)
        pairs = np.empty(reference[block].shape, dtype=kind)
        np.multiply(reference[block], class_count, out=pairs, dtype=kind, casting="unsafe")
        np.add(pairs, prediction[block], out=pairs, dtype=kind, casting="unsafe")
        yield start, pairs


def _runs(pairs: NDArray[Any]) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[Any]]:
    """Begin, length and value of the runs along the last axis; a run ends with its line."""
    flat = pairs.ravel()
    changes = np.empty(flat.size, dtype=np.bool_)
    np.not_equal(flat[1:], flat[:-1], out=changes[1:])
    changes[:: pairs.shape[-1]] = True
    begin = np.flatnonzero(changes)
    return begin, np.diff(begin, append=flat.size), flat[begin]


def _extents(
    begin: NDArray[np.intp], length: NDArray[np.intp], shape: tuple[int, ...], start: int
) -> Iterator[tuple[int, NDArray[np.int64], NDArray[np.int64]]]:
    """(axis, first index, last index) of each run along every axis of a block that begins at row `start`."""
    line, column = np.divmod(begin, shape[-1])
    yield len(shape) - 1, column, column + length - 1
    for axis in range(len(shape) - 2, 0, -1):
        line, place = np.divmod(line, shape[axis])
        yield axis, place, place
    yield 0, line + start, line + start
