"""Several training processes: joined as torchrun starts them, ended together, with the reason.

Every process beats in the shared store, from a thread of its own, so that a long stage is told from a dead
process without a limit on its length. Process 0 listens to all, the others to process 0. Who loses another
leaves the reason in the store and ends: where the main thread waits for a collective operation that
cannot end any more, the thread ends the process.
"""

from __future__ import annotations

import contextlib
import datetime
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol, cast

import torch
import torch.distributed as dist
from torch.distributed.rendezvous import rendezvous

from medseg import errors
from medseg.errors import Interrupted, MedsegError, TrainingError

BEAT_S = 1.0
SILENCE_S = 18.0
GRACE_S = 6.0
_REASON_WAIT_S = 3.0
_GOODBYE_S = 5.0
_FAILED = "medseg/failed"


class _Store(Protocol):
    """What is used of a torch.distributed store."""

    def set(self, key: str, value: str, /) -> None: ...
    def get(self, key: str, /) -> bytes: ...
    def multi_get(self, keys: list[str], /) -> list[bytes]: ...
    def compare_set(self, key: str, expected: str, desired: str, /) -> bytes: ...
    def check(self, keys: list[str], /) -> bool: ...
    def wait(self, keys: list[str], timeout: datetime.timedelta, /) -> None: ...
    def delete_key(self, key: str, /) -> bool: ...
    def clone(self) -> _Store: ...


@dataclass(slots=True, kw_only=True)
class Team:
    """This process among those that train together.

    Parameters
    ----------
    rank, world_size : int
    """

    rank: int = 0
    world_size: int = 1
    _store: Any = None
    _watch: _Watch | None = None
    _messages: int = 0

    def post(self, content: bytes) -> None:
        """Give every other process, from process 0, what its next `receive` returns."""
        if self._store is not None:
            self._messages += 1
            self._store.set(f"medseg/message/{self._messages}", content)

    def receive(self) -> bytes:
        """The next message of process 0, waited for as long as that is alive.

        Raises
        ------
        TrainingError
            Process 0 failed, died or is silent.
        """
        self._messages += 1
        key = f"medseg/message/{self._messages}"
        try:
            while not self._store.check([key]):
                if self._watch is not None and self._watch.trouble is not None:
                    raise self._watch.trouble
                time.sleep(0.05)
            content: bytes = self._store.get(key)
        except RuntimeError as err:
            raise _store_gone(self.rank, self.world_size) from err
        return content

    def dismiss(self) -> None:
        """From process 0: the others are about to end well, and this one goes on alone."""
        if self._watch is None:
            return
        _part(self._store, self._watch)
        dist.destroy_process_group()
        self.world_size, self._store, self._watch = 1, None, None


