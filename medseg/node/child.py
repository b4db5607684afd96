"""A worker process as its supervisor sees it: asked, watched, ended."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medseg.amounts import bytes_text, time_text
from medseg.node.memory_wall import memory_taken, raise_wall

_LOOK_EVERY_S = 0.02
_ASK_EVERY_S = 0.2
_LONGEST_ANSWER = 64 << 20
_NEARLY = 0.95
COMMAND = (sys.executable, "-P", "-m", "medseg.node.worker")


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a job may take."""

    max_bytes: int
    max_seconds: float
    threads: int | None = None


class ChildDied(Exception):
    """The process ended, or was ended, before it answered; the message says why."""


class Stopped(Exception):
    """The supervisor was told to stop while it waited."""


class Child:
    """One worker process; started when it is first asked, and again after it ended.

    Parameters
    ----------
    folder : Path
        Its working folder.
    limits : Limits
    command : sequence of str
    """

    def __init__(self, folder: Path, limits: Limits, *, command: Sequence[str] = COMMAND) -> None:
        self._folder, self._limits, self._command = folder, limits, command
        self._process: subprocess.Popen[bytes] | None = None
        self._wall: int | None = None
        self._asked_for = 0
        self.peak_bytes = 0
        """Most that it held while it did the last request."""

    def ask(self, request: dict[str, Any], *, go_on: Callable[[], bool]) -> dict[str, Any]:
        """One request, one answer.

        Parameters
        ----------
        request : dict
            JSON values.
        go_on : callable
            Asked several times a second; False ends the process.

        Raises
        ------
        ChildDied
            It ended, took more memory or time than it may, or answered nonsense.
        Stopped
            `go_on` said no.
        """
        process = self._running()
        self.peak_bytes = self._asked_for = 0
        try:
            assert process.stdin is not None
            process.stdin.write((json.dumps(request) + "\n").encode())
            process.stdin.flush()
        except OSError as err:
            self.end()
            raise ChildDied("the worker process ended before it began") from err
        try:
            return dict(json.loads(self._line(process, go_on)))
        except ValueError as err:
            self.end()
            raise ChildDied("the worker process gave no answer that can be read") from err
        except BaseException:
            # Its answer would be taken for that of the next request.
            self.end()
            raise

    def end(self) -> None:
        """End the process and what it started, if it runs."""
        process, self._process = self._process, None
        if process is None:
            return
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is not None and self._process.poll() is not None:
            self.end()
        if self._process is None:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            # Bad input raises in codecs written in C as well; their last words go to the log of the node.
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                cwd=self._folder,
                env=_environment(),
                start_new_session=True,
            )
            limits = self._limits
            self._wall = raise_wall(self._process.pid, limits.max_bytes, threads=limits.threads)
        return self._process

    def _line(self, process: subprocess.Popen[bytes], go_on: Callable[[], bool]) -> bytes:
        assert process.stdout is not None
        begin, parts = time.monotonic(), bytearray()
        # Not select(), which takes no descriptor above 1023: a node may hold as many connections.
        ask_at, poll = begin, select.poll()
        poll.register(process.stdout, select.POLLIN)
        while not parts.endswith(b"\n"):
            if poll.poll(1000 * _LOOK_EVERY_S):
                chunk = os.read(process.stdout.fileno(), 1 << 16)
                if not chunk:
                    self._raise_death(process)
                parts += chunk
                if len(parts) > _LONGEST_ANSWER:
                    raise ChildDied("the worker process gave an answer without end")
                if parts.endswith(b"\n"):
                    break
            self._check(process, begin)
            if time.monotonic() >= ask_at:
                if not go_on():
                    raise Stopped
                ask_at = time.monotonic() + _ASK_EVERY_S
        return bytes(parts)

    def _check(self, process: subprocess.Popen[bytes], begin: float) -> None:
        limits = self._limits
        taken = memory_taken(process.pid)
        self.peak_bytes = max(self.peak_bytes, taken.resident_bytes)
        self._asked_for = max(self._asked_for, taken.data_bytes)
        if taken.resident_bytes > limits.max_bytes:
            raise ChildDied(self.memory_text())
        if time.monotonic() - begin > limits.max_seconds:
            raise ChildDied(f"took longer than {time_text(limits.max_seconds)}, the limit jobs.max_time")

    @property
    def walled(self) -> bool:
        """Whether the kernel refuses it memory beyond the limit."""
        return self._wall is not None

    def memory_text(self) -> str:
        """That it needed more memory than it may take, for people."""
        limit, held = bytes_text(self._limits.max_bytes), bytes_text(self.peak_bytes)
        return (
            f"needed more than {limit}, the limit jobs.max_ram, and held {held} when it was refused; raise it or "
            "take a smaller input"
        )

    @property
    def _at_the_wall(self) -> bool:
        return self._wall is not None and self._asked_for > _NEARLY * self._wall

    def _raise_death(self, process: subprocess.Popen[bytes]) -> None:
        status = process.wait()
        if status != 0 and self._at_the_wall:
            raise ChildDied(self.memory_text())
        if status < 0:
            name = signal.Signals(-status).name
            hint = ", perhaps for want of memory" if name == "SIGKILL" else ""
            raise ChildDied(f"the worker process was ended by {name}{hint}")
        raise ChildDied(f"the worker process ended with exit code {status}")


def _environment() -> dict[str, str]:
    """The environment without what may be a secret: the worker has no use for any of it."""
    kept = (
        "PATH",
        "PYTHONPATH",
        "HOME",
        "LANG",
        "LC_ALL",
        "TMPDIR",
        "LD_LIBRARY_PATH",
        "CUDA_VISIBLE_DEVICES",
        "XDG_CACHE_HOME",
        "MEDSEG_CACHE",
    )
    known = {name: os.environ[name] for name in kept if name in os.environ}
    return known | {name: value for name, value in os.environ.items() if name.startswith(("OMP_", "MKL_"))}
