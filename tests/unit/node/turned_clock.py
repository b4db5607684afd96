"""A clock that stands until a test turns it."""

from __future__ import annotations


class TurnedClock:
    def __init__(self, now: float = 1_800_000_000.0) -> None:
        self.wall, self.steady = now, 0.0

    def now(self) -> float:
        return self.wall

    def monotonic(self) -> float:
        return self.steady

    def turn(self, seconds: float) -> None:
        """Time goes by."""
        self.wall += seconds
        self.steady += seconds

    def jump(self, seconds: float) -> None:
        """The clock of the machine is set."""
        self.wall += seconds
