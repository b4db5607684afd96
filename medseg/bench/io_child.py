"""One task in a process of its own: ``python -m medseg.bench.io_child NAME ARGUMENTS`` prints JSON.

Time and memory are those of the task alone: imports and inputs come before the clock starts, and the
peak is counted from what the process holds by then.
"""

from __future__ import annotations

import gc
import json
import resource
import sys
import time
from pathlib import Path
from typing import Any

from medseg.bench.io_tasks import Task, build

_STATUS = Path("/proc/self/status")
_KIB = 1024


def measure(task: Task) -> dict[str, Any]:
    """Seconds, CPU seconds (threads and child processes included) and peak MB of a task's `run`."""
    gc.collect()
    before, reset = _held(), _reset_peak()
    start, start_cpu = time.perf_counter(), _cpu()
    result = task.run()
    seconds, cpu = time.perf_counter() - start, _cpu() - start_cpu
    peak = _peak() if reset else 0
    return {
        "seconds": seconds,
        "cpu": cpu,
        "peak_mb": (peak - before) / 1e6 if reset else None,
        "process_mb": peak / 1e6 if reset else None,
        "check": task.check(result),
    }


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


def _peak() -> int:
    """Most memory held, bytes; child processes with their own largest."""
    return _field("VmHWM") + _KIB * resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss


def _field(name: str) -> int:
    for line in _STATUS.read_text().splitlines():
        if line.startswith(name):
            return _KIB * int(line.split()[1])
    return 0


def main() -> None:
    """Entry point of the child process."""
    try:
        found = measure(build(sys.argv[1], json.loads(sys.argv[2])))
    except ImportError as err:
        found = {"missing": err.name or str(err)}
    sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
