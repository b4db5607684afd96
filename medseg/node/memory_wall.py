"""The ceiling that the kernel itself sets to the memory of a worker, where that is sound."""

from __future__ import annotations

import contextlib
import resource
from dataclasses import dataclass
from pathlib import Path

from medseg.io.dicom_frames import cores

_SLACK_BYTES = 512 << 20
_SLACK_PER_THREAD_BYTES = 32 << 20
_DEVICES = ("/dev/nvidiactl", "/dev/nvidia0", "/dev/dxg", "/dev/kfd")
_PAGE = resource.getpagesize()


@dataclass(frozen=True, slots=True, kw_only=True)
class Taken:
    """Memory of a process: resident, and private data that was asked for, touched or not."""

    resident_bytes: int = 0
    data_bytes: int = 0


def raise_wall(process: int, max_bytes: int, *, threads: int | None = None) -> int | None:
    """Let the kernel refuse a process more private memory than it may take; the ceiling, None where there is none.

    RLIMIT_DATA counts what may be written, not what is written. On a CPU torch, OpenVINO and ONNX Runtime ask for
    75 to 310 MB more than becomes resident, most of it stacks of threads, and so much is added. Drivers of graphics
    cards reserve far more: beside one the watch of the supervisor is all there is.
    """
    if any(Path(device).exists() for device in _DEVICES):
        return None
    wall = max_bytes + _SLACK_BYTES + _SLACK_PER_THREAD_BYTES * max(threads or 0, cores())
    try:
        _, hard = resource.prlimit(process, resource.RLIMIT_DATA)
        if hard not in (resource.RLIM_INFINITY, -1):
            wall = min(wall, hard)
        resource.prlimit(process, resource.RLIMIT_DATA, (wall, wall))
    except (AttributeError, OSError, ValueError):
        return None
    return wall


def memory_taken(process: int) -> Taken:
    """What a process holds now; nothing where it is gone."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        pages = Path(f"/proc/{process}/statm").read_text(encoding="ascii").split()
        return Taken(resident_bytes=int(pages[1]) * _PAGE, data_bytes=int(pages[5]) * _PAGE)
    return Taken()
