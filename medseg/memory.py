"""How much memory is free, and how much this program has taken at most."""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import sys
import threading
from pathlib import Path
from types import TracebackType
from typing import Self

_TICK_S = 0.2


def free_memory_bytes() -> int | None:
    """Free memory of the machine, or of its control group where that is less; None where unknown."""
    found = []
    with contextlib.suppress(OSError, ValueError, IndexError):
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        found += [int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")]
    group = Path("/sys/fs/cgroup")
    with contextlib.suppress(OSError, ValueError):
        limit = int((group / "memory.max").read_text(encoding="ascii"))
        found.append(max(0, limit - int((group / "memory.current").read_text(encoding="ascii"))))
    return min(found) if found else None


def peak_memory_bytes(process_id: int | None = None) -> int:
    """Largest resident memory of a process since its program began; of this one unless another is named.

    0 for a process that has ended.
    """
    # Not ru_maxrss: after fork and exec it starts at what the parent had.
    with contextlib.suppress(OSError, ValueError, IndexError):
        text = Path(f"/proc/{process_id or 'self'}/status").read_text(encoding="ascii", errors="replace")
        lines = [line for line in text.splitlines() if line.startswith("VmHWM:")]
        return int(lines[0].split()[1]) * 1024
    if process_id is not None and process_id != os.getpid():
        return 0
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def resident_bytes() -> int:
    """Resident memory of this process now; its peak where the system does not tell."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")
    return peak_memory_bytes()


def return_free_memory() -> None:
    """Give memory that was freed back to the system, where the C library can.

    Tensors of many sizes leave holes between those that live on; without this a long training grows.
    Takes milliseconds; values are not touched.
    """
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


class ResidentPeak:
    """Largest resident memory of this process while the block runs, as looks at short intervals see it.

    Parameters
    ----------
    every_s : float, optional
        Between two looks; what lives shorter is missed.

    Attributes
    ----------
    before_bytes, most_bytes : int
        When the block began, and at most so far.
    """

    def __init__(self, *, every_s: float = 0.02) -> None:
        self.before_bytes = self.most_bytes = 0
        self._every_s, self._ended = every_s, threading.Event()
        self._watcher = threading.Thread(target=self._watch, name="resident-watcher", daemon=True)

    @property
    def extra_bytes(self) -> int:
        """Beyond what there was when the block began."""
        return max(0, self.most_bytes - self.before_bytes)

    def __enter__(self) -> Self:
        self.before_bytes = self.most_bytes = resident_bytes()
        self._watcher.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._watcher.join()
        self._look()

    def _watch(self) -> None:
        while not self._ended.wait(self._every_s):
            self._look()

    def _look(self) -> None:
        self.most_bytes = max(self.most_bytes, resident_bytes())


class PeakMemory:
    """Peak of this process and of those that it started, while the block runs.

    The children are looked at five times a second; `total_bytes` is this process's peak since its
    program began plus the largest sum of the peaks of children that lived at one time.
    """

    def __init__(self) -> None:
        self._children_bytes = 0
        self._ended = threading.Event()
        self._watcher = threading.Thread(target=self._watch, name="memory-watcher", daemon=True)

    @property
    def total_bytes(self) -> int:
        """The peak so far."""
        self._look()
        return peak_memory_bytes() + self._children_bytes

    def __enter__(self) -> Self:
        self._watcher.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._watcher.join()

    def _watch(self) -> None:
        while not self._ended.wait(_TICK_S):
            self._look()

    def _look(self) -> None:
        self._children_bytes = max(self._children_bytes, sum(map(peak_memory_bytes, _children())))


def _children() -> list[int]:
    found: list[int] = []
    with contextlib.suppress(OSError, ValueError):
        for task in Path("/proc/self/task").iterdir():
            with contextlib.suppress(OSError):
                found += map(int, (task / "children").read_text(encoding="ascii").split())
    return found
