"""A small pool of processes that says which case a worker died of or hangs on.

One listening thread per worker receives results, one watching thread measures silence, and the
consumer takes results in order. Workers are started by *spawn*: a fork would inherit the compute
threads of the parent in an unknown state.
"""

from __future__ import annotations

import contextlib
import errno
import multiprocessing
import os
import pickle
import signal
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from medseg.data.transfer import receive, send
from medseg.errors import MedsegError, WorkerError
from medseg.memory import free_memory_bytes

TASKS_AHEAD = 2
TICK_S = 0.1
_ADVICE = (
    "look at this case and its disk, set compute.workers=0 or a smaller training.batch_size, and give the same "
    "command again"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One piece of work: its place in the output, the case it is about, what the job needs."""

    index: int
    case_id: str
    payload: Any


Job = Callable[[Task], Any]


@dataclass(slots=True, kw_only=True, eq=False)
class _Worker:
    """A process and what the parent knows of it; guarded by the pool's lock."""

    number: int
    process: BaseProcess
    connection: Connection[Any, Any]
    tasks: deque[Task] = field(default_factory=deque)
    ready: bool = False
    gone: bool = False
    silent_s: float = 0.0
    listener: threading.Thread | None = None


class WorkerPool:
    """Runs a picklable job on tasks in worker processes and gives the results in order.

    Parameters
    ----------
    job : callable (Task) -> object
        Picklable; called in the workers.
    workers : int
        Number of processes, at least 1.
    timeout_s : float, optional
        Longest silence of a worker that has work. Counted only while this process itself runs, so
        that a stopped and continued program raises no false alarm.
    start_timeout_s : float, optional
        Longest time for a worker to start (it imports torch).

    Attributes
    ----------
    cause : str
        After a worker died or was silent: what happened, without advice; else "".
    failed_task : Task or None
        What that worker was doing; None while it started or had no work.
    """

    def __init__(
        self, job: Job, *, workers: int, timeout_s: float = 10.0, start_timeout_s: float = 180.0
    ) -> None:
        self._job = job
        self._count = workers
        self._timeout_s = timeout_s
        self._start_timeout_s = start_timeout_s
        self._workers: list[_Worker] = []
        self._changed = threading.Condition()
        self._closing = threading.Event()
        self._watcher: threading.Thread | None = None
        self._failure: MedsegError | None = None
        self.cause = ""
        self.failed_task: Task | None = None
        self._pending: deque[Task] = deque()
        self._results: dict[int, Any] = {}
        self._generation = 0
        self._limit = 0

    @property
    def process_ids(self) -> tuple[int, ...]:
        """Process numbers of the running workers, in order."""
        return tuple(worker.process.pid or 0 for worker in self._workers)

    def run(self, tasks: Sequence[Task], *, ahead: int) -> Generator[Any, None, None]:
        """Results of `tasks` in their order, computed at most `ahead` tasks before they are taken.

        Raises
        ------
        WorkerError
            A worker died or is silent; the message names case, signal, memory and what to do.
        MedsegError
            What the job itself raised.
        """
        self.start()
        with self._changed:
            self._generation += 1
            self._pending = deque(tasks)
            self._results = {}
            self._limit = (tasks[0].index if tasks else 0) + ahead
            self._dispatch()
        try:
            for task in tasks:
                yield self._take(task)
        finally:
            with self._changed:
                self._pending.clear()

    def _take(self, task: Task) -> Any:
        with self._changed:
            while self._failure is None and task.index not in self._results:
                # A timeout, so that Ctrl-C reaches the main thread at once.
                self._changed.wait(TICK_S)
            if self._failure is not None:
                raise self._failure
            self._limit += 1
            self._dispatch()
            result = self._results.pop(task.index)
        if isinstance(result, MedsegError):
            raise result
        return result

    def start(self) -> None:
        """Start the workers where they are not running yet; `run` does it by itself."""
        if self._workers:
            return
        self._closing.clear()
        self._failure, self.cause, self.failed_task = None, "", None
        context = multiprocessing.get_context("spawn")
        try:
            # The tracker unblocks signals when it starts; it must be there before they are blocked.
            resource_tracker.ensure_running()
            with _signals_blocked():
                for number in range(1, self._count + 1):
                    self._workers.append(self._start_one(context, number))
        except (pickle.PicklingError, AttributeError, TypeError) as err:
            self.close()
            raise WorkerError(
                f"the augmentation cannot be sent to a loader process ({err}); set compute.workers=0"
            ) from err
        except OSError as err:
            self.close()
            raise WorkerError(
                f"no loader process can be started ({err.strerror}, {free_memory_text()}); "
                "set compute.workers=0, or free memory and processes"
            ) from err
        for worker in self._workers:
            worker.listener = threading.Thread(
                target=self._listen, args=(worker,), name=f"loader-listener-{worker.number}", daemon=True
            )
            worker.listener.start()
        self._watcher = threading.Thread(target=self._watch, name="loader-watcher", daemon=True)
        self._watcher.start()

    def _start_one(self, context: Any, number: int) -> _Worker:
        here, there = context.Pipe(duplex=True)
        process = context.Process(
            target=_serve, args=(there, self._job), name=f"medseg-loader-{number}", daemon=True
        )
        process.start()
        there.close()
        return _Worker(number=number, process=process, connection=here)

    def close(self) -> None:
        """End all workers and threads; none is left afterwards."""
        self._closing.set()
        for worker in self._workers:
            worker.process.kill()
        for worker in self._workers:
            worker.process.join()
            if worker.listener is not None:
                worker.listener.join()
            worker.connection.close()
            worker.process.close()
        if self._watcher is not None:
            self._watcher.join()
        self._watcher = None
        self._workers = []

    def _dispatch(self) -> None:
        """Hand out tasks up to the limit, to the worker with the fewest; the lock is held."""
        while self._pending and self._pending[0].index < self._limit:
            free = [w for w in self._workers if w.ready and not w.gone and len(w.tasks) < TASKS_AHEAD]
            if not free:
                return
            worker = min(free, key=lambda w: len(w.tasks))
            task = self._pending.popleft()
            if not worker.tasks:
                worker.silent_s = 0.0
            worker.tasks.append(task)
            # A broken pipe is a dead worker, and the listener reports it with its exit code.
            with contextlib.suppress(OSError):
                worker.connection.send((self._generation, task))

    def _listen(self, worker: _Worker) -> None:
        """Receive what one worker sends until its end of the pipe closes."""
        try:
            while True:
                message = receive(worker.connection)
                with self._changed:
                    self._accept(worker, message)
        except MemoryError:
            with self._changed:
                self._fail(worker, f"this process has no memory left to take a sample {_task_text(worker)}")
        except (EOFError, OSError, pickle.UnpicklingError):
            if not self._closing.is_set():
                self._report_death(worker)

    def _accept(self, worker: _Worker, message: Any) -> None:
        worker.silent_s = 0.0
        if message == "ready":
            worker.ready = True
        else:
            generation, index, result, error = message
            worker.tasks.popleft()
            if generation == self._generation:
                self._results[index] = result if error is None else _rebuild(error)
        self._dispatch()
        self._changed.notify_all()

    def _watch(self) -> None:
        last = time.monotonic()
        while not self._closing.wait(TICK_S):
            now = time.monotonic()
            # A leap means that this process was stopped, and the workers perhaps with it.
            passed, last = min(now - last, 5 * TICK_S), now
            with self._changed:
                for worker in self._workers:
                    self._count_silence(worker, passed)

    def _count_silence(self, worker: _Worker, passed: float) -> None:
        if worker.gone or (worker.ready and not worker.tasks):
            return
        worker.silent_s += passed
        limit = self._timeout_s if worker.ready else self._start_timeout_s
        if worker.silent_s >= limit:
            self._fail(worker, _silence_text(worker, limit))

    def _report_death(self, worker: _Worker) -> None:
        worker.process.join(2.0)
        with self._changed:
            worker.gone = True
            self._fail(worker, _death_text(worker))

    def _fail(self, worker: _Worker, cause: str) -> None:
        """Let the consumer know, once; the lock is held."""
        if self._failure is None and not self._closing.is_set():
            self.cause = f"{cause} ({free_memory_text()})"
            self.failed_task = worker.tasks[0] if worker.ready and worker.tasks else None
            self._failure = WorkerError(f"{self.cause}; {_ADVICE}")
            self._changed.notify_all()


@contextlib.contextmanager
def _signals_blocked() -> Iterator[None]:
    """Block SIGINT and SIGTERM; children inherit that, so that Ctrl-C is the parent's affair alone."""
    old = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, old)


