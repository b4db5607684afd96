"""How stages tell a person what they are doing. The CLI draws it; libraries get the silent one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol


class Reporter(Protocol):
    """Receives what happens; never decides anything."""

    def title(self, text: str) -> None:
        """The run as a whole: its name and folder."""

    def stage_started(self, name: str, text: str) -> None:
        """A stage begins."""

    def advanced(self, name: str, done: int, total: int, text: str) -> None:
        """A stage has done `done` of `total` steps."""

    def stage_done(self, name: str, text: str, seconds: float | None) -> None:
        """A stage ended; no seconds where an earlier result is used again."""

    def table(self, title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Numbers for people."""

    def note(self, text: str) -> None:
        """Something the user should know, one sentence."""


class SilentReporter:
    """Says nothing."""

    def title(self, text: str) -> None:
        """Ignore it."""

    def stage_started(self, name: str, text: str) -> None:
        """Ignore it."""

    def advanced(self, name: str, done: int, total: int, text: str) -> None:
        """Ignore it."""

    def stage_done(self, name: str, text: str, seconds: float | None) -> None:
        """Ignore it."""

    def table(self, title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Ignore it."""

    def note(self, text: str) -> None:
        """Ignore it."""
