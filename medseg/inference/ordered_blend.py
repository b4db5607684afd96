"""Windows added one after the other in half precision, as nnU-Net's predictor does, without its whole-image sums.

A sum that is rounded after each addition depends on the order of the additions, so here windows come in the order of
the axes, and each is added to what all earlier ones left at its place. What a row of windows cannot yet finish waits in
tiles. The result is bit by bit that of one float16 accumulator of the image's size.

References
----------
nnunetv2 2.8, `inference/predict_from_raw_data.py`: float16 sums; `sliding_window_prediction.py`: weights.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from medseg.inference.window_blend import AxisPlan, Block, Box, MemoryTiles, TileStore

_SIGMA = 0.125
# Scales the weights so that few of them fall below the least number of float16.
_LARGEST_WEIGHT = 10.0


def half_weights(window: Sequence[int]) -> Tensor:
    """(*window) float16 Gaussian about voxel ``n // 2``, sigma an eighth of the window, nowhere zero."""
    weights = np.ones(tuple(window))
    for axis, n in enumerate(window):
        delta = np.zeros(n)
        delta[n // 2] = 1.0
        bell = ndimage.gaussian_filter1d(delta, _SIGMA * n, mode="constant") if n > 1 else delta
        weights = weights * bell.reshape([-1 if a == axis else 1 for a in range(len(window))])
    weights /= weights.max() / _LARGEST_WEIGHT
    half = torch.from_numpy(weights).to(torch.float16)
    half[half == 0] = half[half > 0].min()
    return half


class OrderedBlend:
    """Weighted means of windows in float16, given away block by block.

    Parameters
    ----------
    axes : sequence of AxisPlan
        In the axes of the image, two or three; the first is the slowest.
    weights : (*window) float16 tensor
    store : TileStore, optional
        Keeps what is carried along the first axis, nearly all of it; in memory unless given.
    """

    def __init__(self, axes: Sequence[AxisPlan], weights: Tensor, *, store: TileStore | None = None) -> None:
        # A picture is a volume of one slice.
        self._flat = len(axes) == 2
        first = (AxisPlan(length=1, window=1, starts=(0,)),) if self._flat else ()
        self._axes: tuple[AxisPlan, ...] = (*first, *axes)
        self._weights = weights[None] if self._flat else weights
        self._store: TileStore = store or MemoryTiles()
        self._row: Tensor | None = None
        self._pieces = _pieces(self._axes[1])

    def places(self) -> Iterator[tuple[tuple[int, ...], Box]]:
        """Number of each window along each axis, in the order they must be added, and its place in the image."""
        shown = self._axes[1:] if self._flat else self._axes
        for index in itertools.product(*(range(len(axis.starts)) for axis in self._axes)):
            numbers = index[1:] if self._flat else index
            yield (
                index,
                tuple(
                    slice(axis.starts[n], axis.starts[n] + axis.window)
                    for axis, n in zip(shown, numbers, strict=True)
                ),
            )

    def add(self, index: tuple[int, ...], values: Tensor) -> Block:
        """Add the next window; the block that it finishes.

        Parameters
        ----------
        index : tuple of int
            As `places` gives it, one after the other.
        values : (C, *window) float32 tensor
            Left as it is.
        """
        values = values[:, None] if self._flat else values
        weights = self._weights.to(values.device)
        if index[2] == 0:
            self._row = self._next_row(index, values)
        if self._row is None:
            raise ValueError("windows come from the first of a row on")
        start = self._axes[2].starts[index[2]]
        here = self._row[..., start : start + self._axes[2].window]
        here[:-1] += values * weights
        here[-1] += weights
        block = self._finished(index)
        if index[2] == len(self._axes[2].starts) - 1:
            self._put_away(index)
        return block

    def _next_row(self, index: tuple[int, ...], like: Tensor) -> Tensor:
        """(C + 1, window, window, length) sums before the first window of a row."""
        slow, row, _ = self._axes
        size = (len(like) + 1, slow.window, row.window, self._axes[2].length)
        sums = torch.zeros(size, dtype=torch.float16, device=like.device)
        shared = 0
        if index[1] and self._row is not None:
            done = row.starts[index[1]] - row.starts[index[1] - 1]
            shared = row.window - done
            sums[:, :, :shared] = self._row[:, :, done:]
        if index[0]:
            self._take_up(sums, index, after=row.starts[index[1]] + shared)
        return sums

    def _take_up(self, sums: Tensor, index: tuple[int, ...], *, after: int) -> None:
        """What the windows before along the first axis left in lines that this row is the first to reach."""
        start = self._axes[1].starts[index[1]]
        for number, (low, high) in enumerate(self._pieces):
            if after <= low and high <= start + self._axes[1].window:
                kept = self._kept(index[0] - 1)
                if kept:
                    sums[:, :kept, low - start : high - start] = self._store.take((number,))

    def _put_away(self, index: tuple[int, ...]) -> None:
        """Keep what later windows along the first axis go on with, of the lines that this row was the last to reach."""
        kept = self._kept(index[0])
        if not kept or self._row is None:
            return
        row = self._axes[1]
        start, stop = row.starts[index[1]], row.finished(index[1])
        for number, (low, high) in enumerate(self._pieces):
            if start <= low and high <= stop:
                self._store.put((number,), self._row[:, -kept:, low - start : high - start])

    def _kept(self, number: int) -> int:
        """Slices that window `number` along the first axis shares with the next."""
        axis: AxisPlan = self._axes[0]
        if number + 1 == len(axis.starts):
            return 0
        return axis.starts[number] + axis.window - axis.starts[number + 1]

    def _finished(self, index: tuple[int, ...]) -> Block:
        if self._row is None:
            raise ValueError("there is no row")
        box = [slice(axis.starts[n], axis.finished(n)) for axis, n in zip(self._axes, index, strict=True)]
        slow, row = (slice(0, part.stop - part.start) for part in box[:2])
        part = self._row[:, slow, row, box[2]]
        mean = torch.div(part[:-1], part[-1]).float()
        if self._flat:
            return Block(place=tuple(box[1:]), values=mean[:, 0])
        return Block(place=tuple(box), values=mean)


def _pieces(axis: AxisPlan) -> tuple[tuple[int, int], ...]:
    """Lines between the places where a window begins or ends: each is taken up, and put away, as a whole."""
    edges = {0, axis.length, *axis.starts, *(start + axis.window for start in axis.starts)}
    return tuple(pairwise(sorted(edges)))


def fold_mean(values: Tensor, count: int) -> Tensor:
    """(C, ...) mean of (count * C, ...) float16 numbers held as float32; each sum of two networks is rounded."""
    parts = values.to(torch.float16).chunk(count)
    total: Tensor = parts[0].clone()
    for part in parts[1:]:
        total += part
    return total.div_(count).float() if count > 1 else total.float()
