"""Images whose values are made when they are read: a chain of steps over an array, any box of it at a time.

A box that is read is what the same box of the whole result would be, bit for bit, so that a network which is shown
windows needs no prepared copy of a large image.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from medseg.geometry import GridMap
from medseg.transforms.regrid import coordinates, covered_range, linear_weights, weigh_axis
from medseg.transforms.spline import nearest_places, spline_weights

Box = tuple[slice, ...]
Kind = Literal["linear", "cubic", "nearest"]
"""How an axis is interpolated: linear smooths where voxels become larger; the others keep the outer edges."""
_SLAB_VOXELS = 1 << 22
_HISTOGRAM_BINS = 1 << 16


class ImageView(Protocol):
    """(C, *shape) float32 image that can be read in boxes."""

    @property
    def channels(self) -> int:
        """C."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Voxels along each axis."""

    @property
    def slow_axis(self) -> int:
        """Axis along which neighbouring slices lie one after the other in memory."""

    @property
    def behind(self) -> float:
        """Values of the array at the bottom that one value is made of, 1 or more."""

    def read(self, box: Box) -> NDArray[np.float32]:
        """(C, *box) values; slices have a start and a stop, no step."""


class ArrayView:
    """An array that is there.

    Parameters
    ----------
    array : (C, *shape) array
        Of any number type.
    """

    def __init__(self, array: NDArray[Any]) -> None:
        self.array = array
        self.channels = int(array.shape[0])
        self.shape = tuple(int(n) for n in array.shape[1:])
        self.slow_axis = int(np.argmax(np.abs(array.strides[1:])))
        self.behind = 1.0

    def read(self, box: Box) -> NDArray[np.float32]:
        """A view of the array where that is float32."""
        return np.asarray(self.array[(slice(None), *box)], dtype=np.float32)


