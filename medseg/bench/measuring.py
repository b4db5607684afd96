"""Time and memory of one call in a process of its own. Standard library alone: peers' environments run it, too."""

from __future__ import annotations

import gc
import json
import resource
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_STATUS = Path("/proc/self/status")
_KIB = 1024


@dataclass(frozen=True, slots=True)
class Task:
    """A measured call, and what tells whether its result is right (computed after the measurement)."""

    run: Callable[[], Any]
    check: Callable[[Any], Any]


def measure(task: Task) -> dict[str, Any]:
    """Seconds, CPU seconds (threads and child processes included) and peak MB of a task's `run`.

    The peak is counted from what the process holds before.
    """
    gc.collect()
    before, reset = _held(), _reset_peak()
    start, start_cpu = time.perf_counter(), _cpu()
    result = task.run()
    seconds, cpu = time.perf_counter() - start, _cpu() - start_cpu
    peak = peak_bytes() if reset else 0
    return {
        "seconds": seconds,
        "cpu": cpu,
        "peak_mb": (peak - before) / 1e6 if reset else None,
        "process_mb": peak / 1e6 if reset else None,
        "check": task.check(result),
    }


def run_child(build: Callable[[str, dict[str, Any]], Task]) -> None:
    """Entry point of a child: ``NAME ARGUMENTS`` on the command line, one line of JSON on standard output.

    Parameters
    ----------
    build : callable (name, arguments) -> Task
        Imports and inputs are made here, before the clock starts.
    """
    try:
        found = measure(build(sys.argv[1], json.loads(sys.argv[2])))
    except ImportError as err:
        found = {"missing": err.name or str(err)}
    sys.stdout.write("\n" + json.dumps(found) + "\n")


def peak_bytes() -> int:
    """Most memory held, bytes; child processes with their own largest."""
    own = _field("VmHWM") if _STATUS.exists() else _KIB * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return own + _KIB * resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss


def _cpu() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in used)


def _reset_peak() -> bool:
    """Forget the peak so far; False where the system cannot."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    return _STATUS.exists()


def _held() -> int:
    return _field("VmRSS") if _STATUS.exists() else 0


def _field(name: str) -> int:
    for line in _STATUS.read_text().splitlines():
        if line.startswith(name):
            return _KIB * int(line.split()[1])
    return 0
