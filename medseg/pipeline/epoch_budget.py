"""How many epochs the time of a run holds."""

from __future__ import annotations

import math
from dataclasses import dataclass

from medseg.amounts import time_text
from medseg.config.schema import RunConfig
from medseg.errors import ConfigError
from medseg.memory import peak_memory_bytes
from medseg.planning.cost import Prediction, ProbeResult, Work, fitting_epochs, predict
from medseg.planning.decision import Decision, chosen, given
from medseg.planning.schedule_plan import MOST_SAMPLES
from medseg.training.options import TrainingOptions, TrainingSettings

# Fewer epochs show no course; a part of the cases is an epoch then.
_LEAST_EPOCHS = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class EpochBudget:
    """The time that the settings give to one training, counted in epochs.

    Parameters
    ----------
    training : TrainingSettings
        As the YAML has it.
    budget_s : float
        `budget.time` in seconds.
    folds : int
        Trainings that share it.
    """

    training: TrainingSettings
    budget_s: float
    folds: int

    def holds_too_few(self, config: RunConfig, result: ProbeResult | None, work: Work) -> bool:
        """Whether the time holds so few epochs that they should be shorter, and may be."""
        training = self.training
        free = training.samples_per_epoch == "auto" and training.epochs == "auto"
        if result is None or not free or work.steps_per_epoch == 1:
            return False
        epochs, _ = self._possible(config, result, work)
        return epochs < _LEAST_EPOCHS

    def decide(self, config: RunConfig, result: ProbeResult | None, work: Work) -> Decision:
        """Number of epochs; null, where `training.time` alone is given, stays for the trainer to fit."""
        training = self.training
        if training.epochs != "auto" or result is None:
            return given("training.epochs", training.epochs)
        epochs = self._fitting(config, result, work)
        each = " for each fold" if self.folds > 1 else ""
        reason = f"fills {time_text(self._seconds)}{each} at {result.step_s:.3g} s a step (measured)"
        if epochs == _most_epochs(config, work):
            reason = f"{MOST_SAMPLES} samples are enough; the time would allow more"
        return chosen("training.epochs", epochs, reason)

    def predict(self, config: RunConfig, result: ProbeResult, work: Work) -> Prediction:
        """Memory and time of the run."""
        training = resolved_training(config)
        return predict(
            result,
            work,
            epochs=training.target_epochs or self._fitting(config, result, work),
            program_bytes=peak_memory_bytes(),
            limit_s=training.time,
        )

    @property
    def _whole(self) -> bool:
        """Whether the time is that of all the run does, not of the epochs alone."""
        return self.training.time is None

    @property
    def _seconds(self) -> float:
        """Time of one training: training.time for its epochs alone, or its share of the budget for all of it."""
        if self.training.time is not None:
            return float(self.training.time)
        return self.budget_s / self.folds

    def _possible(self, config: RunConfig, result: ProbeResult, work: Work) -> tuple[int, float]:
        """Epochs that fit into the time, and the seconds of one."""
        return fitting_epochs(
            result, work, seconds=self._seconds, most=_most_epochs(config, work), whole=self._whole
        )

    def _fitting(self, config: RunConfig, result: ProbeResult, work: Work) -> int:
        """Epochs that the time allows."""
        epochs, least = self._possible(config, result, work)
        if epochs:
            return epochs
        name = "budget.time" if self._whole else "training.time"
        folds = self.folds if self._whole else 1
        each = f" for each of {folds} folds" if folds > 1 else ""
        raise ConfigError(
            f"{name} is {time_text(self._seconds * folds)}, but one epoch with all that belongs to it takes about "
            f"{time_text(least)}{each} here; set {name} to {math.ceil(1.1 * least * folds / 10) * 10}s or more, "
            "or training.samples_per_epoch lower"
        )


def resolved_training(config: RunConfig) -> TrainingOptions:
    """Section `training` of settings that have one."""
    if config.training is None:
        raise ValueError("a plan of a training needs one")
    return config.training


def _most_epochs(config: RunConfig, work: Work) -> int:
    return max(1, MOST_SAMPLES // (work.steps_per_epoch * resolved_training(config).batch_size))
