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

_LOOK_EVERY_S = 0.2
_LONGEST_ANSWER = 64 << 20
COMMAND = (sys.executable, "-P", "-m", "medseg.node.worker")


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a job may take."""

    max_bytes: int
    max_seconds: float


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
        self.peak_bytes = 0

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
        self.peak_bytes = 0
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
        return self._process

    def _line(self, process: subprocess.Popen[bytes], go_on: Callable[[], bool]) -> bytes:
        assert process.stdout is not None
        begin, parts = time.monotonic(), bytearray()
        while not parts.endswith(b"\n"):
            ready, _, _ = select.select([process.stdout], [], [], _LOOK_EVERY_S)
            if ready:
                chunk = os.read(process.stdout.fileno(), 1 << 16)
                if not chunk:
                    self._raise_death(process)
                parts += chunk
                if len(parts) > _LONGEST_ANSWER:
                    raise ChildDied("the worker process gave an answer without end")
                if parts.endswith(b"\n"):
                    break
            self._check(process, begin)
            if not go_on():
                raise Stopped
        return bytes(parts)

    def _check(self, process: subprocess.Popen[bytes], begin: float) -> None:
        limits = self._limits
        taken = _resident_bytes(process.pid)
        self.peak_bytes = max(self.peak_bytes, taken)
        if taken > limits.max_bytes:
            limit = bytes_text(limits.max_bytes)
            raise ChildDied(
                f"needed more than {limit}, the limit jobs.max_ram; raise it or take a smaller input"
            )
        if time.monotonic() - begin > limits.max_seconds:
            raise ChildDied(f"took longer than {time_text(limits.max_seconds)}, the limit jobs.max_time")

    def _raise_death(self, process: subprocess.Popen[bytes]) -> None:
        status = process.wait()
        if status < 0:
            name = signal.Signals(-status).name
            hint = ", perhaps for want of memory" if name == "SIGKILL" else ""
            raise ChildDied(f"the worker process was ended by {name}{hint}")
        raise ChildDied(f"the worker process ended with exit code {status}")


def _resident_bytes(process: int) -> int:
    """Resident memory of a process, 0 where it is gone."""
    try:
        pages = int(Path(f"/proc/{process}/statm").read_text().split()[1])
    except (OSError, ValueError, IndexError):
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")


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
    )
    known = {name: os.environ[name] for name in kept if name in os.environ}
    return known | {name: value for name, value in os.environ.items() if name.startswith(("OMP_", "MKL_"))}
