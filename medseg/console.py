"""What the terminal shows: a progress bar where there is one, a line every ten seconds where not."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table

LINE_EVERY_S = 10.0
SHORT_CELL = 40
_WIDE = 1000
NOT_DEFINED = "not defined"


def stderr_console(*, quiet: bool = False) -> Console:
    """The console that people read; stdout is for results and JSON."""
    # A log file has no width of its own; tables must not be cut at 80 columns there.
    width = None if sys.stderr.isatty() else 120
    return Console(file=sys.stderr, quiet=quiet, highlight=False, soft_wrap=True, width=width)


class ConsoleReporter:
    """Draws the progress of a run on a `rich` console."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self._bar: Progress | None = None
        self._task: TaskID | None = None
        self._last_line = 0.0

    def title(self, text: str) -> None:
        """Print the heading of the run."""
        self.console.print(text, style="bold", markup=False)

    def stage_started(self, name: str, text: str) -> None:
        """Show a bar for the stage, or remember to print lines."""
        self._stop_bar()
        self._last_line = time.monotonic()
        if self.console.is_terminal:
            self._bar = Progress(
                TextColumn("{task.fields[stage]:<10}"),
                BarColumn(bar_width=28),
                MofNCompleteColumn(),
                TextColumn("{task.description}"),
                TimeRemainingColumn(),
                console=self.console,
                transient=True,
            )
            self._bar.start()
            self._task = self._bar.add_task(text, total=None, stage=name)

    def advanced(self, name: str, done: int, total: int, text: str) -> None:
        """Move the bar, or print a line if ten seconds have passed."""
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=done, total=total or None, description=_escape(text))
        elif time.monotonic() - self._last_line >= LINE_EVERY_S:
            self._last_line = time.monotonic()
            far = f"{done}/{total} " if total else ""
            self.console.print(f"{time.strftime('%H:%M:%S')} {name} {far}{text}", markup=False)

    def stage_done(self, name: str, text: str, seconds: float | None) -> None:
        """Replace the bar by one line."""
        self._stop_bar()
        took = "reused" if seconds is None else _duration(seconds)
        self.console.print(f"✓ {name:<9} {text:<62} {took:>8}", markup=False)

    def table(self, title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Print a table."""
        self._stop_bar()
        self.console.print(_table(columns, rows, title=title))

    def note(self, text: str) -> None:
        """Print one sentence."""
        self.console.print(f"  {text}", style="yellow", markup=False)

    def close(self) -> None:
        """Take the bar away."""
        self._stop_bar()

    def _stop_bar(self) -> None:
        if self._bar is not None:
            self._bar.stop()
        self._bar = self._task = None


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table on stdout: a result that was asked for. Not cut where stdout is a file."""
    if rows:
        width = None if sys.stdout.isatty() else _WIDE
        Console(file=sys.stdout, highlight=False, width=width).print(_table(columns, rows))


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]], *, title: str | None = None) -> Table:
    """Numbers to the right, text to the left, short cells in one line."""
    table = Table(title=title, title_justify="left", box=None, pad_edge=False, padding=(0, 2))
    for index, column in enumerate(columns):
        cells = [row[index] for row in rows]
        number = index > 0 and all(cell[:1].isdigit() or cell == NOT_DEFINED for cell in cells)
        short = max(map(len, [column, *cells])) <= SHORT_CELL
        table.add_column(column, justify="right" if number else "left", no_wrap=short)
    for row in rows:
        table.add_row(*map(_escape, row))
    return table


def _escape(text: str) -> str:
    return text.replace("[", r"\[")


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    return f"{int(seconds // 60)} m {int(seconds % 60):02d} s"
