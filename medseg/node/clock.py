"""Time as the node sees it; tests turn it."""

from __future__ import annotations

import time


class Clock:
    """`now` is what people are told. No wait and no age goes by it alone, since it may be set at any moment."""

    def __init__(self) -> None:
        self._started = self.now() - self.monotonic()

    def now(self) -> float:
        """Seconds since 1970."""
        return time.time()

    def monotonic(self) -> float:
        """Seconds since some moment; never goes back."""
        return time.monotonic()

    def steady(self) -> float:
        """Seconds since 1970 as if nobody had set the clock since the start: for waits that outlive a restart."""
        return self._started + self.monotonic()

    def earliest(self) -> float:
        """Seconds since 1970 that have passed for sure, also if the clock was set forward since the start.

        For what is removed or given up at some age.
        """
        return min(self.now(), self.steady())
