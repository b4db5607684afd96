"""Where the time of a training goes."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from time import perf_counter

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
        self._begin = perf_counter()

    @contextlib.contextmanager
    def part(self, name: Part) -> Iterator[None]:
        """Count the time of the block for one part."""
        start = perf_counter()
        try:
            yield
        finally:
            self.state.spent_s[name] += perf_counter() - start

    def seconds(self) -> float:
        """Seconds of the whole training so far, all its processes one after the other."""
        return self.state.seconds + perf_counter() - self._begin

    def settle(self) -> None:
        """Write the seconds of this process into the state."""
        self.state.seconds = self.seconds()
        self._begin = perf_counter()
