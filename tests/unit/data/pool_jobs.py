"""A job that worker processes can import quickly: what it does is the payload of the task."""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from medseg.data.worker_pool import Task
from medseg.errors import GeometryError


@contextlib.contextmanager
def memory_limit(more: int) -> Iterator[None]:
    """Let this process have `more` bytes of addresses beyond what it has."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    old = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + more, old[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, old)


class Unsendable:
    """Memory runs out when it is made into bytes."""

    def __reduce__(self) -> Any:
        raise MemoryError


def act(task: Task) -> Any:
    match task.payload:
        case "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        case "stop":
            os.kill(os.getpid(), signal.SIGSTOP)
        case "loop":
            while True:
                time.sleep(0.01)
        case "exit":
            os._exit(7)
        case "fail":
            raise ValueError("no such intensity")
        case "refuse":
            raise GeometryError("the grid is bent")
        case "full":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/somewhere/x.npy")
        case "memory":
            with memory_limit(64 << 20):
                bytearray(1 << 30)
        case "torch_memory":
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes")
        case "pickle_memory":
            return task.index, os.getpid(), Unsendable()
        case ("array", size):
            array = np.arange(size, dtype=np.int32)[None]
            return task.index, os.getpid(), (array, array[:, ::-1].T)
        case float() as seconds:
            time.sleep(seconds)
    return task.index, os.getpid(), task.payload
