"""Whether an engine's masks are those of float32 torch, on windows of the images at hand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

LEAST_AGREEMENT = 0.999
"""Share of foreground voxels on which an engine must give the same class."""

MOST_DICE_CHANGE = 0.001
"""What Dice may lose at most between the two masks, mean over the structures found."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Parity:
    """How far two sets of masks agree.

    Parameters
    ----------
    foreground : int
        Voxels that at least one of the two gives a structure.
    agreement : float
        Share of them that both give the same class, 0..1; 1 where there is no foreground.
    dice_change : float
        1 minus the mean, over structures that either has, of the Dice coefficient between the two; 0 without any.
    """

    foreground: int
    agreement: float
    dice_change: float

    @property
    def passes(self) -> bool:
        """Whether both figures are good enough, and there is something to judge by."""
        return (
            self.foreground > 0 and self.agreement >= LEAST_AGREEMENT and self.dice_change <= MOST_DICE_CHANGE
        )

    @property
    def text(self) -> str:
        """The figures, for a sentence."""
        if self.foreground == 0:
            return "no structure was found in the windows that were compared"
        # Rounded down, so that a figure below the limit never reads like the limit.
        share = np.floor(self.agreement * 1e5) / 1e3
        return (
            f"{share:.3f} % of {self.foreground} foreground voxels agree with float32 torch "
            f"(at least {100 * LEAST_AGREEMENT:g} %), Dice changes by {self.dice_change:.5f} "
            f"(at most {MOST_DICE_CHANGE:g})"
        )


def parity(reference: Sequence[NDArray[Any]], found: Sequence[NDArray[Any]]) -> Parity:
    """Agreement of label maps, pooled over windows.

    Parameters
    ----------
    reference, found : sequences of (*window) integer arrays
        Class indices, 0 is background; in the same order.
    """
    pairs = list(zip(reference, found, strict=True))
    classes = 1 + max((int(max(a.max(), b.max())) for a, b in pairs), default=0)
    table = np.zeros((classes, classes), np.int64)
    for a, b in pairs:
        pooled = a.astype(np.int64).ravel() * classes + b.ravel()
        table += np.bincount(pooled, minlength=classes**2).reshape(classes, classes)
    foreground = int(table.sum() - table[0, 0])
    equal = np.diag(table)[1:]
    sizes = (table.sum(axis=0) + table.sum(axis=1))[1:]
    present = sizes > 0
    dice = 2 * equal[present] / sizes[present]
    return Parity(
        foreground=foreground,
        agreement=float(equal.sum() / foreground) if foreground else 1.0,
        dice_change=float(1 - dice.mean()) if present.any() else 0.0,
    )
