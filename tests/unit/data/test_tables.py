"""CSV cells: numbers stay, formulas are disarmed, and both can be read back."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medseg.data.tables import cell, restore_text, write_csv
from medseg.errors import StorageError


@pytest.mark.parametrize(
    "text", ["=1+1", "+cmd|' /C calc'!A0", "-2+3", "@SUM(A1)", "\tx", "\rx", "＝1", "'=1", "-", "=-1"]
)
def test_formulas_get_an_apostrophe(text):
    assert cell(text) == f"'{text}"
    assert restore_text(cell(text)) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (-1.5, "-1.5"),
        ("-1.5", "-1.5"),
        ("+3e-4", "+3e-4"),
        (0.1, "0.1"),
        (-3, "-3"),
        (float("nan"), "nan"),
        (float("-inf"), "-inf"),
        (True, "true"),
        (None, ""),
        ("", ""),
        ("it's", "it's"),
        ("'quoted'", "'quoted'"),
        (Path("a/b"), "a/b"),
    ],
)
def test_numbers_and_plain_text_are_untouched(value, text):
    assert cell(value) == text


@settings(deadline=None)
@given(st.text())
def test_no_text_cell_starts_a_formula_and_all_come_back(text):
    written = cell(text)
    assert restore_text(written) == text
    assert written == text or written[0] == "'"


def test_rows_are_written_with_all_columns(tmp_path: Path):
    path = tmp_path / "t.csv"
    write_csv(path, [{"a": 1, "=b": "x,y"}, {"c": 'say "hi"\nthere', "a": None}])
    with path.open(newline="", encoding="utf-8") as stream:
        assert list(csv.reader(stream)) == [
            ["a", "'=b", "c"],
            ["1", "x,y", ""],
            ["", "", 'say "hi"\nthere'],
        ]
    write_csv(path, [], columns=["a", "b"])
    assert path.read_text() == "a,b\n"
    write_csv(path, [{"a": None}, {"a": "x\ry"}])
    assert path.read_bytes() == b'a\n""\n"x\ry"\n'
    assert list(tmp_path.iterdir()) == [path]


def test_a_column_that_the_header_lacks_is_an_error(tmp_path: Path):
    with pytest.raises(ValueError, match=r"\['b'\]"):
        write_csv(tmp_path / "t.csv", [{"a": 1, "b": 2}], columns=["a"])


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path):
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="cannot write"):
        write_csv(tmp_path / "file" / "t.csv", [{"a": 1}])
