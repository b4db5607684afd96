"""Calibrated probabilities of the classes that won, beside the sums that gate and flags were made for."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from medseg.inference.certainty import STEPS
from medseg.inference.confidence import sums_by_class
from medseg.inference.union_plan import UnionPlan
from medseg.inference.unions import UnionTally
from medseg.labels import LabelTable
from medseg.transforms.block_restore import Box


class CalibratedTally:
    """What a temperature makes of the probabilities of the winning classes, and of the regions that hold them.

    The limits of input gate and flags are those of the network's own probabilities, so `ConfidenceTally` goes on to sum
    those; this keeps the calibrated ones for whoever reads them as probabilities.

    Parameters
    ----------
    size : sequence of int
        Voxels of the prepared image.
    table : LabelTable
    keep : bool
        Whether the probability of each voxel is kept, two bytes a voxel, and as many for each layer of regions.
    device : torch.device or str, optional
        Of the blocks; see `LabelTally`.
    """

    def __init__(
        self, size: Sequence[int], table: LabelTable, *, keep: bool, device: torch.device | str = "cpu"
    ) -> None:
        self._table = table
        self._sums = torch.zeros((2, table.class_count), dtype=torch.float64, device=device)
        self._winning = torch.from_numpy(np.zeros(tuple(size), np.int16)).to(device) if keep else None
        self._plan = UnionPlan.of(table)
        self._unions = UnionTally(size, self._plan, keep=keep, device=device)

    @cached_property
    def winning(self) -> NDArray[np.uint16] | None:
        """(*size) calibrated probability of the winning class in steps of 1 / 65535, where it is kept."""
        return None if self._winning is None else self._winning.cpu().numpy().view(np.uint16)

    @property
    def unions(self) -> tuple[NDArray[np.uint16], ...]:
        """The same of regions, as `ConfidenceTally.unions`; empty where nothing is kept."""
        return self._unions.steps

    def add(self, place: Box, probabilities: Tensor, calibrated: Tensor) -> None:
        """Take a block, each voxel once.

        Parameters
        ----------
        place : tuple of slice
        probabilities : (L, *place) float32 tensor
            That choose the winner.
        calibrated : (L, *place) float32 tensor
        """
        winner = probabilities.argmax(dim=0)
        best = calibrated.gather(0, winner[None])[0].clamp(0, 1)
        classes = self._table.class_count
        self._sums[0] += sums_by_class(winner, None, classes)
        self._sums[1] += sums_by_class(winner, best, classes)
        if self._winning is not None:
            self._winning[place] = (best * STEPS).round_().to(torch.int32).to(torch.int16)
        self._unions.add(place, winner, calibrated)

    def labels(self) -> dict[str, float]:
        """Mean calibrated probability of each label and region over its mask, those without a voxel left out."""
        counts, sums = self._sums.tolist()
        found = {}
        for name, classes in self._table.region_classes().items():
            voxels = sum(counts[index] for index in set(classes))
            if voxels:
                union = self._plan.names.get(name)
                total = sums[classes[0]] if union is None else self._unions.sums[union].probability
                found[name] = total / voxels
        return found


def with_calibrated(
    labels: dict[str, dict[str, float]], calibrated: CalibratedTally | None
) -> dict[str, dict[str, float]]:
    """What `ConfidenceTally.labels` says, and `calibrated_probability` where there is a temperature."""
    known = {} if calibrated is None else calibrated.labels()
    return {
        name: values | ({"calibrated_probability": known[name]} if name in known else {})
        for name, values in labels.items()
    }
