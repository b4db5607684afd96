"""Outlines of masks along the edges of their pixels: polygons that hold exactly the pixels of the mask.

All slices of a stack are traced at once. Corners of the outline are found by looking at the four
pixels around each point of the corner lattice. Sorted along a line, corners pair up: each pair is
one straight edge, so that every corner has one edge along i and one along j, and following them in
turn runs round the polygons.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

_BLOCK_VOXELS = 1 << 24

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True, slots=True, kw_only=True)
class Outlines:
    """Polygons of a stack of slices.

    Parameters
    ----------
    corners : (N, 2) int64 array
        Corners (i, j) of all polygons, one after the other, each polygon open: its last corner is
        not its first. Corner n lies half a pixel below pixel centre n.
    starts : (P + 1,) int64 array
        Polygon p is ``corners[starts[p]:starts[p + 1]]``.
    slices : (P,) int64 array
        Index k of the slice of each polygon, ascending.
    """

    corners: Ints
    starts: Ints
    slices: Ints

    def __len__(self) -> int:
        return len(self.slices)

    @property
    def indices(self) -> NDArray[np.float64]:
        """(N, 3) voxel indices (i, j, k) of the corners; pixel centres are whole numbers."""
        k = np.repeat(self.slices, np.diff(self.starts))
        return np.column_stack([self.corners - 0.5, k])


def trace_polygons(mask: Bools) -> list[NDArray[np.float64]]:
    """Outlines of one slice.

    Parameters
    ----------
    mask : (I, J) bool array

    Returns
    -------
    list of (N, 2) float64 arrays
        Corners (i, j) in index units, as in `trace_outlines`.
    """
    outlines = trace_outlines(mask[:, :, np.newaxis])
    points = outlines.indices[:, :2]
    return [points[a:b] for a, b in zip(outlines.starts[:-1], outlines.starts[1:], strict=True)]


def trace_outlines(mask: Bools) -> Outlines:
    """Outlines of every slice of a stack, along the edges of its voxels.

    Every connected component (pixels that share an edge) gives one polygon, counter-clockwise in
    the plane (i, j). Components that touch at a corner only stay apart, so no polygon crosses itself.
    A hole is part of its component's polygon: a way of no width leads along the lattice from the
    component's or another hole's outline to the hole, round it the other way and back. Filling by
    the even-odd and by the non-zero rule therefore both give back the mask.

    Parameters
    ----------
    mask : (I, J, K) bool array
        Any memory order; the last axis in slowest order (Fortran) is read without a copy.
    """
    stack = mask.transpose(2, 1, 0)
    step = max(1, _BLOCK_VOXELS // max(1, stack[:1].size))
    parts = [_trace(stack[first : first + step], first) for first in range(0, len(stack), step)]
    corners = np.concatenate([np.zeros((0, 2), np.int64), *(part.corners for part in parts)])
    sizes = np.concatenate([np.zeros(0, np.int64), *(np.diff(part.starts) for part in parts)])
    slices = np.concatenate([np.zeros(0, np.int64), *(part.slices for part in parts)])
    return Outlines(corners=corners, starts=np.concatenate([[0], np.cumsum(sizes)]), slices=slices)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Corners:
    """Corners sorted by slice k, line y, position x; a point where four edges meet stands twice.

    `leaves_along_x` says which of a corner's two edges leads away from it, with the mask on its
    left. `columns` is the order of the corners by slice, x, y. Both orders pair the ends of edges.
    """

    k: Ints
    y: Ints
    x: Ints
    leaves_along_x: Bools
    inside_after: Bools
    columns: Ints

    @property
    def following(self) -> Ints:
        """Index of the next corner of the polygon."""
        pair = np.arange(len(self.k)) ^ 1
        along_y = np.empty_like(self.columns)
        along_y[self.columns] = self.columns[pair]
        return np.where(self.leaves_along_x, pair, along_y)


def _trace(stack: NDArray[Any], first_slice: int) -> Outlines:
    """Outlines of a stack (K, J, I)."""
    padded = np.zeros((stack.shape[0], stack.shape[1] + 2, stack.shape[2] + 2), dtype=np.bool_)
    padded[:, 1:-1, 1:-1] = stack
    found = _find_corners(padded)
    following = found.following
    first = _smallest_in_cycle(following)
    # The first corner of a component has the mask after it, that of a hole lies before the gap.
    holes = np.flatnonzero((first == np.arange(len(first))) & ~found.inside_after)
    following, x, y = _join_holes(padded, found, following, holes)
    k = np.concatenate([found.k, np.repeat(found.k[holes], 3)]) if len(holes) else found.k
    return _in_order(following, x, y, k + first_slice)


def _find_corners(padded: Bools) -> _Corners:
    views = (padded[:, :-1, :-1], padded[:, :-1, 1:], padded[:, 1:, :-1], padded[:, 1:, 1:])
    before, right, below, after = views
    # One or three of the four pixels set, or two that face each other across the point.
    corner = (before ^ right ^ below ^ after) | ((before ^ right) & (before ^ below))
    where = np.nonzero(corner)
    pixels = [view[where] for view in views]
    crossing = (pixels[0] == pixels[3]) & (pixels[1] == pixels[2])
    source = np.repeat(np.arange(len(crossing)), 1 + crossing)
    second = np.concatenate([[False], source[1:] == source[:-1]])[: len(source)]
    before, right, below, after = (values[source] for values in pixels)
    k, y, x = (axis[source] for axis in where)
    # At a crossing the first corner has the edge to the left, the second that to the right, and
    # the edges above and below go to the pixel that is set beside them.
    to_right = np.where(crossing[source], second, right != after)
    upwards = np.where(crossing[source], before ^ second, before != right)
    key = ((k * padded.shape[2] + x) * padded.shape[1] + y) * 2 + ~upwards
    return _Corners(
        k=k,
        y=y,
        x=x,
        leaves_along_x=np.where(to_right, after, before),
        inside_after=after,
        columns=np.argsort(key, kind="stable"),
    )


def _smallest_in_cycle(following: Ints) -> Ints:
    """Smallest index in the cycle of each index; each round looks twice as far ahead."""
    smallest = np.arange(len(following))
    jump = following
    while (smallest[following] != smallest).any():
        smallest = np.minimum(smallest, smallest[jump])
        jump = jump[jump]
    return smallest


def _join_holes(padded: Bools, found: _Corners, following: Ints, holes: Ints) -> tuple[Ints, Ints, Ints]:
    """Lead each hole's polygon into the outline to the left of its first corner.

    That corner is the leftmost of the hole's top line, so the way to the left runs inside the
    component and ends on an outline whose first corner comes earlier: no circle can arise.

    Returns the next corner, x and y, with three more corners per hole: where its way starts and
    ends on the other outline, and where it leaves the hole.
    """
    if not len(holes):
        return following, found.x, found.y
    k, y = found.k[holes], found.y[holes]
    x = np.array([_leftwards(padded, *place) for place in zip(k, y, found.x[holes], strict=True)])
    edge_from = _edge_at(found, padded.shape, k, x, y)
    order = np.lexsort((np.abs(y - found.y[edge_from]), edge_from))
    edge_from, hole, count = edge_from[order], holes[order], len(holes)
    arrive = len(following) + 3 * order
    leave, back = arrive + 1, arrive + 2
    joined = np.concatenate([following, np.zeros(3 * count, np.int64)])
    joined[arrive], joined[back] = hole, leave
    joined[_inverse(following)[hole]] = back
    # Several ways may start on one edge: they follow each other along it.
    new_edge = np.concatenate([[True], edge_from[1:] != edge_from[:-1]])
    last = np.concatenate([new_edge[1:], [True]])
    joined[leave] = np.where(last, following[edge_from], np.roll(arrive, -1))
    joined[edge_from[new_edge]] = arrive[new_edge]
    more_x = np.column_stack([x, x, found.x[holes]]).ravel()
    return joined, np.concatenate([found.x, more_x]), np.concatenate([found.y, np.repeat(y, 3)])


def _leftwards(padded: Bools, k: int, y: int, x: int) -> int:
    """Where the straight way to the left of lattice point (y, x) leaves the mask's inside."""
    inside = padded[k, y, : x + 1] & padded[k, y + 1, : x + 1]
    return int(x - np.argmin(inside[::-1]))


