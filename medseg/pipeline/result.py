"""Result: how a command ended, for people, scripts and the exit code."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """How a command ended.

    Parameters
    ----------
    exit_code : int
        0 done, 1 some cases failed, 3 every case was refused, 5 below the required quality.
    path : Path or None
        What to open next, printed last.
    lines : tuple of str
        Sentences for people, before the path.
    facts : dict
        For `--json`.
    silent : bool
        Nothing is printed: another process of this run tells.
    """

    exit_code: int = 0
    path: Path | None = None
    lines: tuple[str, ...] = ()
    facts: dict[str, Any] = field(default_factory=dict)
    silent: bool = False

    def to_json(self) -> dict[str, Any]:
        """One JSON object: exit code, path, sentences, facts."""
        return {
            "exit_code": self.exit_code,
            "path": None if self.path is None else str(self.path),
            "messages": list(self.lines),
            **self.facts,
        }
