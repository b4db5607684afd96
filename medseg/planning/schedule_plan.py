"""How long an epoch is, how often it is validated, how fast the weights move."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

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
# Of networks that are trained anew in 3-D: tried on one fold of hippocampus MR, rates of 1e-3 to 8e-3 and decays of
# 1e-2 to 0.5. Others keep the rates that are usual for them.
_VOLUME_NETWORKS = ("unet", "residual_unet", "attention_unet", "fcn", "small_unet")
_VOLUME_RATE = 4e-3
_VOLUME_DECAY = 0.05
_VOLUME_EMA = 0.999
_EMA = 0.995


def plan_samples(case_count: int, batch: int, *, part: int = 1) -> Decision:
    """Samples of an epoch; only a part of them, 1 / `part`, where the time would hold too few epochs."""
    least, most = _LEAST_UPDATES * batch, _MOST_UPDATES * batch
    samples = -(-min(most, max(least, case_count)) // (part * batch)) * batch
    if part > 1:
        reason = f"{samples // batch} updates: with more there were no time for several epochs"
    elif samples == -(-case_count // batch) * batch:
        reason = f"each of the {case_count} training cases once"
    else:
        reason = f"{samples // batch} updates; there are {case_count} training cases"
    return chosen("training.samples_per_epoch", samples, reason)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pupil:
    """What is trained.

    Parameters
    ----------
    network : str
        Its name in the YAML.
    dims : int
        2 or 3.
    pretrained : bool
        Whether its weights are trained already.
    """

    network: str
    dims: int
    pretrained: bool

    @property
    def fresh_volume(self) -> bool:
        """Whether it is a convolutional network for volumes, trained anew."""
        return self.dims == 3 and not self.pretrained and self.network in _VOLUME_NETWORKS


def plan_optimiser(pupil: Pupil) -> Decision:
    """Optimiser, by the weight decay that the rate below bears."""
    decay, reason = 1e-4, "usual"
    if pupil.fresh_volume:
        decay, reason = _VOLUME_DECAY, "a high rate on few cases needs more weight decay"
    return chosen("training.optimiser", {"use": "adamw", "weight_decay": decay}, reason)


def plan_schedule(pupil: Pupil) -> Decision:
    """Course of the learning rate."""
    name = "training.schedule"
    if pupil.fresh_volume:
        reason = "the mean of the weights takes the place of a falling rate, at whose end few cases are learnt by heart"
        return chosen(name, {"use": "constant", "warmup": 0.05}, reason)
    return chosen(name, {"use": "one_cycle"}, "up and down once, fitted to the epochs")


def plan_learning_rate(batch: int, *, optimiser: str, pupil: Pupil) -> Decision:
    """Highest learning rate."""
    if pupil.fresh_volume and optimiser == "adamw":
        rate = min(_VOLUME_RATE, _VOLUME_RATE * math.sqrt(batch / 4))
        return chosen(
            "training.learning_rate", float(f"{rate:.2g}"), f"4e-3 for batches of 4 and more, {batch} here"
        )
    if optimiser == "sgd":
        rate, reason = 1e-2, "usual for stochastic gradient descent with momentum"
    else:
        rate, reason = min(2e-3, 1e-3 * math.sqrt(batch / 2)), f"1e-3 for batches of 2, by root for {batch}"
    if pupil.pretrained:
        rate, reason = 0.3 * rate, f"{reason}; a third of it, as the weights are trained already"
    return chosen("training.learning_rate", float(f"{rate:.2g}"), reason)


def plan_ema(pupil: Pupil) -> Decision:
    """Decay of the moving average of weights; its own warm-up keeps the start out."""
    decay = _VOLUME_EMA if pupil.fresh_volume else 0.99 if pupil.pretrained else _EMA
    text = f"mean of the last {round(1 / (1 - decay))} updates or so: steadier than any single one"
    return chosen("training.ema", decay, text)


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
