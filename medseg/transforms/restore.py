"""A prediction on the network's grid, back onto the grid of the file.

One interpolation by the composed map of all preprocessing steps, axis by axis, a slab of the source
at a time: probabilities never exist at source size for more than a slab.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medseg.errors import GeometryError
from medseg.geometry import GridMap
from medseg.transforms.class_choice import index_dtype
from medseg.transforms.regrid import coordinates, covered_range, linear_weights, weigh_axis

_SLAB_VOXELS = 1 << 20


def restore_label_map(probabilities: NDArray[np.float32], grid: GridMap) -> NDArray[Any]:
    """Most probable class of each source voxel.

    Parameters
    ----------
    probabilities : (L, *target) float array
        Probabilities or logits on the network's grid, background first.
    grid : GridMap
        `Prepared.grid`: source to target.

    Returns
    -------
    (*source) uint8 array, int16 above 256 classes
        Class indices; of equally probable classes the lower one. Source voxels outside of the field
        that the network saw (cropped away) are 0, background.

    Raises
    ------
    GeometryError
        `probabilities` are not on the target grid.
    """
    dtype = index_dtype(probabilities.shape[0])
    restored = np.zeros(grid.source_shape, dtype=dtype)
    for place, slab in _slabs(probabilities, grid):
        winner = np.zeros(slab.shape, dtype=dtype)
        best = slab.interpolate(0)
        for index in range(1, probabilities.shape[0]):
            value = slab.interpolate(index)
            np.copyto(winner, dtype(index), where=value > best)
            np.maximum(best, value, out=best)
        restored[place] = winner
    return restored


def restore_channel(array: NDArray[np.float32], grid: GridMap, *, outside: float) -> NDArray[np.float32]:
    """One map, such as a probability, on the source grid.

    Parameters
    ----------
    array : (*target) float array
    grid : GridMap
        `Prepared.grid`: source to target.
    outside : float
        Value of source voxels that were cropped away.

    Returns
    -------
    (*source) float32 array
    """
    restored = np.full(grid.source_shape, outside, dtype=np.float32)
    for place, slab in _slabs(array[None], grid):
        restored[place] = slab.interpolate(0)
    return restored


@dataclass(frozen=True, slots=True, kw_only=True)
class _Slab:
    """Part of the target array and the weights, one matrix per source axis, that lead to source voxels."""

    values: NDArray[np.float32]
    weights: tuple[Any, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(int(w.shape[0]) for w in self.weights)

    def interpolate(self, index: int) -> NDArray[np.float32]:
        """Channel `index` at the slab's source voxels."""
        channel: NDArray[np.float32] = self.values[index]
        # Axis 0 last: by then it is the only one still short, and it is outermost in memory.
        for axis in reversed(range(channel.ndim)):
            channel = weigh_axis(channel, self.weights[axis], axis)
        return channel


def _slabs(array: NDArray[np.float32], grid: GridMap) -> Iterator[tuple[tuple[slice, ...], _Slab]]:
    """Slabs along the first source axis: where each lies in the source, and how it is made."""
    if tuple(array.shape[1:]) != grid.target_shape:
        raise GeometryError(
            f"expected a prediction on the grid {grid.target_shape}, found {tuple(array.shape[1:])}"
        )
    # axis_maps lists target axes; here each source axis asks which target axis it became.
    maps = sorted(
        (source, axis, scale, offset) for axis, (source, scale, offset) in enumerate(grid.axis_maps())
    )
    values = np.asarray(array, dtype=np.float32).transpose(0, *(1 + axis for _, axis, _, _ in maps))
    ranges, weights = [], []
    for source, axis, scale, offset in maps:
        length = grid.target_shape[axis]
        positions = coordinates(grid.source_shape[source], 1.0 / scale, -offset / scale)
        start, stop = covered_range(positions, length)
        ranges.append((start, stop))
        weights.append(linear_weights(positions[start:stop], length, 1.0 / scale))
    if any(start == stop for start, stop in ranges):
        return
    rest = tuple(slice(start, stop) for start, stop in ranges[1:])
    rows = max(1, _SLAB_VOXELS // max(1, int(np.prod([s.stop - s.start for s in rest]))))
    start, stop = ranges[0]
    for begin in range(start, stop, rows):
        end = min(begin + rows, stop)
        lines = weights[0][begin - start : end - start]
        low, high = int(lines.indices.min()), int(lines.indices.max()) + 1
        yield (
            (slice(begin, end), *rest),
            _Slab(values=values[:, low:high], weights=(lines[:, low:high], *weights[1:])),
        )
