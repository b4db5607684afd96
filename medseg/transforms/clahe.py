"""Contrast-limited adaptive histogram equalisation in two or three dimensions."""

from __future__ import annotations

from itertools import product

import numpy as np
from numpy.typing import NDArray

from medseg.errors import InputRefusedError
from medseg.transforms.intensity import quantise

_SLAB_VOXELS = 1 << 20


def clahe(
    array: NDArray[np.float32], *, bins: int = 256, clip_limit: float = 2.0, tiles: int = 8
) -> NDArray[np.float32]:
    """Each voxel's rank among the gray values around it, with a limit on how much contrast may grow.

    Parameters
    ----------
    array : (C, *spatial) float32 array
    bins : int, optional
        Gray levels told apart between a channel's minimum and maximum.
    clip_limit : float, optional
        Largest count of a bin, as a multiple of the mean count; what is above is spread over all bins.
    tiles : int, optional
        Tiles along each axis; between tile centres the ranks are interpolated.

    Returns
    -------
    (C, *spatial) float32 array
        Between 0 and 1.

    References
    ----------
    Zuiderveld, Contrast limited adaptive histogram equalization, Graphics Gems IV 1994.
    """
    return np.stack([_one_channel(c, bins=bins, clip_limit=clip_limit, tiles=tiles) for c in array])


def _one_channel(
    channel: NDArray[np.float32], *, bins: int, clip_limit: float, tiles: int
) -> NDArray[np.float32]:
    low, high = float(channel.min()), float(channel.max())
    if not low < high:
        raise InputRefusedError(f"equalise: the image has no contrast, all values are {low:g}")
    levels = quantise(channel, low, high, bins)
    counts = tuple(min(tiles, n) for n in channel.shape)
    ranks = _rank_tables(levels, counts, bins=bins, clip_limit=clip_limit)
    result = np.empty_like(channel)
    rows = max(1, _SLAB_VOXELS // max(1, channel[0].size))
    for begin in range(0, channel.shape[0], rows):
        part = slice(begin, begin + rows)
        result[part] = _interpolated_ranks(levels[part], ranks, counts, begin, channel.shape)
    return result


def _rank_tables(
    levels: NDArray[np.uint16], counts: tuple[int, ...], *, bins: int, clip_limit: float
) -> NDArray[np.float32]:
    """(*counts, bins) rank of each gray level in each tile."""
    edges = [np.arange(t + 1) * n // t for n, t in zip(levels.shape, counts, strict=True)]
    tables = np.empty((*counts, bins), dtype=np.float32)
    for tile in np.ndindex(*counts):
        block = levels[tuple(slice(e[t], e[t + 1]) for e, t in zip(edges, tile, strict=True))]
        histogram = np.bincount(block.ravel(), minlength=bins).astype(np.float64)
        limit = clip_limit * block.size / bins
        excess = np.clip(histogram - limit, 0, None).sum()
        histogram = np.minimum(histogram, limit) + excess / bins
        # The middle rank of a level, so that inverting the image inverts the result.
        tables[tile] = (np.cumsum(histogram) - histogram / 2) / block.size
    return tables


def _interpolated_ranks(
    levels: NDArray[np.uint16],
    ranks: NDArray[np.float32],
    counts: tuple[int, ...],
    begin: int,
    shape: tuple[int, ...],
) -> NDArray[np.float32]:
    """Ranks of a slab that starts at row `begin`, linear between the centres of the tiles."""
    lower, fractions = [], []
    for axis, (size, tiles) in enumerate(zip(levels.shape, counts, strict=True)):
        first = begin if axis == 0 else 0
        place = (np.arange(first, first + size) + 0.5) * tiles / shape[axis] - 0.5
        place = np.clip(place, 0, tiles - 1)
        base = np.minimum(place.astype(np.int64), max(0, tiles - 2))
        form = [-1 if a == axis else 1 for a in range(levels.ndim)]
        lower.append(base.reshape(form))
        fractions.append((place - base).astype(np.float32).reshape(form))
    total = np.zeros(levels.shape, dtype=np.float32)
    for corner in product((0, 1), repeat=levels.ndim):
        if any(c and t == 1 for c, t in zip(corner, counts, strict=True)):
            continue
        tile = tuple(base + c for base, c in zip(lower, corner, strict=True))
        weight = np.ones((1,) * levels.ndim, dtype=np.float32)
        for fraction, c in zip(fractions, corner, strict=True):
            weight = weight * (fraction if c else 1 - fraction)
        total += weight * ranks[(*tile, levels)]
    return total
