"""What an image looks like at a glance, free of the unit of its values, and how it would look turned. NumPy only.

A network trained on one kind of image may see two unlike images as alike in what it was trained to find. A coarse
picture, local contrast, texture and the form of the histogram tell them apart, before any network runs.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import permutations, product
from typing import Any

import numpy as np
from numpy.typing import NDArray

VALUE_LEVELS = (0.005, 0.05, 0.25, 0.5, 0.75, 0.95, 0.995)
"""Quantiles of the values that are kept."""

_FINE = {2: 40, 3: 18}
_COARSE = {2: 5, 3: 3}
_SPREAD = {2: 3, 3: 2}
_TINY = 1e-6

Turn = tuple[tuple[int, ...], tuple[bool, ...]]
"""Order of the axes, then which of the new axes are flipped."""


def turns(spatial_dims: int) -> dict[str, Turn]:
    """Every other way in which the axes may lie, by name: 7 of a picture, 47 of a volume.

    A name such as "-j+i" tells, for each new axis, which old one it is and whether it is flipped.
    """
    found = {}
    for order in permutations(range(spatial_dims)):
        for flips in product((False, True), repeat=spatial_dims):
            if any(flips) or order != tuple(range(spatial_dims)):
                name = "".join(f"{'-' if f else '+'}{'ijk'[a]}" for a, f in zip(order, flips, strict=True))
                found[name] = (order, flips)
    return found


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Look:
    """An image at a glance.

    Parameters
    ----------
    small : (S, S) or (S, S, S) float64 array
        The image made small; 0 and 1 are its 0.5th and 99.5th percentile.
    levels : (5,) float64 array
        Its inner quantiles, in the same scale.
    grain : (D,) float64 array
        Log of the root mean square step to the next voxel along each axis, in the same scale.
    """

    small: NDArray[np.float64]
    levels: NDArray[np.float64]
    grain: NDArray[np.float64]

    def turned(self, turn: Turn) -> Look:
        """The look of the image with its axes in another order."""
        order, flips = turn
        parts = tuple(slice(None, None, -1) if flipped else slice(None) for flipped in flips)
        small = self.small.transpose(order)[parts]
        return Look(small=small, levels=self.levels, grain=self.grain[list(order)])

    def inverted(self) -> Look:
        """The look of the negative."""
        return Look(small=1.0 - self.small, levels=1.0 - self.levels[::-1], grain=self.grain)

    def vector(self) -> NDArray[np.float64]:
        """(A,) features: means of 5 x 5 (3 x 3 x 3) blocks, spread in 3 x 3 (2 x 2 x 2) blocks, mean step and asymmetry
        along each axis, inner quantiles, grain. A is 45 or 49, by the number of axes.
        """
        small, dims = self.small, self.small.ndim
        spread = block_means(small**2, _SPREAD[dims]) - block_means(small, _SPREAD[dims]) ** 2
        steps = [np.abs(np.diff(small, axis=axis)).mean() for axis in range(dims)]
        asymmetry = [np.abs(small - np.flip(small, axis=axis)).mean() for axis in range(dims)]
        return np.concatenate(
            [
                block_means(small, _COARSE[dims]).ravel(),
                np.sqrt(np.maximum(spread, 0.0)).ravel(),
                steps,
                asymmetry,
                self.levels,
                self.grain,
            ]
        )


def look_of(sample: NDArray[np.float64], steps: NDArray[np.float64]) -> Look:
    """Make an image small and free of the unit of its values.

    Parameters
    ----------
    sample : (C, I, J) or (C, I, J, K) float64 array
        Voxels at even steps. Each channel is scaled to its own percentiles, then all are averaged.
    steps : (D,) float64 array
        Root mean square step between neighbours along each axis, in image values.
    """
    dims = sample.ndim - 1
    flat = sample.reshape(len(sample), -1)
    low, high = np.quantile(flat, [VALUE_LEVELS[0], VALUE_LEVELS[-1]], axis=1)
    width = np.maximum(high - low, _TINY * np.maximum(np.abs(high), 1.0))
    shape = (-1, *(1,) * dims)
    grey = np.clip((sample - low.reshape(shape)) / width.reshape(shape), -0.2, 1.2).mean(axis=0)
    return Look(
        small=block_means(grey, _FINE[dims]),
        levels=np.quantile(grey, VALUE_LEVELS[1:-1]),
        grain=np.log(steps / width.mean() + 1e-3),
    )


def block_means(array: NDArray[Any], blocks: int) -> NDArray[np.float64]:
    """Means over `blocks` nearly equal parts along every axis; short axes repeat voxels."""
    means = np.asarray(array, dtype=np.float64)
    for axis, size in enumerate(means.shape):
        edges = np.floor(np.linspace(0, size, blocks + 1)).astype(np.intp)
        lengths = np.maximum(np.diff(edges), 1)
        sums = np.add.reduceat(means, edges[:-1], axis=axis)
        means = sums / np.expand_dims(lengths, [a for a in range(means.ndim) if a != axis])
    return means
