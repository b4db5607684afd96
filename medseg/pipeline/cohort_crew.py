"""Workers that do the cases of a cohort and may die: every case has one outcome, whatever becomes of them.

Where the workers are is the business of a `Site`: processes of this machine (`cohort_processes`), actors of a
cluster (`cohort_cluster`).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeAlias

from medseg.errors import EnvironmentFailure, MedsegError, WorkerError
from medseg.pipeline.cohort_case import CaseOutcome, failure
from medseg.pipeline.cohort_inputs import CohortCase

MOST_STARTS = 3
"""Workers that may die one after the other before any of them was ready."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ready:
    """A worker has started and waits for its first case."""

    worker: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """A worker has done its case."""

    worker: int
    outcome: CaseOutcome


@dataclass(frozen=True, slots=True, kw_only=True)
class Died:
    """A worker is no more; `how` says what ended it, without a full stop."""

    worker: int
    how: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Broken:
    """What a worker found concerns all cases: the network cannot be loaded, the disk is full."""

    error: MedsegError


Event: TypeAlias = Ready | Done | Died | Broken


class Site(Protocol):
    """A place that workers are started at. Workers are told apart by numbers that are never used again."""

    def start(self, most: int) -> Sequence[int]:
        """Start workers where there is room, so many at most; their numbers."""

    def give(self, worker: int, case: CohortCase) -> None:
        """Give a case to a worker that has none."""

    def events(self) -> Sequence[Event]:
        """What has happened since the last call; waits a moment where nothing has."""

    def close(self) -> None:
        """End all workers at once."""


@dataclass(frozen=True, slots=True)
class _Task:
    case: CohortCase
    deaths: tuple[str, ...] = ()


@dataclass(slots=True, kw_only=True)
class Crew:
    """Gives each case to a worker until it has an outcome.

    Parameters
    ----------
    site : Site
    most_tries : int
        Workers that a case may take with it; then it is reported failed.
    note : callable (str)
        Told of each worker that dies with a case.
    fresh : bool
        Whether a case that took a worker with it waits for one that has done nothing yet.
    """

    site: Site
    most_tries: int = 2
    note: Callable[[str], None] = lambda text: None
    fresh: bool = True
    _waiting: deque[_Task] = field(default_factory=deque)
    _again: deque[_Task] = field(default_factory=deque)
    _starting: set[int] = field(default_factory=set)
    _unused: set[int] = field(default_factory=set)
    _idle: set[int] = field(default_factory=set)
    _busy: dict[int, _Task] = field(default_factory=dict)
    _failed_starts: int = 0
    _last_death: str = ""

    def outcomes(self, cases: Sequence[CohortCase]) -> Generator[CaseOutcome, None, None]:
        """One outcome for each case, as they come.

        Raises
        ------
        MedsegError
            What a worker found that concerns all cases.
        WorkerError
            No worker can be started.
        """
        self._waiting = deque(_Task(case) for case in cases)
        try:
            while self._waiting or self._again or self._busy:
                self._hire()
                self._assign()
                for event in self.site.events():
                    outcome = self._hear(event)
                    if outcome is not None:
                        yield outcome
        finally:
            self.site.close()

    @property
    def _hires(self) -> bool:
        """Whether another worker would start; where the last ones did not, the machine bears no more."""
        return self._failed_starts < MOST_STARTS

    @property
    def _kept(self) -> int:
        """Workers that are kept for cases which need one that has done nothing yet."""
        return len(self._again) if self.fresh and self._hires else 0

    def _hire(self) -> None:
        there = len(self._starting) + len(self._idle) + len(self._unused) + len(self._busy)
        if not self._hires:
            if not there:
                raise WorkerError(
                    f"no worker can be started: {self._last_death}; the finished cases are kept, and the same "
                    "command goes on with the others"
                )
            return
        wanted = len(self._waiting) + len(self._again) + len(self._busy) - there
        wanted = max(wanted, self._kept - len(self._starting) - len(self._unused))
        if wanted > 0:
            self._starting.update(self.site.start(wanted))

    def _assign(self) -> None:
        while self._again and (worker := self._free(fresh=self._kept > 0)) is not None:
            self._give(worker, self._again.popleft())
        while self._waiting and (worker := self._free(fresh=False)) is not None:
            self._give(worker, self._waiting.popleft())

    def _free(self, *, fresh: bool) -> int | None:
        """A worker without a case; those that have done some go first, unless a fresh one is needed."""
        if self._idle and not fresh:
            return self._idle.pop()
        return self._unused.pop() if len(self._unused) > (0 if fresh else self._kept) else None

    def _give(self, worker: int, task: _Task) -> None:
        self._busy[worker] = task
        self.site.give(worker, task.case)

    def _hear(self, event: Event) -> CaseOutcome | None:
        if isinstance(event, Broken):
            raise event.error
        if isinstance(event, Died):
            return self._bury(event)
        if isinstance(event, Ready):
            self._failed_starts = 0
            self._starting.discard(event.worker)
            self._unused.add(event.worker)
            return None
        task = self._busy.pop(event.worker, None)
        self._idle.add(event.worker)
        # A worker that was given up may still answer; its case then has another one, or an outcome.
        return event.outcome if task is not None else None

    def _bury(self, event: Died) -> CaseOutcome | None:
        self._last_death = event.how
        self._idle.discard(event.worker)
        self._unused.discard(event.worker)
        if event.worker in self._starting:
            self._starting.discard(event.worker)
            self._failed_starts += 1
        task = self._busy.pop(event.worker, None)
        if task is None:
            return None
        task = _Task(task.case, (*task.deaths, event.how))
        if len(task.deaths) < self.most_tries:
            self.note(f"{task.case.case_id}: {event.how}; the case is tried once more")
            self._again.append(task)
            return None
        return failure(task.case, _given_up(task.deaths), EnvironmentFailure.exit_code)


def _given_up(deaths: Sequence[str]) -> str:
    return f"given up after {len(deaths)} tries: {'; then '.join(deaths)}"
