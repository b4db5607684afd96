"""Finished blocks of a prediction, one after the other, onto the grid of the file.

Blocks come in the order in which `WindowBlend` finishes them. A source voxel is interpolated as soon as all prediction
voxels around it are there; the rims that the next blocks still need are kept. The whole prediction
never exists, neither on its own grid nor on the source's.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from medseg.geometry import GridMap
from medseg.transforms.class_choice import ClassChoice, index_dtype
from medseg.transforms.framing import Back
from medseg.transforms.regrid import coordinates, covered_range, linear_weights
from medseg.transforms.spline import nearest_places

Box = tuple[slice, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceAxis:
    """One axis of the source and how its voxels come of the prediction's.

    Parameters
    ----------
    source, target : int
        Number of the axis in the file and in the prediction.
    first : int
        First source voxel that the prediction covers.
    weights : (covered, target length) float64 sparse array
    low, high : (covered,) int arrays
        First and last prediction voxel of each covered source voxel.
    length : int
        Voxels of the prediction.
    pair : (2, covered) int array
        Of an axis without smoothing: the two voxels around each source voxel; beyond the edge twice the last one.
    share : (covered,) float64 array
        What the first of them counts, the rest going to the other.
    """

    source: int
    target: int
    first: int
    weights: Any
    low: NDArray[np.int64]
    high: NDArray[np.int64]
    length: int
    pair: NDArray[np.int64]
    share: NDArray[np.float64]

    @property
    def reach(self) -> int:
        """Prediction voxels before its last one that a source voxel needs at most."""
        return int((self.high - self.low).max()) if self.high.size else 0

    def ready(self, begin: int, end: int) -> slice:
        """Covered source voxels whose last prediction voxel is `begin` to before `end`."""
        found = np.flatnonzero((self.high >= begin) & (self.high < end))
        return slice(int(found[0]), int(found[-1]) + 1) if found.size else slice(0, 0)

    def weighing(self, rows: slice, begin: int, end: int, device: torch.device) -> slice | Tensor:
        """How a block's voxels become those of the source along this axis.

        Returns
        -------
        slice, (rows,) int64 tensor or (rows, end - begin) float32 tensor
            Of the block's voxels where each source voxel is one of them, else weights.
        """
        part = self.weights[rows]
        if part.nnz > part.shape[0]:
            weights = torch.from_numpy(part[:, begin:end].toarray().astype(np.float32))
            return weights.to(device, non_blocking=True)
        places = part.indices.astype(np.int64) - begin
        first, count = int(places[0]), len(places)
        if count == 1 or int(places[-1]) - first == count - 1:
            return slice(first, first + count)
        return torch.from_numpy(places).to(device, non_blocking=True)


def source_axes(grid: GridMap, back: Sequence[Back] = ()) -> tuple[SourceAxis, ...]:
    """The axes of a grid map, in the order of the prediction's axes; `back` as in `Prepared`."""
    axes = []
    for target, (source, scale, offset) in enumerate(grid.axis_maps()):
        length = grid.target_shape[target]
        way = back[target] if back else "smooth"
        positions = coordinates(grid.source_shape[source], 1.0 / scale, -offset / scale)
        start, stop = covered_range(positions, length)
        inner = positions[start:stop]
        if way != "smooth":
            inner = _edge_to_edge(inner, length, way, backwards=scale < 0)
        floors, kept = np.floor(inner), np.clip(inner, 0.0, length - 1.0)
        weights = (
            linear_weights(inner, length, 1.0 / scale)
            if way == "smooth"
            else linear_weights(kept, length, 1.0)
        )
        low, high = _columns(weights)
        axes.append(
            SourceAxis(
                source=source,
                target=target,
                first=start,
                weights=weights,
                low=low,
                high=high,
                length=length,
                pair=np.clip(np.stack([floors, floors + 1]), 0, length - 1).astype(np.int64),
                share=1.0 - (inner - floors),
            )
        )
    return tuple(axes)


def _edge_to_edge(
    positions: NDArray[np.float64], length: int, way: Back, *, backwards: bool
) -> NDArray[np.float64]:
    """Positions to the last digit of SciPy's `zoom` with ``grid_mode=True, mode="nearest"``, where edges coincide."""
    count = len(positions)
    even = (np.arange(count) + 0.5) * (length / max(count, 1)) - 0.5
    there: NDArray[np.float64] = np.asarray(even[::-1] if backwards else even, dtype=np.float64)
    if not np.allclose(positions, there, rtol=0, atol=1e-6):
        there = positions
    if way == "nearest":
        places = nearest_places(length, count)
        there = np.asarray(places[::-1] if backwards else places, dtype=np.float64)
    return there


