"""How sure the network was of regions: the probability of a region is the sum over its labels, block by block."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from medseg.inference.certainty import STEPS
from medseg.inference.union_plan import Classes, UnionPlan
from medseg.transforms.block_restore import Box

UNCERTAIN = (0.2, 0.8)
"""Between these probabilities a voxel counts as undecided."""

NEGLIGIBLE = 1e-6
"""Classes that are less likely than this in all of a block add less than 2e-5 to its entropy each."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UnionSums:
    """Sums over the voxels of a region, by its classes, and how many voxels are undecided about it."""

    probability: float
    entropy: float
    undecided: int


class UnionTally:
    """Probabilities of regions where one of their labels won, gathered block by block.

    Parameters
    ----------
    size : sequence of int
        Voxels of the prepared image.
    plan : UnionPlan
    keep : bool, optional
        Whether the probability of each voxel is kept, two bytes a voxel and layer.
    device : torch.device or str, optional
        Of the blocks; what is gathered stays there until it is asked for.
    """

    def __init__(
        self, size: Sequence[int], plan: UnionPlan, *, keep: bool = True, device: torch.device | str = "cpu"
    ) -> None:
        self._unions = [(number, classes) for number, layer in enumerate(plan.layers) for classes in layer]
        kept = len(plan.layers) if keep else 0
        # The bits are those of uint16, which torch does not compute with; of NumPy as in `LabelTally`.
        self._steps = [torch.from_numpy(np.zeros(tuple(size), np.int16)).to(device) for _ in range(kept)]
        self._sums = torch.zeros((len(self._unions), 3), dtype=torch.float64, device=device)

    @cached_property
    def steps(self) -> tuple[NDArray[np.uint16], ...]:
        """(*size) for each layer, in steps of 1 / 65535; 0 where none of its regions holds the voxel."""
        return tuple(layer.cpu().numpy().view(np.uint16) for layer in self._steps)

    @cached_property
    def sums(self) -> dict[Classes, UnionSums]:
        """By classes; asked for after the last block."""
        return {
            classes: UnionSums(probability=likely, entropy=entropy, undecided=round(undecided))
            for (_, classes), (likely, entropy, undecided) in zip(
                self._unions, self._sums.tolist(), strict=True
            )
        }

    def add(self, place: Box, winner: Tensor, values: Tensor, entropy: Tensor | None = None) -> None:
        """Take a block, each voxel once.

        Parameters
        ----------
        place : tuple of slice
        winner : (*place) integer tensor
            Class of each voxel.
        values : (L, *place) float32 tensor
            Probabilities of the classes.
        entropy : (*place) float32 tensor, optional
            Of the classes, see `normalised_entropy`; without it that of regions is not summed.
        """
        if not self._unions:
            return
        present = set(above(values, NEGLIGIBLE))
        for sums, (number, classes) in zip(self._sums, self._unions, strict=True):
            likely = [index for index in classes if index in present]
            if not likely:
                continue
            total, held = _total(values, likely), _one_of(winner, classes)
            sums[0] += _sum_where(held, total)
            sums[2] += torch.count_nonzero((total > UNCERTAIN[0]) & (total < UNCERTAIN[1]))
            kinds = len(values) - len(classes) + 1
            if entropy is not None and kinds > 1:
                merged = _merged_entropy(entropy, values, likely, total)
                sums[1] += _sum_where(held, merged) / math.log(kinds)
            if self._steps:
                part = self._steps[number][place]
                part.copy_(torch.where(held, (total * STEPS).round_().to(torch.int32).to(torch.int16), part))


def above(values: Tensor, limit: float) -> list[int]:
    """Channels with a value above a limit; all where they lie on another device, which would have to be waited for."""
    if values.device.type != "cpu":
        return list(range(len(values)))
    found: list[int] = torch.nonzero(values.flatten(1).amax(dim=1) > limit).flatten().tolist()
    return found


def _total(values: Tensor, classes: Sequence[int]) -> Tensor:
    total = values[classes[0]].clone()
    for index in classes[1:]:
        total += values[index]
    return total.clamp_(0, 1)


def _one_of(winner: Tensor, classes: Sequence[int]) -> Tensor:
    held: Tensor = winner == classes[0]
    for index in classes[1:]:
        held |= winner == index
    return held


def _sum_where(held: Tensor, values: Tensor) -> Tensor:
    found: Tensor = torch.where(held, values, 0.0).sum(dtype=torch.float64)
    return found


def _merged_entropy(entropy: Tensor, values: Tensor, classes: Sequence[int], total: Tensor) -> Tensor:
    """Entropy in nats where these classes are one: what they are apart by is taken off."""
    merged = entropy * math.log(len(values)) + torch.special.entr(total)
    for index in classes:
        merged -= torch.special.entr(values[index].clamp(min=0.0))
    found: Tensor = merged.clamp_(min=0.0)
    return found
