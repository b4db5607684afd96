"""What is left of one pass of a network over an image."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medseg.geometry import GridMap
from medseg.inference.block_watch import BlockWatch
from medseg.inference.calibrated_tally import CalibratedTally
from medseg.inference.confidence import ConfidenceTally, LabelTally
from medseg.inference.window_batches import WindowTally
from medseg.transforms.preprocess import Prepared


@dataclass(frozen=True, slots=True, kw_only=True)
class Pass:
    """What is left of one pass: its probabilities were there block by block."""

    whole: Prepared
    prepared: Prepared
    grid: GridMap
    tally: LabelTally
    windows: WindowTally
    label_map: NDArray[Any]
    maps: Mapping[str, NDArray[np.uint8]]
    passes: int
    notes: tuple[str, ...]
    calibrated: CalibratedTally | None
    watch: BlockWatch | None

    @property
    def winning(self) -> NDArray[np.uint16]:
        """Probability of the winning class, calibrated where there is a temperature."""
        if self.calibrated is not None and self.calibrated.winning is not None:
            return self.calibrated.winning
        if not isinstance(self.tally, ConfidenceTally):
            raise TypeError("the pass was not asked for confidence")
        return self.tally.winning

    @property
    def unions(self) -> tuple[NDArray[np.uint16], ...]:
        """The same of regions, see `ConfidenceTally.unions`."""
        if self.calibrated is not None and self.calibrated.winning is not None:
            return self.calibrated.unions
        if not isinstance(self.tally, ConfidenceTally):
            raise TypeError("the pass was not asked for confidence")
        return self.tally.unions
