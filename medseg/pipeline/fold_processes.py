"""Folds side by side on one machine: a process each, started by spawn, that tells this one how far it is.

A process whose parent dies saves its state and ends, so that nothing trains on unseen.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any

from medseg.errors import Interrupted, MedsegError, TrainingError
from medseg.pipeline.context import Context
from medseg.pipeline.folds import STAGE, FoldOutcome, failure_kind, train_fold
from medseg.pipeline.progress import SilentReporter
from medseg.pipeline.run_folder import StageState

_END_S = 120.0
"""How long a process may take to save its state when it is asked to end."""


class _PipeReporter(SilentReporter):
    """Sends what a fold tells to the process that started it."""

    def __init__(self, connection: Connection[Any, Any]) -> None:
        self._connection = connection

    def advanced(self, name: str, done: int, total: int, text: str) -> None:
        """Send the step."""
        self._send("advanced", done, total, text)

    def note(self, text: str) -> None:
        """Send the sentence."""
        self._send("note", text)

    def _send(self, *message: Any) -> None:
        # Where nobody listens any more, the training is asked to end by a signal, not by this.
        with contextlib.suppress(OSError):
            self._connection.send(message)


@dataclass(slots=True, kw_only=True, eq=False)
class _Child:
    fold: int
    slot: int
    process: BaseProcess
    connection: Connection[Any, Any]
    done: int = 0
    total: int = 1
    text: str = ""
    outcome: FoldOutcome | None = None


@dataclass(slots=True, kw_only=True)
class _Crew:
    """The processes at work, and the outcomes of those that ended."""

    context: Context
    processes: int
    left: list[int]
    working: list[_Child] = field(default_factory=list)
    outcomes: list[FoldOutcome] = field(default_factory=list)

    def run(self) -> list[FoldOutcome]:
        try:
            while self.left or self.working:
                while self.left and len(self.working) < self.processes:
                    self._start(self.left.pop(0))
                self._listen()
        except BaseException:
            self._end()
            raise
        return sorted(self.outcomes, key=lambda outcome: outcome.fold)

    def _start(self, fold: int) -> None:
        spawn = multiprocessing.get_context("spawn")
        mine, theirs = spawn.Pipe()
        slot = next(n for n in range(self.processes) if n not in {c.slot for c in self.working})
        task = replace(
            self.context, reporter=SilentReporter(), core_share=self.processes, failures=[], resuming=False
        )
        process = spawn.Process(target=_work, args=(task, fold, slot, theirs), name=f"fold {fold}")
        process.start()
        theirs.close()
        self.working.append(_Child(fold=fold, slot=slot, process=process, connection=mine))

    def _listen(self) -> None:
        """Take what the processes sent, and note those that ended."""
        ready = wait([c.connection for c in self.working])
        for child in [c for c in self.working if c.connection in ready]:
            try:
                self._take(child, child.connection.recv())
            except (EOFError, ConnectionResetError):
                self._ended(child)

    def _take(self, child: _Child, message: tuple[Any, ...]) -> None:
        kind, *rest = message
        if kind == "note":
            self.context.reporter.note(rest[0])
        elif kind == "advanced":
            child.done, child.total, child.text = rest
            done = sum(100 * c.done // max(c.total, 1) for c in self.working) + 100 * len(self.outcomes)
            total = 100 * (len(self.working) + len(self.outcomes) + len(self.left))
            text = " | ".join(c.text for c in self.working if c.text)
            self.context.reporter.advanced(STAGE, done, total, text)
        elif kind == "done":
            child.outcome = FoldOutcome(fold=child.fold, state=StageState(**rest[0]))
        else:
            exit_code, text = rest
            child.outcome = FoldOutcome(fold=child.fold, error=_error(exit_code, text))

    def _ended(self, child: _Child) -> None:
        child.process.join()
        self.working.remove(child)
        child.connection.close()
        outcome = child.outcome or FoldOutcome(
            fold=child.fold, error=TrainingError(_death(child.process.exitcode))
        )
        if isinstance(outcome.error, Interrupted):
            raise outcome.error
        if outcome.error is not None:
            self.context.reporter.note(f"fold {child.fold} failed: {outcome.error}")
        self.outcomes.append(outcome)

    def _end(self) -> None:
        for child in self.working:
            child.process.terminate()
        for child in self.working:
            child.process.join(_END_S)
            if child.process.is_alive():
                child.process.kill()
                child.process.join()


def train_parallel(context: Context, folds: Sequence[int], *, processes: int) -> list[FoldOutcome]:
    """Train folds in processes of their own, so many at a time; the threads are divided among them.

    Parameters
    ----------
    context : Context
        Of the run, its cases prepared.
    folds : sequence of int
    processes : int
        At least 1.

    Returns
    -------
    list of FoldOutcome
        By fold. A process that dies is the failure of its fold alone.

    Raises
    ------
    Interrupted
        A fold was asked to stop; the others are stopped too, and every state is saved.
    """
    return _Crew(context=context, processes=processes, left=list(folds)).run()


def _error(exit_code: int, text: str) -> MedsegError:
    return Interrupted(text) if exit_code == Interrupted.exit_code else failure_kind(exit_code)(text)


def _death(exit_code: int | None) -> str:
    if exit_code is not None and exit_code < 0:
        name = signal.Signals(-exit_code).name
        memory = "; the memory of the machine may not be enough, train fewer folds at a time"
        return f"its process was ended by {name}{memory if name == 'SIGKILL' else ''}"
    return f"its process ended with exit code {exit_code} and no reason; run it alone with --fold to see why"


def _work(context: Context, fold: int, slot: int, connection: Connection[Any, Any]) -> None:
    """What a child does: train one fold, tell the outcome."""
    # A terminal sends Ctrl-C to all of its processes, and a second signal ends a training without saving:
    # the parent alone shall get it, and ask this one to end.
    os.setsid()
    threading.Thread(target=_end_with_parent, daemon=True).start()
    context.reporter = _PipeReporter(connection)
    try:
        _take_device(slot)
        connection.send(("done", train_fold(context, fold).to_json()))
    except MedsegError as err:
        with contextlib.suppress(OSError):
            connection.send(("failed", err.exit_code, str(err)))
    finally:
        connection.close()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os.kill(os.getpid(), signal.SIGTERM)


def _take_device(slot: int) -> None:
    """Where there are several GPUs, `cuda` means another one in each process."""
    import torch

    if torch.cuda.is_available() and torch.cuda.device_count() > 1:
        torch.cuda.set_device(slot % torch.cuda.device_count())
