"""Trials of a search in processes of their own, several at a time; the study stays with this one.

A process gets the objective once and trials one after the other. It sends the validation values of each
epoch and waits for the answer, so all that decides anything happens in the parent, in one place.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import pickle
import signal
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from multiprocessing import connection
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any

from medseg.errors import Interrupted, MedsegError, WorkerError
from medseg.search.loop import Objective, Search, TrialEndedError, carry_out
from medseg.search.records import Outcome, TrialJob

_TICK_S, _STOP_S = 0.2, 60.0
_STOPPERS = {signal.SIGINT, signal.SIGTERM}


@dataclass(slots=True, kw_only=True, eq=False)
class _Slot:
    """A process and the trial that it is on."""

    process: BaseProcess
    pipe: Connection[Any, Any]
    job: TrialJob | None = None


@dataclass(slots=True, kw_only=True)
class TrialProcesses:
    """Carries out the trials of a search in `count` processes.

    Parameters
    ----------
    objective : Objective
        Picklable.
    count : int
    stopped : callable () -> str or None
        Name of the signal that asked for the end; the processes then save their trainings.
    """

    objective: Objective
    count: int
    stopped: Callable[[], str | None] = lambda: None
    _slots: list[_Slot] = field(default_factory=list)

    def run(self, search: Search) -> None:
        """Until no trial is left.

        Raises
        ------
        Interrupted
            The user stopped it; trainings that ran are saved.
        MedsegError
            What ended the search in one of the processes.
        """
        try:
            while self._fill(search) or search.waits():
                self._hear(search)
                if (name := self.stopped()) is not None:
                    self._stop_all(search)
                    raise Interrupted(
                        f"stopped by {name}; the trials that ran are saved, and the same command goes on with them"
                    )
        finally:
            self._end_all()

    def _fill(self, search: Search) -> bool:
        """Give work to every free process; whether any process works."""
        while len(self._busy()) < self.count and (job := search.next()) is not None:
            slot = next((s for s in self._slots if s.job is None), None) or self._start()
            slot.job = job
            slot.pipe.send(job)
        return bool(self._busy())

    def _busy(self) -> list[_Slot]:
        return [slot for slot in self._slots if slot.job is not None]

    def _hear(self, search: Search) -> None:
        """Answer the processes that have something to say."""
        ready = connection.wait([slot.pipe for slot in self._busy()], timeout=_TICK_S)
        for slot in self._busy():
            if slot.pipe not in ready:
                continue
            try:
                message = slot.pipe.recv()
            except (EOFError, OSError):
                self._bury(search, slot)
                continue
            self._take(search, slot, message)

    def _take(self, search: Search, slot: _Slot, message: tuple[str, Any]) -> None:
        kind, content = message
        number = slot.job.number if slot.job is not None else -1
        if kind == "validated":
            answer = search.validated(number, *content)
            with contextlib.suppress(OSError):
                slot.pipe.send(answer)
        elif kind == "ended":
            slot.job = None
            search.ended(number, content)
        elif self.stopped() is None:
            raise content
        else:
            # Interrupted, as it was asked to be; its trial goes on with the next attempt.
            slot.job = None

    def _bury(self, search: Search, slot: _Slot) -> None:
        """A process died: its trial failed, and the search goes on with another process."""
        slot.process.join(_STOP_S)
        self._slots.remove(slot)
        slot.pipe.close()
        if slot.job is not None and self.stopped() is None:
            search.ended(slot.job.number, Outcome(state="failed", reason=_death_text(slot.process.exitcode)))

    def _start(self) -> _Slot:
        context = multiprocessing.get_context("spawn")
        here, there = context.Pipe(duplex=True)
        process = context.Process(
            target=_serve, args=(there, self.objective), name=f"medseg-trial-{len(self._slots) + 1}"
        )
        with _signals_blocked():
            try:
                process.start()
            except (pickle.PicklingError, AttributeError, TypeError) as err:
                raise WorkerError(
                    f"a trial cannot be sent to a process ({err}); set search.parallel: 1"
                ) from err
        there.close()
        slot = _Slot(process=process, pipe=here)
        self._slots.append(slot)
        return slot

    def _stop_all(self, search: Search) -> None:
        """Ask all processes to save and end; those that wait for an answer get it."""
        for slot in self._busy():
            slot.process.terminate()
        end = time.monotonic() + _STOP_S
        while self._busy() and time.monotonic() < end:
            self._hear(search)

    def _end_all(self) -> None:
        for slot in self._slots:
            slot.process.kill()
            slot.process.join()
            slot.pipe.close()
            slot.process.close()
        self._slots = []


@contextlib.contextmanager
def _signals_blocked() -> Iterator[None]:
    """Children start with SIGINT and SIGTERM blocked, until they have left the terminal's group."""
    old = signal.pthread_sigmask(signal.SIG_BLOCK, _STOPPERS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, old)


def _serve(pipe: Connection[Any, Any], objective: Objective) -> None:
    """Main function of a process: trials until the parent closes the pipe or ends."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    # Ctrl-C reaches the parent alone, which then asks each child once.
    os.setsid()
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _STOPPERS)

    def watch(epoch: int, values: Mapping[str, float]) -> None:
        pipe.send(("validated", (epoch, dict(values))))
        reason = pipe.recv()
        if reason is not None:
            raise TrialEndedError(reason)

    with contextlib.suppress(EOFError, OSError):
        while True:
            job = pipe.recv()
            try:
                message: tuple[str, Any] = ("ended", carry_out(objective, job, watch))
            except MedsegError as err:
                message = ("error", err)
            except Exception as err:
                text = "".join(traceback.format_exception(err)).rstrip()
                message = ("error", WorkerError(f"trial {job.number} ended with an internal error: {text}"))
            pipe.send(message)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _death_text(code: int | None) -> str:
    how = f"by {signal.Signals(-code).name}" if code is not None and code < 0 else f"with exit code {code}"
    hint = "; the system does this when memory runs out" if code == -signal.SIGKILL else ""
    return f"its process was ended {how}{hint}"
