"""Programs that a benchmark runs and watches: time, peak memory, what they printed, why they ended."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_TICK_S = 0.02
_KIB = 1024
_LONGEST_TEXT = 280
PROJECT = Path(__file__).resolve().parents[2]
"""Folder that holds the package, for peers' environments, which have not installed it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """How a program went.

    Parameters
    ----------
    seconds : float
        From its start to its end.
    peak_mb : float
        Largest resident memory of it or of one of its children, 10^6 bytes.
    output : str
        What it printed.
    failed : str
        The last line of its errors, "" where it ended well.
    """

    seconds: float
    peak_mb: float
    output: str
    failed: str

    def found(self) -> dict[str, Any]:
        """The JSON of its last line; why there is none under `failed`."""
        if self.failed:
            return {"failed": self.failed}
        lines = self.output.strip().splitlines()
        value: dict[str, Any] = json.loads(lines[-1]) if lines else {"failed": "printed nothing"}
        return value


def run_program(
    command: Sequence[str | Path],
    *,
    longest_s: float,
    environment: Mapping[str, str] | None = None,
    limit_bytes: int | None = None,
) -> Ended:
    """Run a program to its end.

    Parameters
    ----------
    command : sequence of str or Path
    longest_s : float
        It is killed when it takes longer.
    environment : mapping, optional
        Variables beside those of this process.
    limit_bytes : int, optional
        Address space that it may ask for, so that it fails by itself instead of driving the machine into a corner.
    """

    def limited() -> None:
        if limit_bytes is not None:
            resource.setrlimit(resource.RLIMIT_AS, (limit_bytes, limit_bytes))

    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as errors:
        begin = time.perf_counter()
        process = subprocess.Popen(
            [str(part) for part in command],
            stdout=out,
            stderr=errors,
            env={**os.environ, **(environment or {})},
            preexec_fn=limited,
        )
        try:
            status, usage, late = _waited(process, begin + longest_s)
        except BaseException:
            # Where this process is stopped, the child would go on alone.
            process.kill()
            process.wait()
            raise
        seconds = time.perf_counter() - begin
        output, said = _text(out), _text(errors).strip().splitlines()
    failed = f"took longer than {longest_s:.0f} s" if late else ""
    if status and not late:
        failed = (said[-1] if said else f"ended with status {status}")[:_LONGEST_TEXT]
    return Ended(seconds=seconds, peak_mb=usage.ru_maxrss * _KIB / 1e6, output=output, failed=failed)


def _waited(process: subprocess.Popen[bytes], until: float) -> tuple[int, resource.struct_rusage, bool]:
    late = False
    while True:
        done, status, usage = os.wait4(process.pid, os.WNOHANG)
        if done:
            # Popen must not wait for it again.
            process.returncode = os.waitstatus_to_exitcode(status)
            return process.returncode, usage, late
        if time.perf_counter() > until and not late:
            process.kill()
            late = True
        time.sleep(_TICK_S)


def _text(file: Any) -> str:
    file.seek(0)
    return str(file.read())
