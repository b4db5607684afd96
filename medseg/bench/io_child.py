"""One task of `medseg bench io` in a process of its own: ``python -m medseg.bench.io_child NAME ARGUMENTS``.

Time and memory are those of the task alone: imports and inputs come before the clock starts, and the
peak is counted from what the process holds by then.
"""

from __future__ import annotations

from medseg.bench.io_tasks import build
from medseg.bench.measuring import run_child

if __name__ == "__main__":
    run_child(build)
