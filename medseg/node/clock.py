"""Time as the node sees it; tests turn it."""

from __future__ import annotations

import time


class Clock:
    """`now` is for people and retention, `monotonic` for everything that must not jump."""

    def now(self) -> float:
        """Seconds since 1970."""
        return time.time()

    def monotonic(self) -> float:
        """Seconds since some moment; never goes back."""
        return time.monotonic()
