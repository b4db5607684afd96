"""How likely the winning class was at each voxel of the source, looked up box by box. NumPy only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medseg.geometry import GridMap
from medseg.tilt import Shear, unstraighten_labels

STEPS = 65535
"""Probabilities are kept in steps of 1 / 65535."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CertaintyMap:
    """Winning class and its probability on the grid that the network saw: three bytes a voxel.

    Nothing is resampled as a whole: a box of the source is looked up where it is asked for, each source voxel
    at the nearest voxel of the network's grid.

    Parameters
    ----------
    label_map : (*prepared) integer array
        Winning class.
    winning : (*prepared) uint16 array
        Its probability in steps of 1 / 65535.
    grid : GridMap
        From the source grid to the prepared one.
    temperature : float
        By which probabilities were calibrated; 1 where they are the network's own.
    """

    label_map: NDArray[Any]
    winning: NDArray[np.uint16]
    grid: GridMap
    temperature: float = 1.0

    def __call__(self, box: tuple[slice, ...], classes: Sequence[int]) -> NDArray[np.float32]:
        """Probabilities in a box of the source, NaN where none of the classes won or the network saw nothing.

        Parameters
        ----------
        box : tuple of slice
            With start and stop along each axis of the source; a picture may have a third of one voxel.
        classes : sequence of int

        Returns
        -------
        (*box) float32 array
        """
        dims = len(self.grid.source_shape)
        indices, seen, order = [], [], []
        for target, (source, scale, offset) in enumerate(self.grid.axis_maps()):
            part, size = box[source], self.label_map.shape[target]
            index = np.floor((np.arange(part.start, part.stop) - offset) / scale + 0.5).astype(np.int64)
            seen.append((index >= 0) & (index < size))
            indices.append(np.clip(index, 0, size - 1))
            order.append(source)
        places = np.ix_(*indices)
        known = np.isin(self.label_map[places], list(classes))
        for axis, inside in enumerate(seen):
            known &= inside.reshape([-1 if a == axis else 1 for a in range(dims)])
        values = np.where(known, self.winning[places] / np.float32(STEPS), np.float32(np.nan))
        turned = np.transpose(values, np.argsort(order)).astype(np.float32, copy=False)
        return turned.reshape([s.stop - s.start for s in box])


def source_certainty(
    label_map: NDArray[Any],
    winning: NDArray[np.uint16],
    grid: GridMap,
    shear: Shear | None,
    *,
    temperature: float = 1.0,
) -> CertaintyMap:
    """The map of a prediction; that of a tilted volume is brought back onto its slices, three bytes a voxel.

    Parameters
    ----------
    label_map, winning, grid, temperature
        As in `CertaintyMap`; the grid leads from the straight grid where the volume was tilted.
    shear : Shear or None
    """
    straight = CertaintyMap(label_map=label_map, winning=winning, grid=grid, temperature=temperature)
    if shear is None:
        return straight
    indices = []
    for target, (source, scale, offset) in enumerate(grid.axis_maps()):
        index = np.floor((np.arange(grid.source_shape[source]) - offset) / scale + 0.5).astype(np.int64)
        inside = (index >= 0) & (index < label_map.shape[target])
        indices.append((np.clip(index, 0, label_map.shape[target] - 1), inside, source))
    order = np.argsort([source for _, _, source in indices])
    places = np.ix_(*(index for index, _, _ in indices))
    labels, steps = label_map[places], winning[places]
    for axis, (_, inside, _) in enumerate(indices):
        outside = [slice(None)] * labels.ndim
        outside[axis] = ~inside
        labels[tuple(outside)], steps[tuple(outside)] = 0, 0
    return CertaintyMap(
        label_map=unstraighten_labels(np.transpose(labels, order), shear),
        winning=unstraighten_labels(np.transpose(steps, order), shear),
        grid=GridMap.identity(shear.source_shape),
        temperature=temperature,
    )
