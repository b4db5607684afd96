"""Which voxel centres lie inside polygons: even-odd filling of many slices at once, in index space.

A centre on an outline belongs to the polygon where the outline is at its left or upper side (smaller
i or j), so that polygons side by side share no voxel and leave none out. Polygons along the edges of
voxels have no such centres and are filled exactly.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_CROSSINGS_AT_ONCE = 1 << 22
_EQUAL = 6  # decimals of a voxel

Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class SlicePolygons:
    """Closed polygons, each in one slice.

    Parameters
    ----------
    points : (N, 2) float64 array
        Voxel indices (i, j), polygon after polygon; the last point of each leads back to its first.
    starts : (P + 1,) int64 array
        Polygon p is ``points[starts[p]:starts[p + 1]]``.
    slices : (P,) int64 array
        Index k of the slice of each polygon.
    """

    points: NDArray[np.float64]
    starts: Ints
    slices: Ints

    def __len__(self) -> int:
        return len(self.slices)

    def __getitem__(self, p: int) -> NDArray[np.float64]:
        return self.points[self.starts[p] : self.starts[p + 1]]

    def take(self, which: Ints) -> SlicePolygons:
        """Some of the polygons, in the order given."""
        sizes = np.diff(self.starts)[which]
        starts = np.concatenate([[0], np.cumsum(sizes)])
        index = np.arange(starts[-1]) + np.repeat(self.starts[which] - starts[:-1], sizes)
        return SlicePolygons(points=self.points[index], starts=starts, slices=self.slices[which])


@dataclass(frozen=True, slots=True, kw_only=True)
class FilledBox:
    """The part of a grid that may hold voxels of a mask, and the mask in it; all else is outside."""

    first: tuple[int, int, int]
    mask: NDArray[np.bool_]

    @property
    def slices(self) -> tuple[slice, slice, slice]:
        """Index of the box in an array (I, J, K)."""
        i, j, k = (slice(a, a + n) for a, n in zip(self.first, self.mask.shape, strict=True))
        return i, j, k


@dataclass(frozen=True, slots=True, kw_only=True)
class _Crossings:
    """Where outlines cross rows: the first column whose centre is not before the crossing."""

    polygon: Ints
    k: Ints
    row: Ints
    column: Ints


def count_crossings(polygons: SlicePolygons, shape: tuple[int, int, int]) -> Ints:
    """(K,) number of times that outlines cross rows of voxel centres, by slice."""
    edges = _Edges(polygons, shape)
    polygon = np.repeat(np.arange(len(polygons)), np.diff(polygons.starts))
    counts = np.bincount(polygons.slices[polygon], weights=edges.rows, minlength=shape[2])
    return counts.astype(np.int64)


def fill_polygons(polygons: SlicePolygons, shape: tuple[int, int, int]) -> FilledBox:
    """Voxels whose centre lies in an odd number of polygons of its slice.

    Parameters
    ----------
    polygons : SlicePolygons
        Slices in 0..K-1; points may lie outside the grid.
    shape : (I, J, K)

    Returns
    -------
    FilledBox
        Its mask is in Fortran order, like the volumes of a series.
    """
    if not len(polygons):
        return FilledBox(first=(0, 0, 0), mask=np.zeros((0, 0, 0), dtype=np.bool_))
    low = np.clip(np.floor(polygons.points.min(axis=0)), 0, shape[:2]).astype(np.int64)
    high = np.clip(np.ceil(polygons.points.max(axis=0)) + 1, low, shape[:2]).astype(np.int64)
    first, last = int(polygons.slices.min()), int(polygons.slices.max())
    # One column more, where rows end that reach the right side of the box.
    box = (last + 1 - first, int(high[1] - low[1]), int(high[0] - low[0]) + 1)
    toggles = np.zeros(box, dtype=np.uint8)
    for found in _crossings(polygons, shape):
        column = np.clip(found.column, low[0], high[0]) - low[0]
        place = ((found.k - first) * box[1] + found.row - low[1]) * box[2] + column
        np.add.at(toggles.reshape(-1), place, np.uint8(1))
    inside = np.add.accumulate(toggles, axis=2, dtype=np.uint8, out=toggles)[:, :, :-1] & 1
    return FilledBox(first=(int(low[0]), int(low[1]), first), mask=inside.view(np.bool_).transpose(2, 1, 0))


def slices_with_partial_overlap(polygons: SlicePolygons, shape: tuple[int, int, int]) -> Ints:
    """Slices in which two polygons share voxels without one holding the other: even-odd leaves them out."""
    several = np.bincount(polygons.slices, minlength=shape[2]) > 1
    some = polygons.take(np.flatnonzero(several[polygons.slices]))
    found = [_partly(crossings) for crossings in _crossings(some, shape)]
    return np.unique(np.concatenate([np.zeros(0, np.int64), *found]))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Intervals:
    """Runs of columns start..end-1 that one polygon covers in a row, none of them empty or touching another."""

    polygon: Ints
    k: Ints
    row: Ints
    start: Ints
    end: Ints

    @classmethod
    def of(cls, found: _Crossings) -> _Intervals:
        order = np.lexsort((found.column, found.polygon, found.row))
        places = np.stack([found.row[order], found.polygon[order], found.column[order]])
        first = np.flatnonzero(np.diff(places, prepend=-1).any(axis=0))
        # Two crossings at one place undo each other: no empty runs, and none that only touch the next.
        times = np.diff(first, append=len(order))
        order = order[first[times % 2 == 1]]
        starts = order[::2]
        return cls(
            polygon=found.polygon[starts],
            k=found.k[starts],
            row=found.row[starts],
            start=found.column[starts],
            end=found.column[order[1::2]],
        )


def _partly(found: _Crossings) -> Ints:
    """Slices whose polygons are not nested like brackets, in every row in the same way."""
    runs = _Intervals.of(found)
    count = len(runs.row)
    size = np.bincount(runs.polygon, weights=runs.end - runs.start)[runs.polygon]
    rank = np.empty(count, dtype=np.int64)
    rank[np.lexsort((runs.polygon, -size))] = np.arange(count)
    # At one place runs close before others open, the inner ones first; the outer ones open first.
    keys = (
        np.concatenate([rank, -rank]),
        np.concatenate([-runs.end, -runs.start]),
        np.repeat([1, 0], count),
        np.concatenate([runs.start, runs.end]),
        np.tile(runs.row, 2),
        np.tile(runs.k, 2),
    )
    order = np.lexsort(keys)
    place = np.empty(2 * count, dtype=np.int64)
    place[order] = np.arange(2 * count)
    depth = np.cumsum(np.where(order < count, 1, -1))[place]
    # Brackets of two polygons that cross: a run does not close at the depth at which it opened.
    crossed = depth[:count] != depth[count:] + 1
    holder = _holder(runs, depth[:count], place[:count])
    by_polygon = np.lexsort((holder, runs.polygon))
    polygon, holder = runs.polygon[by_polygon], holder[by_polygon]
    changed = (polygon[1:] == polygon[:-1]) & (holder[1:] != holder[:-1])
    return np.unique(np.concatenate([runs.k[crossed], runs.k[by_polygon][1:][changed]]))


def _holder(runs: _Intervals, depth: Ints, place: Ints) -> Ints:
    """Polygon of the innermost run round each run, -1 where there is none: the last to open one level up."""
    stride = 2 * len(place) + 1
    opened = np.argsort(depth * stride + place)
    keys = (depth * stride + place)[opened]
    before = np.searchsorted(keys, (depth - 1) * stride + place) - 1
    return np.where(depth > 1, runs.polygon[opened[before]], -1)


class _Edges:
    """Edges of polygons, and which rows of centres each one crosses inside the grid."""

    def __init__(self, polygons: SlicePolygons, shape: tuple[int, int, int]) -> None:
        self.start = polygons.points
        following = np.arange(1, len(self.start) + 1)
        following[polygons.starts[1:] - 1] = polygons.starts[:-1]
        self.end = self.start[following]
        rows = np.clip(np.ceil(np.sort([self.start[:, 1], self.end[:, 1]], axis=0)), 0, shape[1])
        self.first_row = rows[0].astype(np.int64)
        self.rows = rows[1].astype(np.int64) - self.first_row


def _crossings(polygons: SlicePolygons, shape: tuple[int, int, int]) -> Iterator[_Crossings]:
    """Crossings of whole slices, about four million at a time."""
    by_slice = polygons.take(np.argsort(polygons.slices, kind="stable"))
    if not len(by_slice):
        return
    per_polygon = np.add.reduceat(_Edges(by_slice, shape).rows, by_slice.starts[:-1])
    begins = 0
    while begins < len(by_slice):
        total = np.cumsum(per_polygon[begins:])
        ends = begins + max(1, int(np.searchsorted(total, _CROSSINGS_AT_ONCE, side="right")))
        last = by_slice.slices[ends - 1]
        ends = int(np.searchsorted(by_slice.slices, last, side="right"))
        yield _cross(by_slice.take(np.arange(begins, ends)), shape)
        begins = ends


def _cross(polygons: SlicePolygons, shape: tuple[int, int, int]) -> _Crossings:
    edges = _Edges(polygons, shape)
    edge = np.repeat(np.arange(len(edges.rows)), edges.rows)
    before = np.cumsum(edges.rows) - edges.rows
    row = edges.first_row[edge] + np.arange(len(edge)) - before[edge]
    start, end = edges.start[edge], edges.end[edge]
    share = (row - start[:, 1]) / (end[:, 1] - start[:, 1])
    position = start[:, 0] + share * (end[:, 0] - start[:, 0])
    column = np.clip(np.ceil(np.round(position, _EQUAL)), 0, shape[0]).astype(np.int64)
    polygon = np.repeat(np.arange(len(polygons)), np.diff(polygons.starts))[edge]
    return _Crossings(polygon=polygon, k=polygons.slices[polygon], row=row, column=column)
