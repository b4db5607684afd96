"""What a search tells people while it runs, and the weights that it no longer needs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from medseg.pipeline.context import Context
from medseg.pipeline.progress import SilentReporter
from medseg.search.options import SearchOptions
from medseg.search.records import ENDED, TrialRow, best_row
from medseg.search.results import raw_text, table_columns
from medseg.search.space import parameters
from medseg.search.study import SearchStudy

_WEIGHTS = ("state-*.pt", "*.safetensors")


class SearchListener:
    """Tells people how the search gets on, and removes weights that no one needs."""

    def __init__(self, context: Context, study: SearchStudy, options: SearchOptions, *, trials: Path) -> None:
        self._context, self._study, self._options = context, study, options
        self._trials = trials
        self._done = self._count(study.rows())

    def advanced(self, text: str) -> None:
        """Show a line about the trial that runs."""
        wanted = max(self._done, self._options.trials)
        self._context.reporter.advanced("search", self._done, wanted, text)

    def validated(self, number: int, epoch: int, value: float) -> None:
        """A trial reached the end of an epoch."""
        self.advanced(f"trial {number}: epoch {epoch}, {self._options.metric} {value:.4f}")

    def ended(self, row: TrialRow) -> None:
        """A trial ended."""
        rows = self._study.rows()
        self._done = self._count(rows)
        best = best_row(rows, higher_is_better=self._options.higher_is_better)
        is_best = best is not None and best.number == row.number
        self._context.reporter.note(_ended_text(row, self._options, is_best=is_best))
        self._context.run.log("trial ended", trial=row.number, state=row.state, value=row.value)
        for other in rows:
            if other.state in ENDED and (best is None or other.number != best.number):
                _remove_weights(self._trials / str(other.number) / "training")

    @staticmethod
    def _count(rows: Sequence[TrialRow]) -> int:
        return sum(row.state in ENDED for row in rows)


def _ended_text(row: TrialRow, options: SearchOptions, *, is_best: bool) -> str:
    names = table_columns(parameters(options.space))
    values = ", ".join(f"{name} {raw_text(raw)}" for name, raw in zip(names, row.raw.values(), strict=True))
    how = f"{options.metric} {row.value:.4f}" if row.value is not None else row.state
    more = " (best so far)" if is_best else f" ({row.reason})" if row.reason else ""
    return f"trial {row.number}: {how}{more}; {values}"


def _remove_weights(folder: Path) -> None:
    for pattern in _WEIGHTS:
        for path in folder.glob(pattern):
            path.unlink(missing_ok=True)


class TrialReporter(SilentReporter):
    """Shows the training of a trial as part of the search."""

    def __init__(self, context: Context, listener: SearchListener) -> None:
        self._context, self._listener, self._trial = context, listener, ""

    def stage_started(self, name: str, text: str) -> None:
        """A trial begins; `name` says which."""
        self._trial = name

    def advanced(self, name: str, done: int, total: int, text: str) -> None:
        """A step of its training."""
        self._listener.advanced(f"{self._trial}: {text}")

    def note(self, text: str) -> None:
        """Pass it on."""
        self._context.reporter.note(f"{self._trial}: {text}")
