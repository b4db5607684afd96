"""Where the time of a training goes."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

from medseg.training.records import Part, RunState


class Stopwatch:
    """Adds the seconds of this process to those of a `RunState`, as a whole and by part.

    Parameters
    ----------
    state : RunState
        Its `seconds` and `spent_s` grow.
    """

    def __init__(self, state: RunState) -> None:
        self.state = state
        self._begin = time.perf_counter()

    @contextlib.contextmanager
    def part(self, name: Part) -> Iterator[None]:
        """Count the time of the block for one part."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.state.spent_s[name] += time.perf_counter() - start

    def seconds(self) -> float:
        """Seconds of the whole training so far, all its processes one after the other."""
        return self.state.seconds + time.perf_counter() - self._begin

    def settle(self) -> None:
        """Write the seconds of this process into the state."""
        self.state.seconds = self.seconds()
        self._begin = time.perf_counter()
