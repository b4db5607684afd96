"""What holds around a training and is put back after it: deterministic algorithms, signal handlers."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from types import FrameType
from typing import Any

import torch

_LOG = logging.getLogger(__name__)
_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextlib.contextmanager
def determinism(wanted: bool) -> Iterator[None]:
    """Deterministic algorithms of torch inside the block, the caller's choice after it."""
    if not wanted:
        yield
        return
    # cuBLAS reads it when it is first used.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    before = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    memory: Any = torch.utils.deterministic
    benchmark, fill = torch.backends.cudnn.benchmark, memory.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = False
    # Filling new memory costs bandwidth and serves to find reads of it; the tests do that.
    memory.fill_uninitialized_memory = False
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before, warn_only=warn_only)
        torch.backends.cudnn.benchmark = benchmark
        memory.fill_uninitialized_memory = fill


@dataclass(slots=True, kw_only=True)
class StopRequest:
    """The signal that asked for the end, by name."""

    signal: str | None = None

    def receive(self, number: int, frame: FrameType | None) -> None:
        """First signal: remember; second: stop now."""
        if self.signal is not None:
            raise KeyboardInterrupt
        self.signal = signal.Signals(number).name
        _LOG.warning("%s: the batch is finished and the state saved; once more to stop at once", self.signal)


@contextlib.contextmanager
def stop_request() -> Iterator[StopRequest]:
    """SIGINT, SIGTERM and SIGHUP become a request while the block runs, in the main thread alone.

    A signal that is ignored, such as SIGHUP under `nohup`, stays so.
    """
    stop = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    wanted = [number for number in _ENDING if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, stop.receive) for number in wanted}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
