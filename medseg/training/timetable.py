"""How many epochs a training has, fitted to its time, and how far along its schedule it is.

The learning rate is a function of the schedule's step. Without a re-fit that is the number of the update.
A re-fit changes how many updates are left, never where the schedule stands: the rest of the schedule
is stretched or squeezed over them, so that the learning rate has no jump and still comes down to its end.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from medseg.amounts import time_text

# Length of the schedule until the first epoch was measured, where only the time is given.
FIRST_GUESS_EPOCHS = 100
# The first epochs say little: being late by up to this share of the time is left for later, at most until
# half of the epochs are done.
PATIENCE = 0.10
SLACK = 0.01
_RECENT_EPOCHS = 5
_NO_GROWTH_AFTER = 0.8
_LEAST_GROWTH = 1.02


@dataclass(frozen=True, slots=True, kw_only=True)
class EpochCost:
    """Seconds of one epoch and of one validation, as measured.

    Parameters
    ----------
    epoch_s : float
        All of an epoch but its validation.
    validation_s : float
    validate_every : int
        Epochs between validations; the last epoch has one in any case. 0: there is none.
    """

    epoch_s: float
    validation_s: float = 0.0
    validate_every: int = 1

    @classmethod
    def of(cls, history: Sequence[Mapping[str, float]], *, validate_every: int) -> EpochCost:
        """Medians of the last epochs of a training (rows of metrics.csv), which a moment of load does not move."""
        recent = history[-_RECENT_EPOCHS:]
        begin = history[-len(recent) - 1]["seconds"] if len(history) > len(recent) else 0.0
        ends = [begin, *(row["seconds"] for row in recent)]
        whole = [b - a - row["validation_s"] for a, b, row in zip(ends[:-1], ends[1:], recent, strict=True)]
        made = (row["validation_s"] for row in reversed(history) if row["validation_s"] > 0)
        checks = list(itertools.islice(made, _RECENT_EPOCHS))
        return cls(
            epoch_s=max(1e-6, median(whole)),
            validation_s=median(checks) if checks else 0.0,
            validate_every=validate_every,
        )

    def seconds(self, done: int, epochs: int) -> float:
        """Time of the epochs after `done` up to number `epochs`."""
        if self.validate_every == 0 or epochs <= done:
            return self.epoch_s * (epochs - done)
        checks = epochs // self.validate_every - done // self.validate_every
        return self.epoch_s * (epochs - done) + self.validation_s * (
            checks + (epochs % self.validate_every > 0)
        )

    def fitting(self, done: int, left_s: float) -> int:
        """The largest number of epochs whose end is at most `left_s` after that of epoch `done`."""
        low, high = done, done + 1 + int(max(0.0, left_s) / self.epoch_s)
        while low < high:
            middle = (low + high + 1) // 2
            low, high = (middle, high) if self.seconds(done, middle) <= left_s else (low, middle - 1)
        return low


@dataclass(slots=True, kw_only=True)
class Timetable:
    """Number of epochs and place in the schedule; part of every checkpoint.

    Parameters
    ----------
    epochs : int
        Epochs of the training as things stand.
    planned : int
        Epochs that the schedule was laid out for.
    target : int or None
        Epochs that were asked for; None: as many as the time allows.
    update, step : int, float
        An update, and the schedule's step that it has, from which on the schedule goes evenly to its end.
    refits : list of dict
        Each with `epoch` (epochs done by then), `before`, `after`, `epoch_s`.
    """

    epochs: int
    planned: int
    target: int | None
    update: int = 0
    step: float = 0.0
    refits: list[dict[str, float]] = field(default_factory=list)

    @classmethod
    def of(cls, target: int | None) -> Timetable:
        """The timetable at the start."""
        epochs = FIRST_GUESS_EPOCHS if target is None else target
        return cls(epochs=epochs, planned=epochs, target=target)

    def step_at(self, update: int, *, updates_per_epoch: int) -> float:
        """Step of the schedule, 0 to `planned * updates_per_epoch - 1`, that update number `update` has.

        The number of the update itself as long as nothing was re-fitted; the last one has the last step.
        """
        last = self.planned * updates_per_epoch - 1
        end = self.epochs * updates_per_epoch - 1
        if update >= end:
            return float(last)
        return self.step + (update - self.update) * ((last - self.step) / (end - self.update))

    def refit(self, cost: EpochCost, *, done: int, elapsed_s: float, limit_s: float) -> int | None:
        """The number of epochs that suits the time better than the present one, or None where that does.

        Fewer where the projected end misses the time by more than what may still be noise; more, up to
        the number that was asked for, where time would be left over. `done` means: stop now.
        """
        left_s = limit_s - elapsed_s
        fitting = max(cost.fitting(done, left_s - SLACK * limit_s), min(done + 1, cost.fitting(done, left_s)))
        late_s = cost.seconds(done, self.epochs) - left_s
        if late_s > PATIENCE * limit_s * max(0.0, 1 - 2 * done / self.epochs):
            return min(fitting, self.epochs)
        if self.target is not None:
            fitting = min(fitting, self.target)
        grows = fitting >= _LEAST_GROWTH * self.epochs and done <= _NO_GROWTH_AFTER * self.epochs
        return fitting if grows and fitting > self.epochs else None

    def apply(self, epochs: int, cost: EpochCost, *, done: int, updates_per_epoch: int) -> None:
        """Go on with another number of epochs after `done` of them."""
        update = done * updates_per_epoch
        self.step = self.step_at(update, updates_per_epoch=updates_per_epoch)
        self.update = update
        self.refits.append(
            {"epoch": done, "before": self.epochs, "after": epochs, "epoch_s": round(cost.epoch_s, 3)}
        )
        self.epochs = epochs

    def text(self, limit_s: float | None) -> str | None:
        """One sentence about the re-fits, or None where there was none."""
        if not self.refits or limit_s is None:
            return None
        last = self.refits[-1]
        asked = f"{self.epochs} epochs" + ("" if self.target is None else f" instead of {self.target}")
        times = "" if len(self.refits) == 1 else f", {len(self.refits)} times, last"
        return (
            f"the schedule was fitted to {time_text(limit_s)}{times} after epoch {last['epoch']:.0f}: {asked} "
            f"(an epoch took {time_text(last['epoch_s'])})"
        )

    def plain(self) -> dict[str, Any]:
        """A copy as a dictionary."""
        return {
            name: [dict(row) for row in self.refits] if name == "refits" else getattr(self, name)
            for name in self.__slots__
        }
