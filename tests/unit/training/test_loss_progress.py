"""A loss with a term that grows hears from the trainer how far the training is."""

from __future__ import annotations

import numpy as np
import tiny

from medseg.training.loss_options import BoundaryOptions
from medseg.training.losses import SegmentationLoss


def test_the_loss_is_told_the_share_of_epochs_that_are_done(tmp_path):
    told = []

    class Told(SegmentationLoss):
        def set_progress(self, done: float) -> None:
            told.append(done)
            super().set_progress(done)

    loss = Told(BoundaryOptions(), set_matrix=np.eye(2, dtype=np.bool_), regions={})
    tiny.run(tmp_path, loss=loss, epochs=4, keep="last")
    assert told == [0.0, 0.0, 0.25, 0.5, 0.75]