def _columns(weights: Any) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    # Every row has an entry.
    columns, begins = weights.indices.astype(np.int64), weights.indptr[:-1]
    return np.minimum.reduceat(columns, begins), np.maximum.reduceat(columns, begins)


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceBlock:
    """A box of source voxels that can be interpolated now.

    Parameters
    ----------
    place : tuple of slice
        Where it lies in the source.
    values : (L, ...) float32 tensor
        The prediction around it, slowest axis first, on the device of the blocks.
    weighings : tuple of slice or tensor
        Along each of these axes, as `SourceAxis.weighing` gives them.
    back : tuple of int
        For each source axis its position among the slowest-first axes.
    corners : tuple of ((2, n) int array, (n,) float64 array)
        Along each of these axes the two voxels around a source voxel, and what the first of them counts.
    order : tuple of int
        Axes of the prediction, slowest first.
    """

    place: Box
    values: Tensor
    weighings: tuple[slice | Tensor, ...]
    back: tuple[int, ...]
    corners: tuple[tuple[NDArray[np.int64], NDArray[np.float64]], ...] = ()
    order: tuple[int, ...] = ()

    @property
    def shape(self) -> tuple[int, ...]:
        """Voxels along each source axis."""
        return tuple(s.stop - s.start for s in self.place)

    def interpolate(self, index: int | Sequence[int]) -> Tensor:
        """One class, or several along a first axis, at the source voxels."""
        values = self.values[index]
        lead = values.ndim - len(self.weighings)
        # The fastest axis first: by the time of the slowest, which is outermost in memory, it has grown.
        for number in reversed(range(len(self.weighings))):
            values = _weighed(values, self.weighings[number], lead + number)
        return values.permute(*range(lead), *(lead + position for position in self.back))

    def exact(self, voxels: tuple[NDArray[np.int64], ...]) -> NDArray[np.float64]:
        """(C, n) all channels at n source voxels of the block, axes without smoothing, in float64.

        Products and sums are in the order of SciPy's `zoom`: corner by corner, the last axis of the prediction
        fastest, so that halves which are rounded afterwards fall on the same side.
        """
        values = self.values.numpy()
        # Source axes -> slowest first -> axes of the prediction.
        at = [voxels[self.back.index(number)] for number in range(len(self.order))]
        numbers = [self.order.index(axis) for axis in range(len(self.order))]
        total = np.zeros((len(values), len(at[0])))
        for corner in itertools.product((0, 1), repeat=len(numbers)):
            places: list[NDArray[np.int64]] = [at[0]] * len(numbers)
            parts = []
            for number, side in zip(numbers, corner, strict=True):
                pair, share = self.corners[number]
                # A voxel that counts nothing may lie beyond the block.
                places[number] = np.minimum(pair[side, at[number]], values.shape[1 + number] - 1)
                parts.append(1.0 - share[at[number]] if side else share[at[number]])
            index: tuple[Any, ...] = (slice(None), *places)
            weighed = values[index].astype(np.float64)
            for part in parts:
                weighed *= part
            total += weighed
        return total


def _weighed(values: Tensor, weighing: slice | Tensor, dim: int) -> Tensor:
    if isinstance(weighing, slice):
        return values.narrow(dim, weighing.start, weighing.stop - weighing.start)
    if weighing.ndim == 1:
        return values.index_select(dim, weighing)
    if dim == values.ndim - 1:
        return values @ weighing.T
    # As products of matrices that lie in memory: other forms would copy the values first.
    rows = values.shape[dim]
    flat = values.reshape(*values.shape[:dim], rows, -1)
    return (weighing @ flat).reshape(*values.shape[:dim], len(weighing), *values.shape[dim + 1 :])


