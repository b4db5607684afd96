"""How sure the network was, in numbers that a gate and a report can use, gathered block by block."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from medseg.inference.certainty import STEPS
from medseg.inference.postprocess import bounding_box
from medseg.inference.spread import SPREAD
from medseg.inference.union_plan import UnionPlan
from medseg.inference.unions import NEGLIGIBLE, UNCERTAIN, UnionTally, above
from medseg.labels import LabelTable
from medseg.transforms.block_restore import Box
from medseg.transforms.class_choice import index_dtype, largest_of

CORE_DEPTH = 2
"""Voxels of the prepared grid between the border of a mask and its core."""

# Voxels of the slabs in which cores are made: a core takes several bytes a voxel while it is.
_SLAB_VOXELS = 1 << 23


class LabelTally:
    """The most probable class of each voxel, and nothing else.

    Parameters
    ----------
    size : sequence of int
        Voxels of the prepared image.
    table : LabelTable
    device : torch.device or str, optional
        Of the blocks. What is gathered of them stays there until it is asked for, so that none is waited for.
    """

    def __init__(self, size: Sequence[int], table: LabelTable, *, device: torch.device | str = "cpu") -> None:
        # Of NumPy, so that pages of the memory that no block writes are never taken.
        self._labels = torch.from_numpy(np.zeros(tuple(size), index_dtype(table.class_count))).to(device)

    @cached_property
    def label_map(self) -> NDArray[np.uint8 | np.int16]:
        """(*size) most probable class of each voxel, on the prepared grid; asked for after the last block."""
        found: NDArray[np.uint8 | np.int16] = self._labels.cpu().numpy()
        return found

    def add(self, place: Box, values: Tensor, spread: Tensor | None = None) -> None:
        """Take a block of probabilities, (L, *place) float32; each voxel once."""
        self._labels[place] = largest_of(values)[0]


class ConfidenceTally(LabelTally):
    """Sums over blocks of probabilities; keeps a label and a probability per voxel, not one per class.

    Regions are looked at as wholes: a voxel torn between two labels of a region may surely be the region's. Beside the
    probability of the winning class, those of regions take two bytes a voxel for each layer of `UnionPlan`.

    Parameters
    ----------
    size : sequence of int
        Voxels of the prepared image.
    table : LabelTable
    device : torch.device or str, optional
        As in `LabelTally`.
    """

    def __init__(self, size: Sequence[int], table: LabelTable, *, device: torch.device | str = "cpu") -> None:
        super().__init__(size, table, device=device)
        self._table = table
        # In steps of 1 / 65535, a quarter of the memory of float64 and exact enough for a mean. The bits are those of
        # uint16, which torch does not compute with.
        self._winning = torch.from_numpy(np.zeros(tuple(size), np.int16)).to(device)
        count = table.class_count
        self._voxel_sums = torch.zeros(count, dtype=torch.int64, device=device)
        self._entropy_sums = torch.zeros(count, dtype=torch.float64, device=device)
        self._undecided_sums = torch.zeros(count, dtype=torch.int64, device=device)
        self._spread_sums: Tensor | None = None
        self.plan = UnionPlan.of(table)
        self._unions = UnionTally(size, self.plan, device=device)

    @cached_property
    def winning(self) -> NDArray[np.uint16]:
        """(*size) probability of the most probable class in steps of 1 / 65535; asked for after the last block."""
        found: NDArray[np.uint16] = self._winning.cpu().numpy().view(np.uint16)
        return found

    @property
    def unions(self) -> tuple[NDArray[np.uint16], ...]:
        """(*size) for each layer of `plan`, probability of the region that holds the voxel; see `UnionTally.steps`."""
        return self._unions.steps

    @cached_property
    def _voxels(self) -> NDArray[np.int64]:
        return self._voxel_sums.cpu().numpy()

    @cached_property
    def _entropy(self) -> NDArray[np.float64]:
        return self._entropy_sums.cpu().numpy()

    @cached_property
    def _undecided(self) -> NDArray[np.int64]:
        return self._undecided_sums.cpu().numpy()

    @cached_property
    def _spread(self) -> NDArray[np.float64] | None:
        return None if self._spread_sums is None else self._spread_sums.cpu().numpy()

    def add(self, place: Box, values: Tensor, spread: Tensor | None = None) -> None:
        """Take a block of probabilities, each voxel once.

        Parameters
        ----------
        place : tuple of slice
        values : (L, *place) float32 tensor
        spread : (2, *place) float32 tensor, optional
            Of the members of an ensemble, see `MemberSpread`.
        """
        winner, best = largest_of(values)
        self._labels[place] = winner
        # To int32 first: a float beyond the range of int16 becomes anything.
        self._winning[place] = (best.clamp(0, 1) * STEPS).round_().to(torch.int32).to(torch.int16)
        self._voxel_sums += sums_by_class(winner, None, len(values))
        entropy = normalised_entropy(values)
        self._entropy_sums += sums_by_class(winner, entropy, len(values))
        self._unions.add(place, winner, values, entropy)
        if spread is not None:
            self._add_spread(winner, spread)
        for index in above(values, UNCERTAIN[0]):
            channel = values[index]
            self._undecided_sums[index] += torch.count_nonzero(
                (channel > UNCERTAIN[0]) & (channel < UNCERTAIN[1])
            )

    def labels(self) -> dict[str, dict[str, float]]:
        """How sure the network was of each label and region that it found.

        Returns
        -------
        dict
            By name, labels before regions, those without a voxel left out: `mean_probability` of the label over the
            mask's core (voxels more than two from its border; the whole mask where none is), the share of the
            core with less than 0.8 as `uncertain_core` (left out where there is no core), the
            voxels whose probability lies between 0.2 and 0.8 as `uncertain_share` of the mask, and
            the mean `entropy` of the mask, 0 (one class is certain) to 1 (all are equally likely). Of an ensemble also
            the mean `disagreement` and `variance` of its members over the mask, see `MemberSpread`.

            The probability of a region is the sum over its labels, and its entropy that of classes of which its
            labels are one. `disagreement` and `variance` are of labels alone.
        """
        found = {}
        for index, name in enumerate(self._table.names[1:], start=1):
            if not self._voxels[index]:
                continue
            voxels = int(self._voxels[index])
            found[name] = {
                **self._core((index,), self.winning),
                "uncertain_share": float(self._undecided[index] / voxels),
                "entropy": float(self._entropy[index] / voxels),
            }
            if self._spread is not None:
                found[name] |= dict(zip(SPREAD, (self._spread[:, index] / voxels).tolist(), strict=True))
        return found | self._regions(found)

    def _regions(self, labels: Mapping[str, dict[str, float]]) -> dict[str, dict[str, float]]:
        found: dict[str, dict[str, float]] = {}
        for name, classes in self._table.region_classes().items():
            if name in self._table.names:
                continue
            voxels = int(self._voxels[list(set(classes))].sum())
            if not voxels:
                continue
            if name not in self.plan.names:
                # Of a single label, or of the background, of which nothing is told.
                alone = labels.get(self._table.names[classes[0]])
                found |= {} if alone is None else {name: dict(alone)}
                continue
            union = self.plan.names[name]
            sums = self._unions.sums[union]
            found[name] = {
                **self._core(union, self._unions.steps[self.plan.layer(union)]),
                "uncertain_share": sums.undecided / voxels,
                "entropy": sums.entropy / voxels,
            }
        return found

    def image(self) -> dict[str, float]:
        """Mean entropy of the `image` and, where there is any, of the `foreground`; 0 to 1."""
        summary = {"image": float(self._entropy.sum() / self._voxels.sum())}
        if self._voxels[1:].any():
            summary["foreground"] = float(self._entropy[1:].sum() / self._voxels[1:].sum())
        return summary

    def disagreement(self) -> dict[str, float]:
        """Mean disagreement of the members over the `image` and, where there is any, the `foreground`; 0 to 1.

        Empty where there is one network.
        """
        if self._spread is None:
            return {}
        apart = self._spread[SPREAD.index("disagreement")]
        summary = {"image": float(apart.sum() / self._voxels.sum())}
        if self._voxels[1:].any():
            summary["foreground"] = float(apart[1:].sum() / self._voxels[1:].sum())
        return summary

    def _add_spread(self, winner: Tensor, spread: Tensor) -> None:
        classes = len(self._voxel_sums)
        if self._spread_sums is None:
            self._spread_sums = self._entropy_sums.new_zeros((len(SPREAD), classes))
        for row, channel in zip(self._spread_sums, spread, strict=True):
            row += sums_by_class(winner, channel, classes)

    def _core(self, classes: Sequence[int], steps: NDArray[np.uint16]) -> dict[str, float]:
        """Of the core of a mask, slab by slab."""
        box = bounding_box(self.label_map, classes)
        if box is None:
            raise ValueError(f"classes {classes} have voxels but no box")
        labels, values = self.label_map[box], steps[box]
        lookup = np.zeros(self._table.class_count, dtype=np.bool_)
        lookup[list(classes)] = True
        core, whole = _CoreSums(), _CoreSums()
        depth = max(1, _SLAB_VOXELS * len(labels) // max(1, labels.size))
        for start in range(0, len(labels), depth):
            first, stop = max(0, start - CORE_DEPTH), start + depth
            mask = lookup[labels[first : stop + CORE_DEPTH]]
            inside = slice(start - first, start - first + len(labels[start:stop]))
            whole.add(values[start:stop][mask[inside]])
            core.add(values[start:stop][mask_core(mask, CORE_DEPTH)[inside]])
        chosen = core if core.voxels else whole
        found = {"mean_probability": chosen.total / chosen.voxels / STEPS}
        if core.voxels:
            found["uncertain_core"] = core.unsure / core.voxels
        return found


@dataclass(slots=True)
class _CoreSums:
    """Voxels of a core, the sum of their probabilities in steps, and how many are undecided."""

    voxels: int = 0
    total: int = 0
    unsure: int = 0

    def add(self, values: NDArray[np.uint16]) -> None:
        self.voxels += values.size
        self.total += int(values.sum(dtype=np.int64))
        self.unsure += int(np.count_nonzero(values < UNCERTAIN[1] * STEPS))


def mask_core(mask: NDArray[np.bool_], depth: int) -> NDArray[np.bool_]:
    """Voxels of a mask whose neighbours up to `depth` voxels away along any axis, diagonals too, all lie in it.

    That is the erosion by a cube of 2 depth + 1 voxels, nothing beyond the array, one axis after the other; SciPy's
    takes some twenty times as long.

    Parameters
    ----------
    mask : bool array
    depth : int
    """
    width, core = 2 * depth + 1, mask
    for axis in range(mask.ndim):
        length, held = core.shape[axis], 1
        kept = np.zeros_like(core)
        if length >= width:
            # Where a run of `held` voxels begins; two such runs, one behind the other or over it, make a longer one.
            run = core
            while held < width:
                step = min(held, width - held)
                run = _part(run, axis, 0, -step) & _part(run, axis, step, None)
                held += step
            _part(kept, axis, depth, length - depth)[...] = run
        core = kept
    return core


def _part(values: NDArray[np.bool_], axis: int, start: int, stop: int | None) -> NDArray[np.bool_]:
    return values[(slice(None),) * axis + (slice(start, stop),)]


def normalised_entropy(probabilities: Tensor) -> Tensor:
    """(L, ...) probabilities -> (...) entropy divided by its largest value, log L."""
    entropy = torch.zeros(probabilities.shape[1:], dtype=torch.float32, device=probabilities.device)
    for index in above(probabilities, NEGLIGIBLE):
        entropy.add_(torch.special.entr(probabilities[index].clamp(min=0.0)))
    return entropy.div_(math.log(len(probabilities)))


def sums_by_class(winner: Tensor, values: Tensor | None, classes: int) -> Tensor:
    """(classes,) float64 sums of values over the voxels of each class, or the int64 number of these voxels.

    Parameters
    ----------
    winner : (...) integer tensor
    values : (...) float tensor or None
    classes : int
    """
    if winner.device.type == "cpu":
        weights = None if values is None else values.flatten().double()
        return torch.bincount(winner.flatten(), weights, minlength=classes)
    # `bincount` asks a device for the largest class, and adds up in an order of its own.
    masks = (winner == index for index in range(classes))
    if values is None:
        return torch.stack([torch.count_nonzero(mask) for mask in masks])
    return torch.stack([torch.where(mask, values, 0.0).sum(dtype=torch.float64) for mask in masks])
