"""How sure the network was, in numbers that a gate and a report can use, gathered block by block."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from medseg.inference.certainty import STEPS
from medseg.inference.postprocess import bounding_box
from medseg.inference.spread import SPREAD
from medseg.labels import LabelTable
from medseg.transforms.block_restore import Box
from medseg.transforms.class_choice import index_dtype, largest_of

CORE_DEPTH = 2
"""Voxels of the prepared grid between the border of a mask and its core."""

UNCERTAIN = (0.2, 0.8)
"""Between these probabilities a voxel counts as undecided."""

# Classes that are less likely than this in all of a block add less than 2e-5 to its entropy each.
_NEGLIGIBLE = 1e-6


class LabelTally:
    """The most probable class of each voxel, and nothing else.

    Parameters
    ----------
    size : sequence of int
        Voxels of the prepared image.
    table : LabelTable
    """

    def __init__(self, size: Sequence[int], table: LabelTable) -> None:
        count = table.class_count
        self.label_map: NDArray[np.uint8 | np.int16] = np.zeros(tuple(size), index_dtype(count))
        """(*size) most probable class of each voxel, on the prepared grid."""

    def add(self, place: Box, values: Tensor, spread: Tensor | None = None) -> None:
        """Take a block of probabilities, (L, *place) float32 on the CPU; each voxel once."""
        self.label_map[place] = largest_of(values)[0].numpy()


class ConfidenceTally(LabelTally):
    """Sums over blocks of probabilities; keeps a label and a probability per voxel, not one per class.

    Parameters
    ----------
    size : sequence of int
        Voxels of the prepared image.
    table : LabelTable
    """

    def __init__(self, size: Sequence[int], table: LabelTable) -> None:
        super().__init__(size, table)
        self._table = table
        count = table.class_count
        # In steps of 1 / 65535, a quarter of the memory of float64 and exact enough for a mean.
        self.winning: NDArray[np.uint16] = np.zeros(tuple(size), np.uint16)
        """(*size) probability of that class in steps of 1 / 65535."""
        self._entropy = np.zeros(count, np.float64)
        self._voxels = np.zeros(count, np.int64)
        self._undecided = np.zeros(count, np.int64)
        self._spread: NDArray[np.float64] | None = None

    def add(self, place: Box, values: Tensor, spread: Tensor | None = None) -> None:
        """Take a block of probabilities, each voxel once.

        Parameters
        ----------
        place : tuple of slice
        values : (L, *place) float32 tensor on the CPU
        spread : (2, *place) float32 tensor, optional
            Of the members of an ensemble, see `MemberSpread`.
        """
        winner, best = largest_of(values)
        self.label_map[place] = winner.numpy()
        self.winning[place] = (best.clamp(0, 1) * STEPS).round_().to(torch.int32).numpy()
        counts = torch.bincount(winner.flatten(), minlength=len(values))
        sums = torch.bincount(
            winner.flatten(), normalised_entropy(values).flatten().double(), minlength=len(values)
        )
        self._voxels += counts.numpy()
        self._entropy += sums.numpy()
        if spread is not None:
            self._add_spread(winner, spread)
        for index in torch.nonzero(values.flatten(1).amax(dim=1) > UNCERTAIN[0]).flatten().tolist():
            channel = values[index]
            self._undecided[index] += int(((channel > UNCERTAIN[0]) & (channel < UNCERTAIN[1])).sum())

    def labels(self) -> dict[str, dict[str, float]]:
        """How sure the network was of each label that it found.

        Returns
        -------
        dict
            By label name, labels without a voxel left out: `mean_probability` of the label over the
            mask's core (voxels more than two from its border; the whole mask where none is), the share of the
            core that was won with less than 0.8 as `uncertain_core` (left out where there is no core), the
            voxels whose probability lies between 0.2 and 0.8 as `uncertain_share` of the mask, and
            the mean `entropy` of the mask, 0 (one class is certain) to 1 (all are equally likely). Of an ensemble also
            the mean `disagreement` and `variance` of its members over the mask, see `MemberSpread`.
        """
        found = {}
        for index, name in enumerate(self._table.names[1:], start=1):
            if not self._voxels[index]:
                continue
            voxels = int(self._voxels[index])
            found[name] = {
                **self._core(index),
                "uncertain_share": float(self._undecided[index] / voxels),
                "entropy": float(self._entropy[index] / voxels),
            }
            if self._spread is not None:
                found[name] |= dict(zip(SPREAD, (self._spread[:, index] / voxels).tolist(), strict=True))
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
        classes = len(self._voxels)
        if self._spread is None:
            self._spread = np.zeros((len(SPREAD), classes), np.float64)
        for row, channel in zip(self._spread, spread, strict=True):
            row += torch.bincount(winner.flatten(), channel.flatten().double(), minlength=classes).numpy()

    def _core(self, index: int) -> dict[str, float]:
        box = bounding_box(self.label_map, (index,))
        if box is None:
            raise ValueError(f"class {index} has voxels but no box")
        mask = self.label_map[box] == index
        core = ndimage.binary_erosion(mask, structure=np.ones((3,) * mask.ndim), iterations=CORE_DEPTH)
        values = self.winning[box][core if core.any() else mask]
        found = {"mean_probability": float(values.mean(dtype=np.float64) / STEPS)}
        if core.any():
            found["uncertain_core"] = float(np.mean(values < UNCERTAIN[1] * STEPS))
        return found


def normalised_entropy(probabilities: Tensor) -> Tensor:
    """(L, ...) probabilities -> (...) entropy divided by its largest value, log L."""
    likely = torch.nonzero(probabilities.flatten(1).amax(dim=1) >= _NEGLIGIBLE).flatten().tolist()
    entropy = torch.zeros(probabilities.shape[1:], dtype=torch.float32)
    for index in likely:
        entropy.add_(torch.special.entr(probabilities[index].clamp(min=0.0)))
    return entropy.div_(math.log(len(probabilities)))
