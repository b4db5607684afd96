"""Whether there is room for more: the reserve that stays free, and the quota of the node."""

from __future__ import annotations

import errno
import os
import shutil
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from medseg.amounts import bytes_text
from medseg.node.clock import Clock

_LOOK_EVERY_S = 1.0
_REFUSED_S = 60.0


_WORDS = tuple(os.strerror(number).lower() for number in (errno.ENOSPC, errno.EDQUOT))


def is_out_of_space(sentence: str) -> bool:
    """Whether an error says in the operating system's words that there is no space on the disk."""
    return any(words in sentence.lower() for words in _WORDS)


@dataclass(frozen=True, slots=True, kw_only=True)
class SpaceState:
    """Free bytes of the disk, bytes that the node holds, and why nothing more is taken ("" where it is)."""

    free: int
    held: int
    full: str = ""


class DiskSpace:
    """Looks at the disk at most once a second and counts what is taken in between.

    Parameters
    ----------
    folder : Path
        Of the node.
    reserve : int
        Bytes that stay free.
    quota : int or None
        Most bytes that the node may hold.
    held : callable
        Bytes that it holds, as the database says.
    clock : Clock
    """

    def __init__(
        self, folder: Path, *, reserve: int, quota: int | None, held: Callable[[], int], clock: Clock
    ) -> None:
        self._folder, self._reserve, self._quota, self._held, self._clock = (
            folder,
            reserve,
            quota,
            held,
            clock,
        )
        self._lock = threading.Lock()
        self._looked_at = float("-inf")
        self._free = self._bytes = self._taken = 0
        self._refused, self._refused_at = 0, float("-inf")

    def state(self, wanted: int = 0) -> SpaceState:
        """How things stand when `wanted` bytes more were taken; without them, for what was refused in the last minute.

        A quota is reached when nothing that comes fits any more, not when its last byte is used.
        """
        asked = bool(wanted)
        with self._lock:
            self._look()
            if not asked and self._clock.monotonic() - self._refused_at < _REFUSED_S:
                wanted = self._refused
            free, held = self._free - self._taken, self._bytes + self._taken
        full = ""
        if free - wanted < self._reserve:
            full = (
                f"{bytes_text(max(free, 0))} free on the disk, storage.reserve is {bytes_text(self._reserve)}"
            )
        elif self._quota is not None and held + wanted > self._quota:
            full = f"{bytes_text(held)} held, storage.quota is {bytes_text(self._quota)}"
        if asked:
            self._refused, self._refused_at = (
                (wanted, self._clock.monotonic()) if full else (0, float("-inf"))
            )
        return SpaceState(free=free, held=held, full=full)

    def take(self, count: int) -> SpaceState:
        """Count bytes as taken if there is room; `full` of the answer says why not."""
        state = self.state(count)
        if not state.full:
            with self._lock:
                self._taken += count
        return state

    def _look(self) -> None:
        if self._clock.monotonic() - self._looked_at < _LOOK_EVERY_S:
            return
        self._free = shutil.disk_usage(self._folder).free
        self._bytes = self._held() if self._quota is not None else 0
        self._taken = 0
        self._looked_at = self._clock.monotonic()
