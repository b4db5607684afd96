"""The search itself: which trial is next, what its epochs mean, when it is enough.

What a trial *does* arrives as a callable, so that the same loop runs trainings in this process, in others,
or a formula in a test.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from medseg.amounts import time_text
from medseg.errors import (
    ConfigError,
    EnvironmentFailure,
    InputError,
    MissingPackageError,
    StorageError,
    TrainingError,
    WorkerError,
)
from medseg.search.options import SearchOptions
from medseg.search.records import Outcome, TrialJob, TrialRow, best_row
from medseg.search.study import SearchStudy

Watch = Callable[[int, Mapping[str, float]], None]
_LOOK_EVERY_S = 2.0
TIME_OVER = "the time of the search was over"


class TrialEndedError(Exception):
    """Raised out of a training whose trial goes no further; the training's files stay whole."""


class UnknownMetricError(ConfigError):
    """The metric of the search is not among the validation values: no trial can be compared."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialResult:
    """What came out of a trial that ran to its end: the metric of its weights, and facts about them."""

    value: float
    facts: Mapping[str, Any] = field(default_factory=dict)


class Objective(Protocol):
    """Does the work of a trial; calls `watch(epoch, values)` after each validation and lets it raise."""

    def __call__(self, job: TrialJob, watch: Watch, /) -> TrialResult: ...


class Listener(Protocol):
    """Is told what happens in a search."""

    def validated(self, number: int, epoch: int, value: float) -> None: ...
    def ended(self, row: TrialRow) -> None: ...


def carry_out(objective: Objective, job: TrialJob, watch: Watch) -> Outcome:
    """Do a trial and say how it ended.

    What is wrong with the trial alone (settings that do not go together, a loss that is not finite, a
    network too large for the memory) is its outcome; anything else ends the search.

    Raises
    ------
    MedsegError
        Interrupted; a disk, a worker, or a package fails; the metric is unknown.
    """
    try:
        result = objective(job, watch)
    except TrialEndedError as err:
        return Outcome(state="pruned", reason=str(err))
    except UnknownMetricError:
        raise
    except (ConfigError, InputError) as err:
        return Outcome(state="pruned", reason=f"its settings do not go together: {err}")
    except TrainingError as err:
        return Outcome(state="failed", reason=str(err))
    except (StorageError, WorkerError, MissingPackageError):
        raise
    except EnvironmentFailure as err:
        return Outcome(state="failed", reason=str(err))
    if not math.isfinite(result.value):
        return Outcome(state="failed", reason="its value is not a number", facts=result.facts)
    return Outcome(state="complete", value=result.value, facts=result.facts)


class Search:
    """Hands out trials and takes in what they say, for whatever carries them out.

    Parameters
    ----------
    study : SearchStudy
    options : SearchOptions
    refused : callable (values) -> str or None
        Why the settings do not take these values; None where they do.
    listener : Listener
    """

    def __init__(
        self,
        study: SearchStudy,
        options: SearchOptions,
        *,
        refused: Callable[[Mapping[str, Any]], str | None],
        listener: Listener,
    ) -> None:
        self._study, self._options = study, options
        self._refused, self._listener = refused, listener
        self._before_s, self._begin = study.seconds(), time.monotonic()
        self._interrupted = study.interrupted()
        self._looked, self._others = -math.inf, 0

    def next(self) -> TrialJob | None:
        """A trial to carry out, interrupted ones first; those without work are ended here."""
        while (job := self._next()) is not None:
            if not self._settled(job):
                return job
        return None

    def waits(self) -> bool:
        """Whether other machines still work on trials, which may win, or come back when a machine dies."""
        if self._late():
            return False
        if time.monotonic() - self._looked >= _LOOK_EVERY_S:
            self._looked, self._others = time.monotonic(), self._study.elsewhere()
        return self._others > 0

    def _next(self) -> TrialJob | None:
        if self._interrupted:
            return self._interrupted.pop(0)
        return None if self._late() else self._study.next()

    def _settled(self, job: TrialJob) -> bool:
        """Whether a trial ended without work: its settings are refused, or were tried before."""
        reason = self._refused(job.values)
        same = self._study.same_values(job)
        if reason is not None:
            self._study.finish(
                job.number, Outcome(state="pruned", reason=f"its settings do not go together: {reason}")
            )
        elif same is not None:
            self._study.take_over(job.number, same)
        else:
            return False
        self._tell(job.number)
        return True

    def validated(self, number: int, epoch: int, values: Mapping[str, float]) -> str | None:
        """Take in the validation values of a trial; why it goes no further, or None.

        Raises
        ------
        UnknownMetricError
            The metric is not among them.
        """
        if self._options.metric not in values:
            raise UnknownMetricError(
                f"search.metric {self._options.metric!r} is not among the validation values: "
                f"{', '.join(sorted(values))}"
            )
        value = float(values[self._options.metric])
        bad = self._study.report(number, epoch, value)
        self._study.note_seconds(self._seconds())
        self._listener.validated(number, epoch, value)
        if bad:
            return f"worse than the median of the other trials in epoch {epoch}"
        return TIME_OVER if self._late() else None

    def ended(self, number: int, outcome: Outcome) -> None:
        """Take in how a trial ended."""
        self._study.finish(number, outcome)
        self._study.note_seconds(self._seconds())
        self._tell(number)

    def _tell(self, number: int) -> None:
        self._listener.ended(next(row for row in self._study.rows() if row.number == number))

    def _seconds(self) -> float:
        return self._before_s + time.monotonic() - self._begin

    def _late(self) -> bool:
        return self._options.time is not None and self._seconds() >= self._options.time


def run_here(search: Search, objective: Objective) -> None:
    """Carry out the trials of a search one after the other in this process."""
    while (job := search.next()) is not None or search.waits():
        if job is None:
            time.sleep(_LOOK_EVERY_S)
            continue

        def watch(epoch: int, values: Mapping[str, float], number: int = job.number) -> None:
            reason = search.validated(number, epoch, values)
            if reason is not None:
                raise TrialEndedError(reason)

        search.ended(job.number, carry_out(objective, job, watch))


def best_of(rows: tuple[TrialRow, ...], options: SearchOptions) -> TrialRow:
    """The best trial of a search.

    Raises
    ------
    TrainingError
        No trial ran to its end; the message says why the first and the last did not.
    """
    best = best_row(rows, higher_is_better=options.higher_is_better)
    if best is not None:
        return best
    if not rows:
        within = f" within search.time ({time_text(options.time)})" if options.time else ""
        raise TrainingError(f"the search began no trial{within}; give it more time or trials")
    said = dict.fromkeys(f"{row.state}: {row.reason}" for row in rows if row.reason)
    shown = "; ".join(f"trial {_first(rows, text)} {text}" for text in list(said)[:3])
    raise TrainingError(
        f"none of the {len(rows)} trials of the search ran to its end ({shown}); change search.space, or the "
        "settings that these reasons name"
    )


def _first(rows: tuple[TrialRow, ...], said: str) -> int:
    return next(row.number for row in rows if f"{row.state}: {row.reason}" == said)
