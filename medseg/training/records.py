"""What a training tells: progress, result, and the plain part of its state."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Self

from medseg.errors import TrainingError
from medseg.training.options import TrainingOptions
from medseg.training.timetable import Timetable

StopReason = Literal["epochs", "early_stop", "time"]
Part = Literal["network", "samples", "validation", "saving"]
PARTS: tuple[Part, ...] = ("network", "samples", "validation", "saving")


class EndedByFirst(TrainingError):
    """Process 0 ended a training from `on_validation`; the other processes are free for the next one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """Where the training is, after every update and every validation.

    Parameters
    ----------
    epoch, epochs : int
        The epoch, counted from 1, and their number as things stand.
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
    stopped_by : "epochs", "early_stop" or "time"
    history : tuple of dict
        One row per epoch, as in metrics.csv.
    shares : dict of str to float
        Share of `seconds` in which the network ran (forward, backward, step), in which it waited for
        samples, in validation, in writing files, and the rest: `network`, `samples`, `validation`,
        `saving`, `other`.
    refit : str or None
        That the number of epochs was fitted to the time, one sentence; None where it was not.
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
    shares: dict[str, float] = field(default_factory=dict)
    refit: str | None = None


@dataclass(slots=True, kw_only=True)
class RunState:
    """All plain values of a checkpoint; changes while the training runs."""

    timetable: Timetable
    epoch: int = 0
    step: int = 0
    update: int = 0
    rate: float = 0.0
    loss_sum: float = 0.0
    loss_count: int = 0
    seconds: float = 0.0
    spent_s: dict[Part, float] = field(default_factory=lambda: dict.fromkeys(PARTS, 0.0))
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
        values = {name: copy.deepcopy(getattr(self, name)) for name in self.__slots__ if name != "timetable"}
        return {**values, "timetable": self.timetable.plain()}

    @classmethod
    def restored(cls, plain: Mapping[str, Any]) -> Self:
        """The state of which `plain` is the copy."""
        return cls(**{**plain, "timetable": Timetable(**plain["timetable"])})

    def spent_in_epoch(self) -> dict[Part, float]:
        """Seconds of each part since the last row of the history."""
        return {
            part: max(0.0, round(total - sum(row[f"{part}_s"] for row in self.history), 3))
            for part, total in self.spent_s.items()
        }

    def shares(self) -> dict[str, float]:
        """Share of each part in the whole time, and the rest as `other`; empty before anything was done."""
        if not self.seconds:
            return {}
        found: dict[str, float] = {part: spent / self.seconds for part, spent in self.spent_s.items()}
        return {**found, "other": max(0.0, 1 - sum(found.values()))}

    def judge(self, value: float, options: TrainingOptions, *, epoch: int) -> bool:
        """Note the metric of an epoch, counted from 1; whether it is the best so far. NaN never is."""
        if not math.isfinite(value):
            return False
        sign = 1.0 if options.metric_is == "higher_better" else -1.0
        delta = options.early_stop.min_delta if options.early_stop else 0.0
        if self.patience_value is None or sign * (value - self.patience_value) > delta:
            self.patience_value, self.patience_epoch = value, epoch
        if self.best_value is not None and sign * (value - self.best_value) <= 0:
            return False
        self.best_value, self.best_epoch = value, epoch
        return True

    def reason_to_stop(self, options: TrainingOptions) -> StopReason | None:
        """Why the training ends after the epochs done, or None where it goes on."""
        if self.epoch >= self.timetable.epochs:
            target = self.timetable.target
            return "epochs" if self.epoch == target else "time"
        if options.early_stop and self.epoch - self.patience_epoch >= options.early_stop.patience:
            return "early_stop"
        return None
