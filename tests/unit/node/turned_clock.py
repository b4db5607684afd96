"""A clock that stands until a test turns it."""

from __future__ import annotations

from medseg.node.clock import Clock


class TurnedClock(Clock):
    def __init__(self, now: float = 1_800_000_000.0) -> None:
        self.wall, self.passed = now, 0.0
        super().__init__()

    def now(self) -> float:
        return self.wall

    def monotonic(self) -> float:
        return self.passed

    def turn(self, seconds: float) -> None:
        """Time goes by."""
        self.wall += seconds
        self.passed += seconds

    def restart(self) -> None:
        """The node starts again."""
        super().__init__()

    def jump(self, seconds: float) -> None:
        """The clock of the machine is set."""
        self.wall += seconds