@contextlib.contextmanager
def process_group(*, join_timeout_s: float = 600.0, exchange_timeout_s: float = 3600.0) -> Iterator[Team]:
    """Join the processes that torchrun started; a single process just goes on.

    An error in one process ends all of them: its reason is left in the shared store, the others stop
    at their next exchange and repeat it. A process that died or is silent for `SILENCE_S` ends the others too.
    Gradients travel by NCCL between GPUs, everything else by gloo.

    Parameters
    ----------
    join_timeout_s : float, optional
        Longest wait until all processes are here.
    exchange_timeout_s : float, optional
        Longest wait at one exchange for a process that is alive.

    Raises
    ------
    TrainingError
        Another process failed, died or is silent, or did not come.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield Team()
        return
    store, rank, world_size = _join(join_timeout_s)
    watch = _Watch(store=store.clone(), rank=rank, world_size=world_size)
    dist.init_process_group(
        "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo",
        store=store,
        rank=rank,
        world_size=world_size,
        timeout=datetime.timedelta(seconds=exchange_timeout_s),
    )
    watch.start()
    try:
        with _explained(store, watch):
            team = Team(rank=rank, world_size=world_size, _store=store, _watch=watch)
            yield team
            if team.world_size > 1:
                _part(store, watch)
    finally:
        watch.stop()
        # After an error the peers may be gone, and then there is nobody to part from.
        with contextlib.suppress(RuntimeError):
            if dist.is_initialized():
                dist.destroy_process_group()


@contextlib.contextmanager
def _explained(store: _Store, watch: _Watch) -> Iterator[None]:
    """Leave the reason of a failure for the others, or tell theirs."""
    rank, world_size = watch.rank, watch.world_size
    try:
        yield
    except Interrupted:
        # All processes stop at the same update; those that wait are told.
        _leave_reason(store, rank, world_size, "it was stopped", Interrupted)
        raise
    except MedsegError as err:
        if watch.trouble is None:
            _leave_reason(store, rank, world_size, str(err), type(err))
        raise
    except KeyboardInterrupt as err:
        if watch.trouble is not None:
            raise watch.trouble from err
        _leave_reason(store, rank, world_size, "it was stopped", Interrupted)
        raise
    except RuntimeError as err:
        if not _is_connection_error(err):
            _leave_reason(store, rank, world_size, f"{type(err).__name__}: {err}")
            raise
        reason = watch.trouble or _reason_of_others(store, rank)
        raise reason or TrainingError(_lost_text(rank, world_size, None)) from err
    except Exception as err:
        _leave_reason(store, rank, world_size, f"{type(err).__name__}: {err}")
        raise


def _join(timeout_s: float) -> tuple[Any, int, int]:
    """Store, rank and number of processes, once all of them are here."""
    timeout = datetime.timedelta(seconds=timeout_s)
    try:
        store, rank, world_size = next(rendezvous("env://", timeout=timeout))
        store.set(_beat_key(rank), "0")
        store.wait([_beat_key(number) for number in range(world_size)], timeout)
    except RuntimeError as err:
        raise TrainingError(
            f"the training processes did not all come together within {timeout_s:g} s; "
            "look at the number of processes, MASTER_ADDR and MASTER_PORT, and the logs of the other machines"
        ) from err
    return store, rank, world_size


def _part(store: _Store, watch: _Watch) -> None:
    """Say goodbye; process 0, which may keep the store, leaves last."""
    watch.leave()
    if watch.rank == 0:
        keys = [_left_key(number) for number in range(watch.world_size)]
        with contextlib.suppress(RuntimeError):
            store.wait(keys, datetime.timedelta(seconds=_GOODBYE_S))


@dataclass(slots=True, kw_only=True)
class _Watch:
    """The thread that beats and listens.

    `trouble` is what happened to another process, once something has.
    """

    store: _Store
    rank: int
    world_size: int
    trouble: MedsegError | None = None
    _stopping: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None
    _heard: dict[int, tuple[bytes, float]] = field(default_factory=dict)

    def start(self) -> None:
        """Begin to beat and to listen."""
        self._thread = threading.Thread(target=self._run, name="process-watch", daemon=True)
        self._thread.start()

    def leave(self) -> None:
        """Tell the others that this process has ended well."""
        self.stop()
        with contextlib.suppress(RuntimeError):
            self.store.set(_left_key(self.rank), "")

    def stop(self) -> None:
        """End the thread."""
        self._stopping.set()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join()

    def _run(self) -> None:
        number = 0
        while not self._stopping.wait(BEAT_S):
            number += 1
            try:
                self.store.set(_beat_key(self.rank), str(number))
                self.trouble = _reason(self.store, self.rank) or self._silent()
            except RuntimeError:
                self.trouble = _store_gone(self.rank, self.world_size)
            if self.trouble is not None and not self._stopping.is_set():
                self._end_main_thread()
                return

    def _silent(self) -> MedsegError | None:
        """The error about a process that has not beaten for long, left for the others as well."""
        others = range(1, self.world_size) if self.rank == 0 else (0,)
        present = [number for number in others if not self.store.check([_left_key(number)])]
        beats = self.store.multi_get([_beat_key(number) for number in present]) if present else []
        now = time.monotonic()
        for number, beat in zip(present, beats, strict=True):
            before, since = self._heard.get(number, (b"", now))
            self._heard[number] = (beat, since if beat == before else now)
            if beat == before and now - since > SILENCE_S:
                text = _lost_text(self.rank, self.world_size, number)
                self.store.compare_set(_FAILED, "", f"{self.rank}\nTrainingError\n{text}")
                return TrainingError(text)
        return None

    def _end_main_thread(self) -> None:
        """Interrupt what the main thread does; end the process where that does not help."""
        # While a training has its own handler, the next exchange fails by itself.
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            # A real signal, which also ends a sleep or a read.
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
        if self._stopping.wait(GRACE_S):
            return
        sys.stderr.write(f"error: {self.trouble}\n")
        sys.stderr.flush()
        os._exit(self.trouble.exit_code if self.trouble is not None else TrainingError.exit_code)


def _beat_key(rank: int) -> str:
    return f"medseg/beat/{rank}"


def _left_key(rank: int) -> str:
    return f"medseg/left/{rank}"


def _is_connection_error(err: RuntimeError) -> bool:
    text = str(err).lower()
    return isinstance(err, dist.DistError) or any(
        word in text for word in ("connection", "timed out", "timeout", "gloo", "nccl", "broken pipe")
    )


def _leave_reason(
    store: _Store, rank: int, world_size: int, text: str, kind: type[MedsegError] = TrainingError
) -> None:
    """Leave the first reason; later ones follow from it."""
    # The nearest of the kinds that every process knows.
    name = next(base.__name__ for base in kind.__mro__ if base.__module__ == errors.__name__)
    sentence = f"training process {rank} of {world_size} failed: {text}"
    with contextlib.suppress(RuntimeError):
        store.compare_set(_FAILED, "", f"{rank}\n{name}\n{sentence}")


def _reason(store: _Store, rank: int) -> MedsegError | None:
    """What another process failed with, if one did: the same kind of error, so the same exit code."""
    if not store.check([_FAILED]):
        return None
    by, name, text = store.get(_FAILED).decode("utf-8", "replace").split("\n", 2)
    if by == str(rank):
        return None
    kind = getattr(errors, name, TrainingError)
    return cast("MedsegError", kind(text))


def _reason_of_others(store: _Store, rank: int) -> MedsegError | None:
    """What another process left in the store, waited for a moment; None where the store is gone too."""
    end = time.monotonic() + _REASON_WAIT_S
    with contextlib.suppress(RuntimeError):
        while time.monotonic() < end:
            found = _reason(store, rank)
            if found is not None:
                return found
            time.sleep(0.1)
    return None


def _lost_text(rank: int, world_size: int, lost: int | None) -> str:
    other = "another one" if lost is None else f"process {lost}"
    return (
        f"training process {rank} of {world_size} lost {other}, which died without a word or was "
        f"silent for {SILENCE_S:g} s; look at memory and the log of that machine, and give the same "
        "command again to go on from the last checkpoint"
    )


def _store_gone(rank: int, world_size: int) -> TrainingError:
    return TrainingError(
        f"training process {rank} of {world_size} lost process 0 or the launcher that joined them; look at its "
        "log, and give the same command again to go on from the last checkpoint"
    )
