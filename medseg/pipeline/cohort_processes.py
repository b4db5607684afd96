"""Workers of a cohort as processes of this machine, started by spawn; each loads the network once."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing import connection
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from medseg.amounts import time_text
from medseg.errors import MedsegError, WorkerError
from medseg.memory import return_free_memory
from medseg.pipeline.cohort_case import CaseWork
from medseg.pipeline.cohort_crew import Broken, Died, Done, Event, Ready
from medseg.pipeline.cohort_inputs import CohortCase
from medseg.pipeline.cohort_settings import CohortSettings

TICK_S = 0.2
STALLED_S = 300.0
"""A process that has not used the processor for so long is ended: stopped, or waiting for ever."""
_JOIN_S = 10.0
_STOPPERS = {signal.SIGINT, signal.SIGTERM}


@dataclass(slots=True, kw_only=True, eq=False)
class _Process:
    """A process, and what it used of the processor when that last changed."""

    process: BaseProcess
    pipe: Connection[Any, Any]
    device: int
    works: bool = True
    cpu_ticks: int = 0
    quiet_s: float = 0.0


@dataclass(slots=True, kw_only=True)
class LocalProcesses:
    """A `Site`: so many processes of this machine.

    Parameters
    ----------
    settings : CohortSettings
        Of one process.
    count : int
        Processes at the same time.
    stalled_s : float
    """

    settings: CohortSettings
    count: int
    stalled_s: float = STALLED_S
    _processes: dict[int, _Process] = field(default_factory=dict)
    _last: int = 0
    _looked: float = field(default_factory=time.monotonic)

    def start(self, most: int) -> Sequence[int]:
        """Start processes up to `count`."""
        started = []
        for _ in range(min(most, self.count - len(self._processes))):
            self._last += 1
            self._processes[self._last] = self._start()
            started.append(self._last)
        return started

    def give(self, worker: int, case: CohortCase) -> None:
        """Send a case."""
        process = self._processes[worker]
        process.works, process.quiet_s = True, 0.0
        # A case of many slices is larger than the buffer of a pipe; a stopped process must not stop this one.
        threading.Thread(target=_send, args=(process.pipe, case), daemon=True).start()

    def events(self) -> Sequence[Event]:
        """What the processes sent, and which ended."""
        ready = connection.wait([process.pipe for process in self._processes.values()], timeout=TICK_S)
        found = [
            self._hear(number, process)
            for number, process in list(self._processes.items())
            if process.pipe in ready
        ]
        self._end_stalled()
        return found

    def close(self) -> None:
        """Kill all: a result is whole or not there, so nothing is lost that the next run does not do again."""
        for process in self._processes.values():
            process.process.kill()
        for process in self._processes.values():
            process.process.join(_JOIN_S)
            process.pipe.close()
        self._processes = {}

    def _start(self) -> _Process:
        context = multiprocessing.get_context("spawn")
        here, there = context.Pipe(duplex=True)
        device = next(n for n in range(self.count) if n not in {p.device for p in self._processes.values()})
        process = context.Process(
            target=_serve, args=(there, self.settings, device), name=f"medseg-cohort-{self._last}"
        )
        with _signals_blocked():
            try:
                process.start()
            except OSError as err:
                raise WorkerError(
                    f"no process can be started ({err.strerror}); free memory and processes, or ask for fewer "
                    "with --parallel"
                ) from err
        there.close()
        return _Process(process=process, pipe=here, device=device)

    def _hear(self, number: int, process: _Process) -> Event:
        try:
            kind, content = process.pipe.recv()
        except (EOFError, OSError):
            return self._ended(number, process)
        process.works = False
        if kind == "broken":
            return Broken(error=content)
        return Ready(worker=number) if kind == "ready" else Done(worker=number, outcome=content)

    def _ended(self, number: int, process: _Process) -> Died:
        process.process.join(_JOIN_S)
        process.process.kill()
        del self._processes[number]
        process.pipe.close()
        how = _death_text(process.process.exitcode)
        if process.quiet_s >= self.stalled_s:
            how = f"was ended because it had done nothing for {time_text(self.stalled_s)}"
        return Died(worker=number, how=f"worker {number} (process {process.process.pid}) {how}")

    def _end_stalled(self) -> None:
        now = time.monotonic()
        # A leap means that this process was stopped, and the others perhaps with it.
        passed, self._looked = min(now - self._looked, 5 * TICK_S), now
        for process in self._processes.values():
            ticks = _cpu_ticks(process.process.pid)
            moved = ticks is None or ticks != process.cpu_ticks or not process.works
            process.quiet_s = 0.0 if moved else process.quiet_s + passed
            process.cpu_ticks = ticks or 0
            if process.quiet_s >= self.stalled_s:
                process.process.kill()


@contextlib.contextmanager
def _signals_blocked() -> Iterator[None]:
    """Children start with SIGINT and SIGTERM blocked, until they have left the terminal's group."""
    old = signal.pthread_sigmask(signal.SIG_BLOCK, _STOPPERS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, old)


def _serve(pipe: Connection[Any, Any], settings: CohortSettings, device: int) -> None:
    """Main function of a process: cases until the parent closes the pipe or ends."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    # Ctrl-C reaches the parent alone, which ends its children.
    os.setsid()
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _STOPPERS)
    with contextlib.suppress(EOFError, OSError):
        try:
            take_device(device)
            work = CaseWork(settings)
            # Before it says that it is ready, so that a machine which cannot bear it is not blamed on a case.
            work.load()
            pipe.send(("ready", None))
            while True:
                pipe.send(("done", work.do(pipe.recv())))
                return_free_memory()
        except MedsegError as err:
            pipe.send(("broken", err))


def _send(pipe: Connection[Any, Any], case: CohortCase) -> None:
    # That a process died meanwhile is seen by `events`.
    with contextlib.suppress(OSError):
        pipe.send(case)


def take_device(number: int) -> None:
    """Where there are several GPUs, `cuda` means another one in each process."""
    import torch

    if torch.cuda.is_available() and torch.cuda.device_count() > 1:
        torch.cuda.set_device(number % torch.cuda.device_count())


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _cpu_ticks(process_id: int | None) -> int | None:
    """Processor time of a process; None where the system does not tell."""
    with contextlib.suppress(OSError, IndexError, ValueError):
        text = Path(f"/proc/{process_id}/stat").read_text(encoding="ascii", errors="replace")
        fields = text.rpartition(")")[2].split()
        # proc(5): utime and stime are fields 14 and 15; the name in brackets is the second.
        return int(fields[11]) + int(fields[12])
    return None


def _death_text(code: int | None) -> str:
    if code is not None and code < 0:
        memory = ", as the system does when memory runs out" if code == -signal.SIGKILL else ""
        return f"was ended by {signal.Signals(-code).name}{memory}"
    return f"ended with exit code {code} and no reason"
