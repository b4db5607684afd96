"""How likely the winning class was at each voxel of the source, looked up box by box. NumPy only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medseg.geometry import GridMap
from medseg.inference.union_plan import UnionPlan
from medseg.tilt import Shear, unstraighten_labels

STEPS = 65535
"""Probabilities are kept in steps of 1 / 65535."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CertaintyMap:
    """Winning class and its probability on the grid that the network saw: three bytes a voxel, two more for regions.

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
    unions : tuple of (*prepared) uint16 array
        For each layer of `plan` the probability of the region that holds a voxel, the sum over its labels.
    plan : UnionPlan
    """

    label_map: NDArray[Any]
    winning: NDArray[np.uint16]
    grid: GridMap
    temperature: float = 1.0
    unions: tuple[NDArray[np.uint16], ...] = ()
    plan: UnionPlan = field(default_factory=UnionPlan)

    def __call__(self, box: tuple[slice, ...], classes: Sequence[int]) -> NDArray[np.float32]:
        """Probabilities in a box of the source, NaN where none of the classes won or the network saw nothing.

        Of the classes of a region it is that of the region; of other classes that of the one which won.

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
        values = np.where(known, self._steps(classes)[places] / np.float32(STEPS), np.float32(np.nan))
        turned = np.transpose(values, np.argsort(order)).astype(np.float32, copy=False)
        return turned.reshape([s.stop - s.start for s in box])

    def _steps(self, classes: Sequence[int]) -> NDArray[np.uint16]:
        union = tuple(sorted({int(index) for index in classes}))
        if not self.unions or union not in self.plan.names.values():
            return self.winning
        return self.unions[self.plan.layer(union)]


def source_certainty(
    label_map: NDArray[Any],
    winning: NDArray[np.uint16],
    grid: GridMap,
    shear: Shear | None,
    *,
    temperature: float = 1.0,
    unions: tuple[NDArray[np.uint16], ...] = (),
    plan: UnionPlan | None = None,
) -> CertaintyMap:
    """The map of a prediction; that of a tilted volume is brought back onto its slices, as many bytes a voxel.

    Parameters
    ----------
    label_map, winning, grid, temperature, unions, plan
        As in `CertaintyMap`; the grid leads from the straight grid where the volume was tilted.
    shear : Shear or None
    """
    straight = CertaintyMap(
        label_map=label_map,
        winning=winning,
        grid=grid,
        temperature=temperature,
        unions=unions,
        plan=plan or UnionPlan(),
    )
    if shear is None:
        return straight
    indices = []
    for target, (source, scale, offset) in enumerate(grid.axis_maps()):
        index = np.floor((np.arange(grid.source_shape[source]) - offset) / scale + 0.5).astype(np.int64)
        inside = (index >= 0) & (index < label_map.shape[target])
        indices.append((np.clip(index, 0, label_map.shape[target] - 1), inside, source))
    order = np.argsort([source for _, _, source in indices])
    places = np.ix_(*(index for index, _, _ in indices))

    def on_slices(values: NDArray[Any]) -> NDArray[Any]:
        shown = values[places]
        for axis, (_, inside, _) in enumerate(indices):
            shown[(*(slice(None),) * axis, ~inside)] = 0
        return unstraighten_labels(np.transpose(shown, order), shear)

    return replace(
        straight,
        label_map=on_slices(label_map),
        winning=on_slices(winning),
        unions=tuple(map(on_slices, unions)),
        grid=GridMap.identity(shear.source_shape),
    )