def _serve(connection: Connection[Any, Any], job: Job) -> None:
    """Main function of a worker: answer tasks until the parent closes the pipe or ends."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    with contextlib.suppress(EOFError, OSError):
        send(connection, "ready")
        while True:
            generation, task = connection.recv()
            result, error = None, None
            try:
                result = job(task)
            except Exception as err:
                error = (type(err) if isinstance(err, MedsegError) else None, task.case_id, _text(err))
            try:
                send(connection, (generation, task.index, result, error))
            except MemoryError as err:
                send(connection, (generation, task.index, None, (None, task.case_id, _text(err))))


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _text(err: Exception) -> str:
    if isinstance(err, MedsegError):
        return str(err)
    # PyTorch's allocator raises a plain RuntimeError.
    if isinstance(err, MemoryError) or "can't allocate memory" in str(err):
        return f"memory ran out ({free_memory_text()}); {_ADVICE}"
    if isinstance(err, OSError) and err.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"no space is left on the disk ({err}); free space, and give the same command again"
    return "".join(traceback.format_exception(err)).rstrip()


def _rebuild(error: tuple[type[MedsegError] | None, str, str]) -> MedsegError:
    kind, case_id, text = error
    if kind is not None:
        return kind(text)
    return WorkerError(f"the sample of case {case_id} could not be made: {text}")


def _task_text(worker: _Worker) -> str:
    if not worker.ready:
        return "while it started"
    return f"while it prepared case {worker.tasks[0].case_id}" if worker.tasks else "while it had no work"


def _death_text(worker: _Worker) -> str:
    code = worker.process.exitcode
    how = f"with exit code {code}"
    if code is not None and code < 0:
        how = f"by {signal.Signals(-code).name}"
    hint = ", as the system does when memory runs out" if code == -signal.SIGKILL else ""
    return f"loader worker {worker.number} was ended {how} {_task_text(worker)}{hint}"


def _silence_text(worker: _Worker, limit_s: float) -> str:
    return (
        f"loader worker {worker.number} has not answered for {limit_s:g} s {_task_text(worker)}; "
        f"the process is {_process_state(worker.process.pid)}"
    )


def _process_state(pid: int | None) -> str:
    names = {"T": "stopped", "t": "stopped", "D": "waiting for a disk", "R": "computing", "S": "asleep"}
    with contextlib.suppress(OSError, IndexError):
        text = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
        return names.get(text.rpartition(")")[2].split()[0], "in an unknown state")
    return "in an unknown state"


def free_memory_text() -> str:
    """Free memory of the machine, or of its control group where that is less."""
    free = free_memory_bytes()
    return "free memory unknown" if free is None else f"{free / 1e9:.1f} GB of memory free"
