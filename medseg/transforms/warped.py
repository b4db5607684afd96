"""Image and label at the places that a Warp names: one linear interpolation, and a vote for the label.

Only the box of source voxels that is needed is read, so that a patch of a large memory-mapped image costs
what the patch costs. The label is interpolated like the image, each set by itself, and the set with the
most weight wins; on voxels whose neighbours agree that is the neighbours' set, so only voxels at borders
are counted out. Plain NumPy in a fixed order: the same bits for any number of threads, and faster on one
thread than `torch.nn.functional.grid_sample` with its grid in three dimensions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medseg.transforms.random_geometry import Warp

Floats = NDArray[np.float32]
_SLAB = 1 << 15
_Borders = tuple[NDArray[np.intp], NDArray[np.intp], list[Floats]]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Box:
    """The part of the source that a warp needs; a rim of one voxel around the source may belong to it."""

    low: tuple[int, ...]
    size: tuple[int, ...]

    def offset(self, corner: Sequence[int]) -> int:
        """Position of a corner of a cell, (0 or 1, ...), relative to its first, in the flattened box."""
        return int(np.ravel_multi_index(tuple(corner), self.size))

    def read(self, array: NDArray[Any], fill: float) -> NDArray[Any]:
        """A contiguous copy; what lies outside of the array is `fill`."""
        inner, outer = [], []
        for first, extent, count in zip(self.low, self.size, array.shape, strict=True):
            start, stop = max(first, 0), min(first + extent, count)
            inner.append(slice(start, stop))
            outer.append(slice(start - first, stop - first))
        if all(part.stop - part.start == extent for part, extent in zip(inner, self.size, strict=True)):
            return np.array(array[tuple(inner)], order="C")
        box = np.full(self.size, fill, dtype=array.dtype)
        box[tuple(outer)] = array[tuple(inner)]
        return box


@dataclass(frozen=True, slots=True, kw_only=True)
class _Cells:
    """The cell of 2^d voxels of the box around each of the wanted places.

    Parameters
    ----------
    box : _Box
    base : int array that broadcasts to the places
        Position of each cell's first corner in the flattened box.
    fractions : list of d float32 arrays that broadcast to the places
        Place within the cell, 0 to 1, along each axis.
    """

    box: _Box
    base: NDArray[np.intp]
    fractions: list[Floats]


def warp_image_and_label(
    image: Floats, label: NDArray[np.int16], warp: Warp, *, minima: Floats, outside_set: int
) -> tuple[Floats, NDArray[np.int16]]:
    """What an augmented sample shows.

    Parameters
    ----------
    image : (C, *source) float32 array
        May be a memory map; only the box around the wanted places is read.
    label : (1, *source) int16 array
    warp : Warp
    minima : (C,) float32 array
        Value of the channels outside of the source, unless the warp repeats its rim.
    outside_set : int
        Label outside of the source.

    Returns
    -------
    ((C, *shape) float32 array, (1, *shape) int16 array)
        Between the outermost voxel and one step beyond it the image fades to its minimum.
    """
    box = _box(warp)
    channels = [box.read(channel, float(fill)) for channel, fill in zip(image, minima, strict=True)]
    sets = box.read(label[0], outside_set)
    low, mixed = _range_of_cells(sets)
    values = np.empty((len(channels), *warp.shape), dtype=np.float32)
    classes = np.empty((1, *warp.shape), dtype=np.int16)
    borders: list[_Borders] = []
    # Slabs keep the intermediate arrays in the processor's cache.
    step = max(1, _SLAB // int(np.prod(warp.shape[1:])))
    for start in range(0, warp.shape[0], step):
        rows = slice(start, min(start + step, warp.shape[0]))
        cells = _cells(warp, box, rows)
        for channel, out in zip(channels, values, strict=True):
            out[rows] = _interpolate(channel, cells)
        classes[0, rows] = np.take(low.reshape(-1), cells.base)
        borders.append(_at_borders(cells, mixed, rows, warp.shape))
    _vote(sets, borders, box, classes.reshape(-1))
    return values, classes


def _box(warp: Warp) -> _Box:
    rim = 0 if warp.repeat_border else 1
    low, size = [], []
    for (least, greatest), count in zip(warp.bounds(), warp.source_shape, strict=True):
        # At least two voxels, so that there is a cell even where all places are one.
        first = int(np.clip(np.floor(least), -rim, count - 1))
        last = int(np.clip(np.floor(greatest) + 1, first + 1, count))
        low.append(first)
        size.append(last - first + 1)
    return _Box(low=tuple(low), size=tuple(size))


def _cells(warp: Warp, box: _Box, rows: slice) -> _Cells:
    rim = 0 if warp.repeat_border else 1
    base: Any = 0
    fractions = []
    for place, count, first, extent in zip(
        warp.coordinates(rows), warp.source_shape, box.low, box.size, strict=True
    ):
        clipped = np.clip(place, np.float32(-rim), np.float32(count - 1 + rim))
        clipped -= np.float32(first)
        corner = np.minimum(clipped.astype(np.int32), np.int32(extent - 2))
        clipped -= corner.astype(np.float32)
        fractions.append(clipped)
        base = base * np.int32(extent) + corner
    return _Cells(box=box, base=base.astype(np.intp), fractions=fractions)


def _interpolate(box: Floats, cells: _Cells) -> Floats:
    """Linear interpolation of one channel, one axis after the other, the last axis first."""
    flat = box.reshape(-1)

    def between(corner: tuple[int, ...]) -> Floats:
        axis = len(corner)
        if axis == len(box.shape):
            return np.take(flat[cells.box.offset(corner) :], cells.base)
        below, above = between((*corner, 0)), between((*corner, 1))
        above -= below
        above *= cells.fractions[axis]
        above += below
        return above

    return between(())


def _at_borders(cells: _Cells, mixed: NDArray[np.bool_], rows: slice, shape: tuple[int, ...]) -> _Borders:
    """Of the cells of a slab those that hold several sets: place in the result, place in the box, fractions."""
    form = (rows.stop - rows.start, *shape[1:])

    def flat(array: NDArray[Any]) -> NDArray[Any]:
        return np.broadcast_to(array, form).reshape(-1)

    chosen = np.flatnonzero(flat(np.take(mixed.reshape(-1), cells.base)))
    before = rows.start * int(np.prod(shape[1:]))
    return chosen + before, flat(cells.base)[chosen], [flat(f)[chosen] for f in cells.fractions]


def _vote(sets: NDArray[np.int16], borders: list[_Borders], box: _Box, out: NDArray[np.int16]) -> None:
    """Write the set with the most weight among the eight (four) corners of each cell at a border."""
    places, base = (np.concatenate([part[n] for part in borders]) for n in (0, 1))
    if places.size == 0:
        return
    fractions = [np.concatenate(parts) for parts in zip(*(part[2] for part in borders), strict=True)]
    flat, found, weights = sets.reshape(-1), [], []
    for corner in product((0, 1), repeat=sets.ndim):
        sides = [f if side else np.float32(1) - f for side, f in zip(corner, fractions, strict=True)]
        weights.append(np.multiply.reduce(sides))
        found.append(np.take(flat[box.offset(corner) :], base))
    out[places] = _winners(found, weights)


def _range_of_cells(box: NDArray[np.int16]) -> tuple[NDArray[np.int16], NDArray[np.bool_]]:
    """Least set of the cell that starts at each voxel, and whether it holds others; the last start none."""
    low, high = box.copy(), box.copy()
    for axis in range(box.ndim):
        here = tuple(slice(0, -1) if a == axis else slice(None) for a in range(box.ndim))
        there = tuple(slice(1, None) if a == axis else slice(None) for a in range(box.ndim))
        np.minimum(low[here], low[there], out=low[here])
        np.maximum(high[here], high[there], out=high[here])
    return low, low != high


def _winners(found: list[NDArray[np.int16]], weights: list[Floats]) -> NDArray[np.int16]:
    """(n,) the set with the largest sum of weights at each of n voxels; of equal ones the lowest."""
    low, high = np.minimum.reduce(found), np.maximum.reduce(found)
    upper = np.zeros(len(low), dtype=np.float32)
    other = np.zeros(len(low), dtype=np.bool_)
    for sets, weight in zip(found, weights, strict=True):
        upper += np.where(sets == high, weight, np.float32(0))
        other |= (sets != low) & (sets != high)
    winner = np.asarray(np.where(upper > np.float32(0.5), high, low), dtype=np.int16)
    rows = np.flatnonzero(other)
    if rows.size:
        many, shares = np.stack(found, axis=1)[rows], np.stack(weights, axis=1)[rows]
        sums = ((many[:, :, None] == many[:, None, :]) * shares[:, None, :]).sum(axis=2)
        best = np.where(sums >= sums.max(axis=1, keepdims=True), many, np.iinfo(np.int16).max)
        winner[rows] = best.min(axis=1)
    return winner