class BlockRestorer:
    """Source voxels from blocks of a prediction.

    Parameters
    ----------
    grid : GridMap
        Source to prediction (`Prepared.grid`).
    order : sequence of int
        Axes of the prediction from the slowest to the fastest, as the blocks come.
    back : sequence of {"smooth", "linear", "nearest"}, optional
        How the prediction goes back along each axis (`Prepared.back`).
    """

    def __init__(self, grid: GridMap, order: Sequence[int], back: Sequence[Back] = ()) -> None:
        axes = source_axes(grid, back)
        self._axes = tuple(axes[a] for a in order)
        self._order = tuple(order)
        by_source = {axis.source: number for number, axis in enumerate(self._axes)}
        self._back = tuple(by_source[a] for a in range(len(axes)))
        self._rims: list[Tensor | None] = [None] * len(axes)

    def kept_values(self, largest: Sequence[int]) -> int:
        """Prediction voxels that are kept as rims at most, for blocks of at most `largest` voxels along each axis."""
        size = [largest[a] for a in self._order]
        total = 0
        for number, axis in enumerate(self._axes):
            before = math.prod(n + a.reach for n, a in zip(size[:number], self._axes[:number], strict=True))
            after = math.prod(a.length for a in self._axes[number + 1 :])
            total += before * axis.reach * after
        return total

    def add(self, place: Box, values: Tensor) -> Iterator[SourceBlock]:
        """Take the next block; the source voxels that it makes known, none or one box of them.

        Parameters
        ----------
        place : tuple of slice
            In the prediction.
        values : (L, *place) float32 tensor
            Left as it is.
        """
        boxes = [place[a] for a in self._order]
        piece = values.permute(0, *(1 + a for a in self._order))
        begins = []
        for number, box in enumerate(boxes):
            piece = self._with_rim(piece, number, box, boxes[number + 1 :])
            begins.append(box.stop - piece.shape[1 + number])
        rows = [axis.ready(box.start, box.stop) for axis, box in zip(self._axes, boxes, strict=True)]
        if any(r.start == r.stop for r in rows):
            return
        weighings = tuple(
            axis.weighing(r, begin, box.stop, values.device)
            for axis, r, begin, box in zip(self._axes, rows, begins, boxes, strict=True)
        )
        where = [
            slice(axis.first + r.start, axis.first + r.stop) for axis, r in zip(self._axes, rows, strict=True)
        ]
        yield SourceBlock(
            place=tuple(where[number] for number in self._back),
            values=piece,
            weighings=weighings,
            back=self._back,
            corners=tuple(
                (axis.pair[:, r] - begin, axis.share[r])
                for axis, r, begin in zip(self._axes, rows, begins, strict=True)
            ),
            order=self._order,
        )

    def _with_rim(self, piece: Tensor, number: int, box: slice, after: Sequence[slice]) -> Tensor:
        """The block with the prediction voxels before it that are still needed; its own last ones are kept."""
        reach = self._axes[number].reach
        if reach == 0:
            return piece
        rim = self._rims[number]
        if box.start == 0 and all(s.start == 0 for s in after):
            lengths = (a.length for a in self._axes[number + 1 :])
            rim = piece.new_empty((*piece.shape[: 1 + number], reach, *lengths))
            self._rims[number] = rim
        if rim is None:
            raise ValueError("blocks come from the first corner of the prediction on, the last axis fastest")
        columns = (slice(None),) * (1 + number)
        before = min(reach, box.start)
        if before:
            piece = torch.cat([rim[(*columns, slice(reach - before, reach), *after)], piece], dim=1 + number)
        kept = min(reach, piece.shape[1 + number])
        last = piece.narrow(1 + number, piece.shape[1 + number] - kept, kept)
        rim[(*columns, slice(reach - kept, reach), *after)] = last
        return piece


def restore_blocks(
    blocks: Iterator[tuple[Box, Tensor]],
    grid: GridMap,
    *,
    order: Sequence[int],
    class_count: int,
    back: Sequence[Back] = (),
    winners: Callable[[SourceBlock], Tensor] | None = None,
    device: torch.device | str = "cpu",
) -> NDArray[Any]:
    """Class of each source voxel, from blocks of channel values.

    Parameters
    ----------
    blocks : iterator of (place, (C, *place) float32 tensor)
        All of the prediction, each voxel once, in the order of `order`.
    grid : GridMap
    order : sequence of int
        Axes of the prediction from the slowest to the fastest.
    class_count : int
        L.
    back : sequence of {"smooth", "linear", "nearest"}, optional
        As in `BlockRestorer`.
    winners : callable, optional
        Class of each voxel of a block, such as `ClassChoice.winners`; by the largest probability unless given.
    device : torch.device or str, optional
        Of the blocks; the result is gathered there, and comes to the CPU once it is whole.

    Returns
    -------
    (*source) uint8 array, int16 above 256 classes
        As `restore.restore_label_map` gives it.
    """
    restored = torch.from_numpy(np.zeros(grid.source_shape, index_dtype(class_count))).to(device)
    restorer, winners = BlockRestorer(grid, order, back), winners or ClassChoice().winners
    for place, values in blocks:
        for block in restorer.add(place, values):
            restored[block.place] = winners(block)
    return restored.cpu().numpy()
