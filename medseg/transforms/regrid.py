"""Move an array along a GridMap: exactly where voxels fall on voxels, else by separable interpolation.

One weight matrix per axis, sparse, so that a 20-megapixel radiograph is read once. When an axis
shrinks, the triangle filter is as wide as the step between the new voxels (anti-aliasing); when it
grows, that is plain linear interpolation. Coordinates are voxel centres at integers, as in GridMap.
MONAI's Resize and Spacing are not used: they hold whole-image coordinate fields, do not smooth when
they shrink by `grid_sample`, and cannot write into part of a padded result.
"""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from medseg.errors import GeometryError
from medseg.geometry import GridMap

# Composed maps carry rounding errors near 1e-12; voxels that coincide must be seen to coincide.
_DECIMALS = 9
# Of a product of weights and values; a few hundred thousand stay in the processor's cache.
_PART_VALUES = 1 << 18
# Arrays of fewer values are not worth the start of threads.
_SHARED_VALUES = 1 << 22


def coordinates(count: int, scale: float, offset: float) -> NDArray[np.float64]:
    """(count,) float array ``scale * t + offset``, free of rounding noise."""
    return np.round(scale * np.arange(count) + offset, _DECIMALS)


def covered_range(positions: NDArray[np.float64], length: int) -> tuple[int, int]:
    """First and one past the last of the monotone `positions` that lie in a row of `length` voxels.

    Voxels reach half a step beyond their centres: the row covers -0.5 to length - 0.5.
    """
    inside = np.flatnonzero((positions >= -0.5) & (positions <= length - 0.5))
    return (int(inside[0]), int(inside[-1]) + 1) if inside.size else (0, 0)


def linear_weights(positions: NDArray[np.float64], length: int, step: float) -> Any:
    """Weights that interpolate a row of `length` values at `positions`.

    Parameters
    ----------
    positions : (M,) float array
        Where to interpolate, in voxels of the row; all within the row as `covered_range` says.
    length : int
        Number of values in the row.
    step : float
        Distance between neighbouring positions; above 1 the filter widens to it.

    Returns
    -------
    (M, length) scipy sparse CSR array, float32
        Each line sums to 1, and its centre of mass is the position unless the rim cuts it off, so that
        a linear ramp stays one. A position on a voxel centre with ``step <= 1`` takes that voxel alone.
    """
    support = max(1.0, abs(step))
    first = np.floor(positions - support).astype(np.int64) + 1
    taps = first[:, None] + np.arange(int(np.ceil(2 * support)) + 1)
    weights = np.clip(1.0 - np.abs(taps - positions[:, None]) / support, 0.0, None)
    weights[(taps < 0) | (taps >= length)] = 0.0
    weights /= weights.sum(axis=1, keepdims=True)
    if support > 1:
        weights = _centred_on(positions, taps, weights, length)
    line, tap = np.nonzero(weights)
    entries = (weights[line, tap].astype(np.float32), (line, taps[line, tap]))
    return sparse.csr_array(entries, shape=(len(positions), length))


def _centred_on(
    positions: NDArray[np.float64], taps: NDArray[np.int64], weights: NDArray[np.float64], length: int
) -> NDArray[np.float64]:
    """Tilt sampled filters so that their centre of mass is the position, to the last digit.

    Lines that the rim cuts off stay as they are: tilting them would extrapolate.
    """
    centre = (weights * taps).sum(axis=1, keepdims=True)
    spread = (weights * (taps - centre) ** 2).sum(axis=1, keepdims=True)
    whole = ((weights > 0) & ((taps <= 0) | (taps >= length - 1))).sum(axis=1, keepdims=True) == 0
    tilt = np.where(whole, (positions[:, None] - centre) / np.maximum(spread, 1e-12), 0.0)
    return np.asarray(weights * (1 + tilt * (taps - centre)))


def weigh_axis(array: NDArray[Any], weights: Any, axis: int) -> NDArray[Any]:
    """Replace `axis` of length N by M weighted sums, `weights` being (M, N); of the wider type of the two.

    Part by part: the rows of a product of a whole volume are longer than the processor's cache. Parts of large arrays
    are shared among threads, which changes no bit of the result.
    """
    moved = np.moveaxis(array, axis, 0)
    result = np.empty((weights.shape[0], *moved.shape[1:]), dtype=np.result_type(weights.dtype, array.dtype))
    along = next((a for a in range(1, moved.ndim) if moved.shape[a] > 1), moved.ndim - 1)
    rows = max(1, _PART_VALUES * moved.shape[along] // max(1, moved.size))

    def weigh(start: int) -> None:
        part = (slice(None),) * along + (slice(start, start + rows),)
        piece = moved[part]
        result[part] = (weights @ piece.reshape(len(piece), -1)).reshape(-1, *piece.shape[1:])

    starts, threads = range(0, moved.shape[along], rows), _threads(array.size)
    if threads > 1:
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(weigh, starts))
    else:
        for start in starts:
            weigh(start)
    return np.moveaxis(result, 0, axis)