class GridView:
    """An image on another grid, exactly where voxels fall on voxels, else interpolated as `regrid` does.

    Parameters
    ----------
    base : ImageView
    grid : GridMap
        From the grid of `base`.
    outside : (C,) float array, optional
        Value of voxels whose centre lies outside of `base`; by default the minimum of each channel.
    kinds : sequence of {"linear", "cubic", "nearest"}, optional
        How each axis of the result is interpolated; linear unless given. Splines overshoot, so with them values
        are cut off at the range of `base`, or at that of each of its slices where an axis is nearest.
    """

    def __init__(
        self,
        base: ImageView,
        grid: GridMap,
        *,
        outside: NDArray[np.float32] | None = None,
        kinds: Sequence[Kind] | None = None,
    ) -> None:
        self._base, self._grid, self._given = base, grid, outside
        self.channels, self.shape = base.channels, grid.target_shape
        maps = grid.axis_maps()
        self._sources = tuple(source for source, _, _ in maps)
        self.slow_axis = self._sources.index(base.slow_axis)
        self.behind = base.behind * math.prod(max(1.0, abs(scale)) for _, scale, _ in maps)
        plain: list[Kind] = ["linear"] * len(maps)
        self._kinds: tuple[Kind, ...] = tuple(plain if kinds is None else kinds)
        self._axes = tuple(
            _AxisView(count, scale, offset, base.shape[source], kind)
            for count, (source, scale, offset), kind in zip(grid.target_shape, maps, self._kinds, strict=True)
        )

    @cached_property
    def _outside(self) -> NDArray[np.float32]:
        return channel_minima(self._base) if self._given is None else self._given

    def read(self, box: Box) -> NDArray[np.float32]:
        """Interpolated from the part of the base that matters."""
        parts = [axis.part(s.start, s.stop) for axis, s in zip(self._axes, box, strict=True)]
        size = tuple(s.stop - s.start for s in box)
        if any(part is None for part in parts):
            return self._filled(size)
        found = [part for part in parts if part is not None]
        source: list[slice] = [slice(0)] * len(found)
        for axis, part in zip(self._sources, found, strict=True):
            source[axis] = slice(part.low, part.high)
        values: NDArray[Any] = self._base.read(tuple(source)).transpose(
            0, *(1 + axis for axis in self._sources)
        )
        for number in self._order(found):
            values = _along(values, found[number], 1 + number)
        if any(axis.bent for axis in self._axes):
            values = self._cut_off(values.astype(np.float32), box)
        if values.shape[1:] == size:
            return values
        result = self._filled(size)
        result[(slice(None), *(slice(p.start, p.stop) for p in found))] = values
        return result

    def _cut_off(self, values: NDArray[np.float32], box: Box) -> NDArray[np.float32]:
        """Values without what splines overshoot; changed in place."""
        low, high = self._range
        if "nearest" in self._kinds:
            axis = self._kinds.index("nearest")
            rows = nearest_places(low.shape[1], self.shape[axis])[box[axis]]
            low, high = low[:, rows], high[:, rows]
            beside = tuple(1 + a for a in range(len(box)) if a != axis)
        else:
            beside = tuple(2 + a for a in range(len(box) - 1))
        np.clip(values, np.expand_dims(low, beside), np.expand_dims(high, beside), out=values)
        return values

    @cached_property
    def _range(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """(C, slices) least and largest value of each slice of the base along the nearest axis; (C, 1) without one."""
        if "nearest" not in self._kinds:
            return channel_minima(self._base)[:, None], channel_maxima(self._base)[:, None]
        return slice_ranges(self._base, self._sources[self._kinds.index("nearest")])

    def _filled(self, size: tuple[int, ...]) -> NDArray[np.float32]:
        result = np.empty((self.channels, *size), dtype=np.float32)
        result[:] = self._outside.reshape(-1, *[1] * len(size))
        return result

    def _order(self, parts: Sequence[_Part]) -> list[int]:
        """Axes that only pick voxels first, then those that shrink, then those that grow; the same for every box."""
        rank = {number: axis.rank for number, axis in enumerate(self._axes)}
        return sorted(range(len(parts)), key=lambda number: (rank[number], number))


class _Part:
    """What a box needs of one axis: columns `low` to `high` of the base give rows `start` to `stop` of the box."""

    def __init__(
        self, start: int, stop: int, low: int, high: int, pick: slice | NDArray[np.int64] | None, weights: Any
    ) -> None:
        self.start, self.stop, self.low, self.high, self.pick, self.weights = (
            start,
            stop,
            low,
            high,
            pick,
            weights,
        )


class _AxisView:
    """One axis of a grid view."""

    def __init__(self, count: int, scale: float, offset: float, length: int, kind: Kind) -> None:
        positions = coordinates(count, scale, offset)
        self._first, self._last = covered_range(positions, length)
        inner = positions[self._first : self._last]
        self._places: NDArray[np.int64] | None = None
        self._weights: Any = None
        self._jumps, self.bent = False, False
        if abs(scale) == 1 and (inner == np.round(inner)).all():
            self._places = inner.astype(np.int64)
        elif kind == "nearest":
            self._places, self._jumps = nearest_places(length, count), True
        elif kind == "cubic":
            self._weights, self.bent = spline_weights(length, count), True
        else:
            self._weights = linear_weights(inner, length, scale)
        self.rank = 0 if self._places is not None else 2 if len(inner) > length else 1

    def part(self, begin: int, end: int) -> _Part | None:
        """Of rows `begin` to `end`; None where all of them lie outside."""
        start, stop = max(begin, self._first), min(end, self._last)
        if start >= stop:
            return None
        rows = slice(start - self._first, stop - self._first)
        if self._places is not None:
            places = self._places[rows]
            low, high = int(places.min()), int(places.max()) + 1
            if self._jumps:
                return _Part(start - begin, stop - begin, low, high, places - low, None)
            backwards = len(places) > 1 and places[0] > places[-1]
            return _Part(
                start - begin, stop - begin, low, high, slice(None, None, -1 if backwards else 1), None
            )
        lines = self._weights[rows]
        low, high = int(lines.indices.min()), int(lines.indices.max()) + 1
        return _Part(start - begin, stop - begin, low, high, None, lines[:, low:high])


def _along(values: NDArray[Any], part: _Part, axis: int) -> NDArray[Any]:
    if part.pick is not None:
        return values[(slice(None),) * axis + (part.pick,)]
    return weigh_axis(values, part.weights, axis)


class ValueView:
    """An image whose values are changed one by one.

    Parameters
    ----------
    base : ImageView
    change : callable
        (C, ...) float32 array -> (C', ...) float32 array, voxel by voxel.
    channels : int, optional
        C', where the change alters it.
    """

    def __init__(
        self,
        base: ImageView,
        change: Callable[[NDArray[np.float32]], NDArray[np.float32]],
        *,
        channels: int | None = None,
    ) -> None:
        self._base, self.change = base, change
        self.channels = base.channels if channels is None else channels
        self.shape, self.slow_axis = base.shape, base.slow_axis
        self.behind = base.behind * max(1.0, base.channels / self.channels)

    def read(self, box: Box) -> NDArray[np.float32]:
        """Read the base and change it."""
        return self.change(self._base.read(box))


class ChannelsView:
    """Some channels of an image, in the order that is given."""

    def __init__(self, base: ImageView, channels: Sequence[int]) -> None:
        self._base, self._channels = base, list(channels)
        self.channels, self.shape, self.slow_axis = len(self._channels), base.shape, base.slow_axis
        self.behind = base.behind * max(1.0, base.channels / self.channels)

    def read(self, box: Box) -> NDArray[np.float32]:
        """Read all, keep some."""
        return self._base.read(box)[self._channels]


class MaskedView:
    """An image of which some channels are standardised within a mask, and stay what they are beyond it.

    Parameters
    ----------
    base : ImageView
    mask : (*shape) boolean array
    numbers : mapping of int to (float, float)
        Channel -> mean and standard deviation.
    """

    def __init__(
        self, base: ImageView, mask: NDArray[np.bool_], numbers: Mapping[int, tuple[float, float]]
    ) -> None:
        self._base, self._mask, self._numbers = base, mask, dict(numbers)
        self.channels, self.shape, self.slow_axis = base.channels, base.shape, base.slow_axis
        self.behind = base.behind

    def read(self, box: Box) -> NDArray[np.float32]:
        """Read the base and change what lies in the mask."""
        part, mask = self._base.read(box).copy(), self._mask[box]
        for channel, (mean, deviation) in self._numbers.items():
            values = (part[channel] - np.float32(mean)) / np.float32(deviation)
            np.copyto(part[channel], values, where=mask)
        return part


def whole(view: ImageView) -> NDArray[np.float32]:
    """All of an image."""
    return view.read(tuple(slice(0, n) for n in view.shape))


def slabs(view: ImageView) -> Iterator[NDArray[np.float32]]:
    """All of an image in parts that are made of a few million values each, in the order that suits its memory."""
    return (view.read(box) for box in slab_boxes(view))


def slab_boxes(view: ImageView) -> Iterator[Box]:
    """Where the parts lie that `slabs` gives."""
    axis = view.slow_axis
    layer = int(np.prod([n for a, n in enumerate(view.shape) if a != axis])) * view.channels
    rows = max(1, int(_SLAB_VOXELS / max(1.0, layer * view.behind)))
    for start in range(0, view.shape[axis], rows):
        box = [slice(0, n) for n in view.shape]
        box[axis] = slice(start, min(view.shape[axis], start + rows))
        yield tuple(box)


def slice_ranges(view: ImageView, axis: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """(C, slices) least and (C, slices) largest value of each slice along an axis."""
    low = np.full((view.channels, view.shape[axis]), np.inf, dtype=np.float32)
    high = -low
    beside = tuple(1 + a for a in range(len(view.shape)) if a != axis)
    for box in slab_boxes(view):
        slab, rows = view.read(box), (slice(None), box[axis])
        low[rows] = np.minimum(low[rows], slab.min(axis=beside))
        high[rows] = np.maximum(high[rows], slab.max(axis=beside))
    return low, high


def channel_minima(view: ImageView) -> NDArray[np.float32]:
    """(C,) minimum of each channel."""
    found = [slab.reshape(len(slab), -1).min(axis=1) for slab in slabs(view)]
    return np.asarray(np.min(found, axis=0), dtype=np.float32)


def channel_maxima(view: ImageView) -> NDArray[np.float32]:
    """(C,) maximum of each channel."""
    found = [slab.reshape(len(slab), -1).max(axis=1) for slab in slabs(view)]
    return np.asarray(np.max(found, axis=0), dtype=np.float32)


def mean_and_deviation(
    view: ImageView, *, above: float | None = None, mask: NDArray[np.bool_] | None = None
) -> list[tuple[int, float, float]]:
    """(voxels, mean, standard deviation) of each channel, of the values above a threshold or in a mask if one is given.

    In float64 and in two rounds, so that a large mean costs no digits.
    """

    def values() -> Iterator[tuple[int, NDArray[np.float32]]]:
        for box in slab_boxes(view):
            for index, channel in enumerate(view.read(box)):
                if mask is not None:
                    yield index, channel[mask[box]]
                else:
                    yield index, channel if above is None else channel[channel > above]

    counts, sums = np.zeros(view.channels), np.zeros(view.channels)
    for index, chosen in values():
        counts[index] += chosen.size
        sums[index] += chosen.sum(dtype=np.float64)
    means = sums / np.maximum(counts, 1)
    squares = np.zeros(view.channels)
    for index, chosen in values():
        squares[index] += np.square(chosen - means[index], dtype=np.float64).sum()
    deviations = np.sqrt(squares / np.maximum(counts, 1))
    return [(int(n), float(m), float(s)) for n, m, s in zip(counts, means, deviations, strict=True)]


def percentiles(view: ImageView, ends: Sequence[float]) -> NDArray[np.float64]:
    """(C, ends) percentiles of each channel, as ``np.percentile`` gives them for the whole channel."""
    low, high = channel_minima(view), channel_maxima(view)
    count = int(np.prod(view.shape))
    found = np.empty((view.channels, len(ends)))
    ranks = [(count - 1) * end / 100 for end in ends]
    wanted = sorted({int(n) for rank in ranks for n in (np.floor(rank), np.ceil(rank))})
    for index in range(view.channels):
        values = _ordered(view, index, wanted, float(low[index]), float(high[index]))
        for place, rank in enumerate(ranks):
            first, second = values[int(np.floor(rank))], values[int(np.ceil(rank))]
            found[index, place] = first + (second - first) * (rank - np.floor(rank))
    return found


def _ordered(view: ImageView, index: int, ranks: Sequence[int], low: float, high: float) -> dict[int, float]:
    """Values of one channel by their rank from the lowest, 0: a histogram, then the values of the bins that matter."""
    if not low < high:
        return dict.fromkeys(ranks, low)
    boxes = list(slab_boxes(view))
    if len(boxes) == 1:
        values = view.read(boxes[0])
        found = np.partition(values[index].ravel(), ranks)
        return {rank: float(found[rank]) for rank in ranks}
    edges = np.linspace(low, high, _HISTOGRAM_BINS + 1)[1:-1].astype(np.float32)
    counts = np.zeros(_HISTOGRAM_BINS, np.int64)
    for slab in slabs(view):
        counts += np.bincount(
            np.searchsorted(edges, slab[index].ravel(), side="right"), minlength=_HISTOGRAM_BINS
        )
    before = np.concatenate([[0], np.cumsum(counts)])
    bins = {rank: int(np.searchsorted(before, rank, side="right")) - 1 for rank in ranks}
    kept: dict[int, list[NDArray[np.float32]]] = {number: [] for number in bins.values()}
    for slab in slabs(view):
        places = np.searchsorted(edges, slab[index].ravel(), side="right")
        for number, parts in kept.items():
            parts.append(slab[index].ravel()[places == number])
    ordered = {number: np.sort(np.concatenate(parts)) for number, parts in kept.items()}
    return {rank: float(ordered[number][rank - before[number]]) for rank, number in bins.items()}
