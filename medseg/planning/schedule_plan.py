"""How long an epoch is, how often it is validated, how fast the weights move."""

from __future__ import annotations

import math
from collections.abc import Sequence

from medseg.planning.decision import Decision, chosen

# Updates of an epoch: enough for a curve, few enough to validate and save now and then.
_LEAST_UPDATES = 25
_MOST_UPDATES = 250
# A forward pass costs about a third of a training step on as many voxels.
_STEP_COST = 3.0
_VALIDATION_SHARE = 0.05
_MOST_BETWEEN = 50
# As many samples as nnU-Net shows (1000 epochs of 250 batches of 2).
MOST_SAMPLES = 500_000
_EMA = 0.995


def plan_samples(case_count: int, batch: int) -> Decision:
    """Samples of an epoch."""
    least, most = _LEAST_UPDATES * batch, _MOST_UPDATES * batch
    samples = -(-min(most, max(least, case_count)) // batch) * batch
    if samples == -(-case_count // batch) * batch:
        reason = f"each of the {case_count} training cases once"
    else:
        reason = f"{samples // batch} updates; there are {case_count} training cases"
    return chosen("training.samples_per_epoch", samples, reason)


def plan_learning_rate(batch: int, *, optimiser: str, pretrained: bool) -> Decision:
    """Highest learning rate."""
    if optimiser == "sgd":
        rate, reason = 1e-2, "usual for stochastic gradient descent with momentum"
    else:
        rate, reason = min(2e-3, 1e-3 * math.sqrt(batch / 2)), f"1e-3 for batches of 2, by root for {batch}"
    if pretrained:
        rate, reason = 0.3 * rate, f"{reason}; a third of it, as the weights are trained already"
    return chosen("training.learning_rate", float(f"{rate:.2g}"), reason)


def plan_ema(pretrained: bool) -> Decision:
    """Decay of the moving average of weights; its own warm-up keeps the start out."""
    text = "mean of the last 200 updates or so: steadier than any single one"
    return chosen("training.ema", 0.99 if pretrained else _EMA, text)


def plan_validation(*, validation_voxels: float, epoch_voxels: float) -> Decision:
    """Epochs between validations, so that they take about a twentieth of the time.

    Parameters
    ----------
    validation_voxels, epoch_voxels : float
        Shown to the network in one validation, and in the steps of one epoch.
    """
    share = validation_voxels / (_STEP_COST * epoch_voxels)
    every = min(_MOST_BETWEEN, max(1, math.ceil(share / _VALIDATION_SHARE)))
    reason = f"one validation costs about {100 * share:.0f} % of an epoch" if share else "no validation cases"
    return chosen("training.validate_every", every, reason)


def windows_in(shape: Sequence[int], window: Sequence[int] | None, overlap: float) -> int:
    """Windows that cover an image, as the sliding window places them."""
    if window is None:
        return 1
    count = 1
    for n, w in zip(shape, window, strict=True):
        count *= 1 + -(-max(0, n - w) // max(int(w * (1 - overlap)), 1))
    return count


def shown_voxels(shapes: Sequence[Sequence[int]], window: Sequence[int] | None, *, overlap: float) -> float:
    """Voxels that the network is shown to predict images of these shapes."""
    return float(sum(windows_in(s, window, overlap) * math.prod(window or s) for s in shapes))