def _threads(values: int) -> int:
    """How many threads work on so many values: one on few, else those of torch, where this process has loaded it."""
    torch = sys.modules.get("torch") if values >= _SHARED_VALUES else None
    count: int = 1 if torch is None else torch.get_num_threads()
    return count


def regrid(
    array: NDArray[np.float32], grid: GridMap, *, outside: NDArray[np.float32] | None = None
) -> NDArray[np.float32]:
    """Image on the target grid of `grid`.

    Parameters
    ----------
    array : (C, *source) float32 array
    grid : GridMap
    outside : (C,) float array, optional
        Value of target voxels whose centre lies outside of the source; by default each channel's minimum.

    Returns
    -------
    (C, *target) float32 array
        A view of `array` where the map only permutes, flips and crops.
    """
    maps = grid.axis_maps()
    array = array.transpose(0, *(1 + source for source, _, _ in maps))
    positions = [
        coordinates(count, scale, offset)
        for count, (_, scale, offset) in zip(grid.target_shape, maps, strict=True)
    ]
    ranges = [covered_range(p, n) for p, n in zip(positions, array.shape[1:], strict=True)]
    inner = [p[a:b] for p, (a, b) in zip(positions, ranges, strict=True)]
    steps = [scale for _, scale, _ in maps]
    if all(abs(s) == 1 and (p == np.round(p)).all() for s, p in zip(steps, inner, strict=True)):
        pick = tuple(_slice(p) for p in inner)
        values = array[(slice(None), *pick)]
    else:
        values = _interpolate(array, inner, steps)
    if values.shape[1:] == grid.target_shape:
        return values
    fill = minima(array) if outside is None else outside
    result = np.empty((array.shape[0], *grid.target_shape), dtype=np.float32)
    result[:] = fill.reshape(-1, *[1] * len(maps))
    result[(slice(None), *(slice(a, b) for a, b in ranges))] = values
    return result


def label_to_grid(label: NDArray[Any], grid: GridMap, *, fill: int = 0) -> NDArray[Any]:
    """Label values at the voxels of the network's grid, one nearest look-up whatever the steps were.

    Parameters
    ----------
    label : (1, *source) integer array
    grid : GridMap
        `Prepared.grid` of the image.
    fill : int, optional
        Value of target voxels outside of the source (padding).

    Returns
    -------
    (1, *target) array of the same type
        A target centre halfway between two source voxels takes the one with the lower index.
    """
    if tuple(label.shape[1:]) != grid.source_shape:
        raise GeometryError(
            f"expected a label on the grid {grid.source_shape}, found {tuple(label.shape[1:])}"
        )
    maps = grid.axis_maps()
    picks, places = [], []
    for count, (source, scale, offset) in zip(grid.target_shape, maps, strict=True):
        nearest = np.ceil(coordinates(count, scale, offset) - 0.5).astype(np.int64)
        inside = np.flatnonzero((nearest >= 0) & (nearest < grid.source_shape[source]))
        picks.append(nearest[inside])
        places.append(slice(int(inside[0]), int(inside[-1]) + 1) if inside.size else slice(0, 0))
    turned = label.transpose(0, *(1 + source for source, _, _ in maps))
    result = np.full((label.shape[0], *grid.target_shape), fill, dtype=label.dtype)
    if all(abs(scale) == 1 for _, scale, _ in maps):
        found = turned[(slice(None), *(_slice(p) for p in picks))]
    else:
        found = turned[np.ix_(np.arange(label.shape[0]), *picks)]
    result[(slice(None), *places)] = found
    return result


def minima(array: NDArray[np.float32]) -> NDArray[np.float32]:
    """(C,) minimum of each channel."""
    return np.array([channel.min() for channel in array], dtype=np.float32)


def _slice(positions: NDArray[Any]) -> slice:
    """The slice that takes whole-numbered ascending or descending neighbours."""
    if positions.size == 0:
        return slice(0, 0)
    first, last = int(positions[0]), int(positions[-1])
    if last >= first:
        return slice(first, last + 1)
    return slice(first, last - 1 if last > 0 else None, -1)


def _interpolate(
    array: NDArray[np.float32], positions: list[NDArray[np.float64]], steps: list[float]
) -> NDArray[np.float32]:
    shape = array.shape[1:]
    weights = [linear_weights(p, n, s) for p, n, s in zip(positions, shape, steps, strict=True)]

    def order(axis: int) -> tuple[bool, int]:
        # Shrink before growing; the axis that is outermost in memory needs no copy of a large array.
        grows = len(positions[axis]) > shape[axis]
        stride = abs(array.strides[axis + 1])
        return grows, stride if grows else -stride

    channels = []
    for channel in array:
        for axis in sorted(range(len(shape)), key=order):
            channel = weigh_axis(channel, weights[axis], axis)
        channels.append(np.ascontiguousarray(channel))
    return np.stack(channels) if len(channels) > 1 else channels[0][None]
