"""Tables as CSV text that opens in a spreadsheet without surprises."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping

Cell = str | int | float | None


def rows_to_csv(rows: Iterable[Mapping[str, Cell]]) -> str:
    """Rows as CSV text, the columns in order of first appearance, empty where a value is None.

    Text that a spreadsheet would run as a formula gets a leading apostrophe.
    """
    rows = list(rows)
    columns = list(dict.fromkeys(name for row in rows for name in row))
    stream = io.StringIO()
    writer = csv.DictWriter(stream, fieldnames=columns, restval="", lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({name: _csv_cell(value) for name, value in row.items()})
    return stream.getvalue()


def _csv_cell(value: Cell) -> Cell:
    if isinstance(value, str) and value[:1] in ("=", "+", "-", "@", "\t", "\r"):
        return f"'{value}"
    return "" if value is None else value