def _edge_at(found: _Corners, shape: tuple[int, ...], k: Ints, x: Ints, y: Ints) -> Ints:
    """Corner from which the edge along y departs on which the point (x, y) of slice k lies."""
    top, bottom = found.columns[0::2], found.columns[1::2]
    keys = (found.k[top] * shape[2] + found.x[top]) * shape[1] + found.y[top]
    edge = np.searchsorted(keys, (k * shape[2] + x) * shape[1] + y, side="right") - 1
    start: Ints = np.where(found.leaves_along_x[top[edge]], bottom[edge], top[edge])
    return start


def _inverse(order: Ints) -> Ints:
    inverse = np.empty_like(order)
    inverse[order] = np.arange(len(order))
    return inverse


def _in_order(following: Ints, x: Ints, y: Ints, k: Ints) -> Outlines:
    """Corners polygon by polygon, in the order in which they follow each other."""
    first = _smallest_in_cycle(following)
    order = np.lexsort((-_steps_to_end(following, first), first))
    first, x, y = first[order], x[order], y[order]
    new = np.concatenate([[True], first[1:] != first[:-1]])[: len(first)]
    # A way that starts at a corner repeats it.
    keep = new | np.concatenate([[True], (x[1:] != x[:-1]) | (y[1:] != y[:-1])])[: len(x)]
    first, new = first[keep], new[keep]
    return Outlines(
        corners=np.column_stack([x, y])[keep],
        starts=np.concatenate([np.flatnonzero(new), [len(new)]]),
        slices=k[first[new]],
    )


def _steps_to_end(following: Ints, first: Ints) -> Ints:
    """Number of corners after each one, in a polygon that begins with its first corner."""
    index = np.arange(len(following))
    end = following == first
    jump: Ints = np.where(end, index, following)
    steps: Ints = (~end).astype(np.int64)
    while steps[jump].any():
        steps = steps + steps[jump]
        jump = jump[jump]
    return steps


def polygons_of(outlines: Outlines) -> Iterator[slice]:
    """Slice of `corners` of each polygon."""
    for start, end in zip(outlines.starts[:-1], outlines.starts[1:], strict=True):
        yield slice(int(start), int(end))
