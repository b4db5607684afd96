"""Cases of a cohort in one process: while the network has one, the next is read and the last one written.

At most three cases are in memory: one read ahead, one with the network, one being written.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass, field
from typing import TypeAlias, TypeVar

from medseg.memory import return_free_memory
from medseg.pipeline.cohort_case import CaseOutcome, CaseWork, ReadCase, SegmentedCase
from medseg.pipeline.cohort_inputs import CohortCase

_END_S = 3.0
"""How long a thread may take to end when the user stops the run."""

_Item = TypeVar("_Item")
_Read: TypeAlias = ReadCase | CaseOutcome | BaseException | None
_Written: TypeAlias = CaseOutcome | BaseException | None


def in_turn(cases: Iterable[CohortCase], work: CaseWork) -> Generator[CaseOutcome, None, None]:
    """Case after case, no step of one beside a step of another: the least memory."""
    for case in cases:
        yield work.do(case)
        return_free_memory()


def overlapped(cases: Iterable[CohortCase], work: CaseWork) -> Generator[CaseOutcome, None, None]:
    """The outcomes in the order of the cases, the steps of successive ones side by side.

    Parameters
    ----------
    cases : iterable of CohortCase
    work : CaseWork
        Its `read` and `write` are called in threads of their own, its `segment` in this one.

    Raises
    ------
    MedsegError
        What ends the cohort: the network cannot be loaded, a result cannot be written.
    """
    line = _Line(cases=cases, work=work)
    line.start()
    try:
        yield from line.outcomes()
    finally:
        line.stop()


@dataclass(slots=True, kw_only=True)
class _Line:
    """Two threads and the places where they hand cases over; None ends a queue, an error is raised here."""

    cases: Iterable[CohortCase]
    work: CaseWork
    read: queue.SimpleQueue[_Read] = field(default_factory=queue.SimpleQueue)
    segmented: queue.SimpleQueue[SegmentedCase | CaseOutcome | None] = field(
        default_factory=queue.SimpleQueue
    )
    written: queue.SimpleQueue[_Written] = field(default_factory=queue.SimpleQueue)
    # A permit to hold one case ahead, and one to hold one behind.
    ahead: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(1))
    behind: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(1))
    stopped: threading.Event = field(default_factory=threading.Event)
    threads: list[threading.Thread] = field(default_factory=list)

    def start(self) -> None:
        for name, target in (("reader", self._read_all), ("writer", self._write_all)):
            # Daemons: a read that hangs on a dead disk must not keep a stopped program alive.
            self.threads.append(threading.Thread(target=target, name=f"cohort-{name}", daemon=True))
            self.threads[-1].start()

    def stop(self) -> None:
        self.stopped.set()
        self.ahead.release()
        self.segmented.put(None)
        for thread in self.threads:
            thread.join(_END_S)

    def outcomes(self) -> Iterator[CaseOutcome]:
        """Move each case on from reader to writer, and give what the writer is done with."""
        while (item := _taken(self.read.get())) is not None:
            self.ahead.release()
            found = self.work.segment(item) if isinstance(item, ReadCase) else item
            del item
            self.behind.acquire()
            self.segmented.put(found)
            del found
            yield from self._ready()
        self.segmented.put(None)
        while (outcome := _taken(self.written.get())) is not None:
            yield outcome

    def _ready(self) -> Iterator[CaseOutcome]:
        while not self.written.empty():
            outcome = _taken(self.written.get())
            if outcome is not None:
                yield outcome

    def _read_all(self) -> None:
        try:
            for case in self.cases:
                self.ahead.acquire()
                if self.stopped.is_set():
                    return
                self.read.put(self.work.read(case))
            self.read.put(None)
        except BaseException as err:
            self.read.put(err)

    def _write_all(self) -> None:
        try:
            while (item := self.segmented.get()) is not None and not self.stopped.is_set():
                outcome = self.work.write(item) if isinstance(item, SegmentedCase) else item
                del item
                return_free_memory()
                self.written.put(outcome)
                self.behind.release()
            self.written.put(None)
        except BaseException as err:
            self.written.put(err)
            self.behind.release()


def _taken(item: _Item | BaseException) -> _Item:
    if isinstance(item, BaseException):
        raise item
    return item
