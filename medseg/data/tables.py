"""CSV tables that a spreadsheet shows as they are and never runs as formulas."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from medseg.provenance import write_text

_NUMBER = re.compile(r"[-+]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][-+]?[0-9]+)?|[-+]?inf|nan")
_FORMULA = re.compile(r"'*[=+\-@\t\r\n＝＋－＠]")
_ESCAPED = re.compile(r"'+[=+\-@\t\r\n＝＋－＠]")


def write_csv(
    path: Path, rows: Sequence[Mapping[str, object]], *, columns: Sequence[str] | None = None
) -> None:
    """Write rows as UTF-8 CSV with a header, whole or not at all.

    Numbers are written so that they read back equal. Text that a spreadsheet would take for a
    formula gets a leading apostrophe (OWASP, CSV injection); `restore_text` takes it away again.

    Parameters
    ----------
    rows : sequence of mappings
        Column -> value; None and absent values become empty cells.
    columns : sequence of str, optional
        Header; the keys of all rows in the order of their first appearance unless given.

    Raises
    ------
    StorageError
        The file cannot be written.
    ValueError
        A row has a column that `columns` does not list.
    """
    names = list(columns) if columns is not None else list(dict.fromkeys(key for row in rows for key in row))
    write_text(path, csv_text(names, ([row.get(name) for name in names] for row in _known(rows, names))))


def csv_text(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Header and rows as CSV text, cells as `write_csv` writes them."""
    table = [[cell(name) for name in header], *([cell(value) for value in row] for row in rows)]
    return "".join(",".join(_quoted(text, alone=len(row) == 1) for text in row) + "\n" for row in table)


def _quoted(text: str, *, alone: bool) -> str:
    # RFC 4180. csv.writer leaves a bare carriage return unquoted when lines end in "\n"; a row of one
    # empty cell would be an empty line.
    needs = any(mark in text for mark in ',"\r\n') or (alone and not text)
    return '"' + text.replace('"', '""') + '"' if needs else text


def cell(value: object) -> str:
    """One value as a cell: numbers as they are, formulas disarmed, None empty."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    text = str(value)
    if _NUMBER.fullmatch(text):
        return text
    return f"'{text}" if _FORMULA.match(text) else text


def restore_text(text: str) -> str:
    """The text that `cell` disarmed; any other text unchanged."""
    return text[1:] if _ESCAPED.match(text) else text


def _known(rows: Sequence[Mapping[str, object]], names: Sequence[str]) -> Sequence[Mapping[str, object]]:
    extra = sorted({key for row in rows for key in row} - set(names))
    if extra:
        raise ValueError(f"rows have the columns {extra}, which the header {list(names)} does not list")
    return rows
