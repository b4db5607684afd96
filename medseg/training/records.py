"""What a training tells: progress, result, and the plain part of its state."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from medseg.training.options import TrainingOptions

StopReason = Literal["epochs", "early_stop", "time_limit"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """Where the training is, after every update and every validation.

    Parameters
    ----------
    epoch, epochs : int
        The epoch, counted from 1, and their number.
    step, steps : int
        Batches of this epoch that are done, and their number.
    loss : float
        Mean of the epoch so far.
    learning_rate : float
    metrics : dict
        Values of the last validation; empty before the first.
    images_per_second : float
        Since this process started training, validation left out.
    seconds_left : float
        Estimate for the rest of the training.
    """

    epoch: int
    epochs: int
    step: int
    steps: int
    loss: float
    learning_rate: float
    metrics: dict[str, float]
    images_per_second: float
    seconds_left: float


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingResult:
    """What came out of a training.

    Parameters
    ----------
    weights : Path
        `final.safetensors`: the weights that were also loaded into the network.
    weights_sha256 : str
    best_metric : float or None
        Of the chosen metric; None where nothing was validated.
    best_epoch : int or None
        Counted from 1.
    epochs_run, updates : int
    seconds : float
        All processes of a continued run together.
    images_per_second : float
        Training alone, in the process that ended the run; 0 where nothing was left to do.
    precision, precision_reason : str
    threads : int
        Compute threads of torch; another number may give other last bits.
    stopped_by : "epochs", "early_stop" or "time_limit"
    history : tuple of dict
        One row per epoch, as in metrics.csv.
    """

    weights: Path
    weights_sha256: str
    best_metric: float | None
    best_epoch: int | None
    epochs_run: int
    updates: int
    seconds: float
    images_per_second: float
    precision: str
    precision_reason: str
    threads: int
    stopped_by: StopReason
    history: tuple[dict[str, float], ...]


@dataclass(slots=True, kw_only=True)
class RunState:
    """All plain values of a checkpoint; changes while the training runs."""

    epoch: int = 0
    step: int = 0
    update: int = 0
    loss_sum: float = 0.0
    loss_count: int = 0
    seconds: float = 0.0
    best_value: float | None = None
    best_epoch: int | None = None
    best_file: str | None = None
    patience_value: float | None = None
    patience_epoch: int = 0
    stopped_by: StopReason | None = None
    metrics: dict[str, float] = field(default_factory=dict)
    history: list[dict[str, float]] = field(default_factory=list)

    def plain(self) -> dict[str, Any]:
        """A copy as a dictionary."""
        return {name: copy.deepcopy(getattr(self, name)) for name in self.__slots__}

    def judge(self, value: float, options: TrainingOptions) -> bool:
        """Note the metric of the current epoch; whether it is the best so far. NaN never is."""
        if not math.isfinite(value):
            return False
        sign = 1.0 if options.metric_is == "higher_better" else -1.0
        delta = options.early_stop.min_delta if options.early_stop else 0.0
        if self.patience_value is None or sign * (value - self.patience_value) > delta:
            self.patience_value, self.patience_epoch = value, self.epoch + 1
        if self.best_value is not None and sign * (value - self.best_value) <= 0:
            return False
        self.best_value, self.best_epoch = value, self.epoch + 1
        return True

    def is_late(self, seconds: float, options: TrainingOptions) -> bool:
        """Whether one more epoch as long as those before would end after the time limit."""
        if options.time_limit_min is None:
            return False
        return seconds * (self.epoch + 1) / self.epoch > options.time_limit_min * 60

    def reason_to_stop(self, options: TrainingOptions, *, late: bool) -> StopReason | None:
        """Why the training ends after the epochs done, or None where it goes on."""
        if self.epoch >= options.epochs:
            return "epochs"
        if options.early_stop and self.epoch - self.patience_epoch >= options.early_stop.patience:
            return "early_stop"
        return "time_limit" if late else None
