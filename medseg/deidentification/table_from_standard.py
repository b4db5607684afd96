"""Make `profile_table.json` of the standard's Table E.1-1, as it is published.

`python -m medseg.deidentification.table_from_standard part15.xml > profile_table.json` reads DocBook, or the HTML of
part 15 or of its annex E alone.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator, Mapping
from html.parser import HTMLParser
from pathlib import Path

from medseg.errors import ConfigError, InputError

# What the columns are called, and here.
_COLUMNS: Mapping[str, str] = {
    "Basic Prof.": "basic",
    "Rtn. UIDs Opt.": "uids",
    "Rtn. Dev. Id. Opt.": "device",
    "Rtn. Inst. Id. Opt.": "institution",
    "Rtn. Pat. Chars. Opt.": "patient_characteristics",
    "Rtn. Long. Full Dates Opt.": "dates_full",
    "Rtn. Long. Modif. Dates Opt.": "dates_modified",
    "Clean Desc. Opt.": "descriptors",
    "Clean Struct. Cont. Opt.": "structured_content",
    "Clean Graph. Opt.": "graphics",
}
_CODES = frozenset({"D", "Z", "X", "K", "C", "U", "Z/D", "X/Z", "X/D", "X/Z/D", "X/Z/U", "X/Z/U*"})
_TAG = re.compile(r"\(([0-9a-f]{4}|50xx|60xx),([0-9a-f]{4}|xxxx)\)")
_PRIVATE = re.compile(r"\(gggg,eeee\)")
_EDITION = re.compile(r"PS3\.15 (20[0-9]{2}[a-z])")
_FEWEST_ROWS = 200
_Row = list[str]


class _Tables(HTMLParser):
    """The rows of every table, each cell as one text; DocBook and HTML name rows and cells alike."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.tables: list[list[_Row]] = []
        self._open: list[list[_Row]] = []
        self._cell: list[str] | None = None

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Begin a table, row or cell."""
        if tag == "table":
            self._open.append([])
            self.tables.append(self._open[-1])
        elif tag == "tr" and self._open:
            self._open[-1].append([])
        elif tag in ("td", "th") and self._open and self._open[-1]:
            self._cell = []

    def handle_endtag(self, tag: str) -> None:
        """End a table or a cell."""
        if tag == "table" and self._open:
            self._open.pop()
        elif tag in ("td", "th") and self._cell is not None:
            text = "".join(self._cell).replace("\N{ZERO WIDTH SPACE}", "")
            self._open[-1][-1].append(" ".join(text.split()))
            self._cell = None

    def handle_data(self, data: str) -> None:
        """Text of a cell."""
        if self._cell is not None:
            self._cell.append(data)


def table_of(document: str) -> dict[str, dict[str, str]]:
    """Action codes by column by tag, in the order of tags, of a published part 15.

    Raises
    ------
    InputError
        There is no Table E.1-1, or it has a column, row or code that is not understood.
    """
    parser = _Tables()
    parser.feed(document)
    rows = next((table for table in parser.tables if table and _places(table[0])), None)
    if rows is None:
        raise InputError(f"no table with the columns {', '.join(_COLUMNS)}")
    places = _places(rows[0])
    found: dict[str, dict[str, str]] = {}
    for row in rows[1:]:
        for tag, codes in _read(row, places):
            if tag in found:
                raise InputError(f"{tag} stands in Table E.1-1 twice")
            found[tag] = codes
    if len(found) < _FEWEST_ROWS:
        raise InputError(f"Table E.1-1 has {len(found)} rows, expected {_FEWEST_ROWS} or more")
    return dict(sorted(found.items()))


def table_text(rows: Mapping[str, Mapping[str, str]], source: str) -> str:
    """The JSON, one row of the table a line."""
    lines = [f"  {json.dumps(tag)}: {json.dumps(codes)}" for tag, codes in rows.items()]
    return f'{{\n "source": {json.dumps(source)},\n "rows": {{\n' + ",\n".join(lines) + "\n }\n}\n"


def _places(header: _Row) -> dict[str, int]:
    """Index of each column by its name here, `tag` among them; empty where this is another table."""
    wanted = {"Tag": "tag", **_COLUMNS}
    found = {
        name: next((at for at, cell in enumerate(header) if cell.startswith(title)), -1)
        for title, name in wanted.items()
    }
    return {} if -1 in found.values() else found


def _read(row: _Row, places: Mapping[str, int]) -> Iterator[tuple[str, dict[str, str]]]:
    if len(row) <= max(places.values()):
        raise InputError(f"a row of Table E.1-1 has {len(row)} cells: {row[:2]}")
    text = row[places["tag"]].lower()
    match = _TAG.fullmatch(text)
    if match is None:
        if not _PRIVATE.match(text):
            raise InputError(f"Table E.1-1 names a tag that is not understood: {text!r}")
        return
    codes = {name: row[places[name]].upper() for name in _COLUMNS.values() if row[places[name]]}
    unknown = [code for code in codes.values() if code not in _CODES]
    if unknown or "basic" not in codes:
        raise InputError(f"Table E.1-1 has no action code, or an unknown one, for {text}: {codes}")
    yield match[1] + match[2], codes


def main(arguments: list[str]) -> None:
    """Read the file that is named, write JSON to standard output."""
    if len(arguments) != 1:
        raise ConfigError("expected one argument: part15.xml, or part15.html")
    document = Path(arguments[0]).read_text(encoding="utf-8")
    edition = _EDITION.search(document)
    source = f"DICOM PS3.15 Table E.1-1, edition {edition[1] if edition else 'unknown'}"
    sys.stdout.write(table_text(table_of(document), f"{source}. xx stands for any digits."))


if __name__ == "__main__":
    main(sys.argv[1:])
