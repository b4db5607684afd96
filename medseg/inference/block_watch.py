"""Looking at the probabilities of a prediction while they are there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from torch import Tensor

from medseg.geometry import GridMap
from medseg.inference.blended_ensemble import BlendedBlock
from medseg.transforms.straighten import Shear


class BlockWatch(Protocol):
    """Looks at the probabilities of a pass, block by block."""

    def add(self, block: BlendedBlock, calibrated: Tensor) -> None:
        """Take a finished block and its (L, *place) calibrated probabilities, each voxel once."""


StartWatch = Callable[[GridMap, Shear | None], BlockWatch]
"""Begins to watch a pass, given the map from the (straight) source to its grid and how the source was straightened."""
PassWatch = Callable[[GridMap], BlockWatch]


def bound(start: StartWatch | None, shear: Shear | None) -> PassWatch | None:
    """The same for a volume whose straightening is known."""
    return None if start is None else lambda grid: start(grid, shear)
