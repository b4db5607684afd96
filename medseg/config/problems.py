"""What is wrong with a settings file, where, and how it is shown: every problem in one error."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medseg.errors import ConfigError

MAX_SHOWN = 50
_MAX_LINE = 100
# The line breaks that a YAML reader counts.
_BREAK = re.compile("\r\n|[\n\r\x85\u2028\u2029]")


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceText:
    """A text that settings were read from: a file, or one `--set`.

    `folder` is what relative paths in it are relative to: the folder of a file, and for a `--set`
    the folder that the command was typed in.
    """

    name: str
    lines: tuple[str, ...]
    folder: Path
    on_command_line: bool = False

    @classmethod
    def of(cls, text: str, *, name: str, folder: Path, on_command_line: bool = False) -> SourceText:
        """Split `text` where a YAML reader would."""
        lines = tuple(_BREAK.split(text))
        return cls(name=name, lines=lines, folder=folder, on_command_line=on_command_line)


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """A stretch of one line, counted from 0; line -1 is the text as a whole."""

    source: SourceText
    line: int = 0
    column: int = 0
    width: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One thing to mend: the path of the setting, a sentence, and where it stands."""

    path: str
    text: str
    mark: Mark

    @property
    def where(self) -> str:
        """`file:line:column` counted from 1, or the `--set` or file itself."""
        if self.mark.source.on_command_line or self.mark.line < 0:
            return self.mark.source.name
        return f"{self.mark.source.name}:{self.mark.line + 1}:{self.mark.column + 1}"

    @property
    def source_line(self) -> str:
        """The line it stands in, "" where the text has no such line."""
        lines = self.mark.source.lines
        return lines[self.mark.line] if 0 <= self.mark.line < len(lines) else ""

    def render(self) -> str:
        """The problem as a terminal shows it: a sentence, the source line and carets below it."""
        sentence = f"{self.path}: {self.text}" if self.path else self.text
        head = f"  {self.where}  {sentence}"
        if not self.source_line.strip():
            return head
        line, column = _clip(self.source_line, self.mark.column)
        width = max(1, min(self.mark.width, len(line) - column))
        gutter = "" if self.mark.source.on_command_line else str(self.mark.line + 1)
        return f"{head}\n{gutter:>7} | {line}\n{'':>7} | {' ' * column}{'^' * width}"

    def to_json(self) -> dict[str, Any]:
        """Plain values for `--json`."""
        return {
            "path": self.path,
            "text": self.text,
            "file": self.mark.source.name,
            "line": self.mark.line + 1 or None,
            "column": self.mark.column + 1 if self.mark.line >= 0 else None,
            "source_line": self.source_line,
        }


class SettingsError(ConfigError):
    """A settings file with all that is wrong with it; `problems` holds the same as a list."""

    def __init__(self, name: str, problems: Iterable[Problem]) -> None:
        self.problems: tuple[Problem, ...] = tuple(sorted(problems, key=_reading_order))
        count = len(self.problems)
        shown = [problem.render() for problem in self.problems[:MAX_SHOWN]]
        if count > MAX_SHOWN:
            shown.append(f"  ... and {count - MAX_SHOWN} more")
        title = f"{name}: {count} problem{'' if count == 1 else 's'}"
        super().__init__(f"{title}\n\n" + "\n".join(shown))


def _reading_order(problem: Problem) -> tuple[bool, str, int, int]:
    source = problem.mark.source
    return source.on_command_line, source.name, problem.mark.line, problem.mark.column


def _clip(line: str, column: int) -> tuple[str, int]:
    """The part of a long line around `column`, safe to print, and the column in that part."""
    printable = "".join(c if c.isprintable() else " " if c == "\t" else "\ufffd" for c in line).rstrip()
    column = min(column, len(printable))
    if len(printable) <= _MAX_LINE:
        return printable, column
    start = max(0, min(column - _MAX_LINE // 3, len(printable) - _MAX_LINE))
    part = printable[start : start + _MAX_LINE]
    lead = "..." if start else ""
    tail = "..." if start + _MAX_LINE < len(printable) else ""
    return lead + part + tail, column - start + len(lead)


def nearest(word: str, choices: Iterable[str]) -> str | None:
    """The one of `choices` that `word` was probably meant to be, or None."""
    by_fold = {choice.casefold().replace("-", "_"): choice for choice in choices}
    match = difflib.get_close_matches(word.casefold().replace("-", "_"), by_fold, n=1, cutoff=0.6)
    return by_fold[match[0]] if match else None


def listed(choices: Sequence[str], *, limit: int = 30) -> str:
    """`'a', 'b'` for a message; a long list is cut and says so."""
    text = ", ".join(repr(choice) for choice in choices[:limit])
    return text if len(choices) <= limit else f"{text} and {len(choices) - limit} more"
