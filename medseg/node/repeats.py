"""What one address does over and over: the first times are told in full, the others are counted."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import NamedTuple

from medseg.node.clock import Clock

IN_FULL = 20
WITHIN_S = 60.0
_MOST_KEYS = 1000


class What(NamedTuple):
    """What was done by whom; `address` "" for all those for which there is no room of their own."""

    event: str
    outcome: str
    address: str


@dataclass(slots=True)
class _Window:
    begun: float
    told: int = 0
    counted: int = 0


@dataclass(slots=True)
class Repeats:
    """Decides what is told; for any number of threads.

    Parameters
    ----------
    clock : Clock
    """

    clock: Clock
    _windows: dict[What, _Window] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def is_told(self, what: What) -> bool:
        """Whether this one is told in full; else it is counted."""
        with self._lock:
            if what not in self._windows and len(self._windows) >= _MOST_KEYS:
                what = what._replace(address="")
            window = self._windows.setdefault(what, _Window(self.clock.monotonic()))
            if window.told < IN_FULL:
                window.told += 1
                return True
            window.counted += 1
            return False

    def counted(self, *, at_once: bool = False) -> dict[What, int]:
        """What was counted since the last time: of windows that are over, or of all."""
        now = self.clock.monotonic()
        with self._lock:
            over = [what for what, one in self._windows.items() if at_once or now - one.begun >= WITHIN_S]
            found = {what: self._windows.pop(what).counted for what in over}
        return {what: count for what, count in found.items() if count}
