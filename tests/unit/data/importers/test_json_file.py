"""JSON of others: bounded, unambiguous, and without a way out of its folder."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medseg.data.importers import json_file
from medseg.data.importers.json_file import path_inside, read_json, read_object
from medseg.errors import ManifestError


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"{", "not valid JSON"),
        (b'{"a": NaN}', "NaN is no JSON number"),
        (b'{"a": 1, "a": 2}', "'a' stands twice"),
        (b"[" * 200_000, "nested deeper"),
        (b'{"a":' * 17 + b"1" + b"}" * 17, "nested deeper"),
        (b"\xff{}", "byte 0 .0xff. is not UTF-8"),
        (b"[" + b"9" * 5000 + b"]", "not valid JSON"),
    ],
)
def test_bad_files_are_refused(tmp_path: Path, text: bytes, message: str):
    path = tmp_path / "dataset.json"
    path.write_bytes(text)
    with pytest.raises(ManifestError, match=message):
        read_json(path)


def test_brackets_in_texts_are_no_depth(tmp_path: Path):
    path = tmp_path / "x.json"
    path.write_text('\ufeff{"a": "' + "[" * 50 + '\\"{{"}', encoding="utf-8")
    assert read_object(path) == {"a": "[" * 50 + '"{{'}


def test_large_files_lists_and_absent_files_are_refused(tmp_path: Path, monkeypatch):
    path = tmp_path / "x.json"
    path.write_text("[1]")
    with pytest.raises(ManifestError, match="expected a JSON object"):
        read_object(path)
    with pytest.raises(ManifestError, match="larger than"):
        json_file.read_text(path, max_bytes=2)
    with pytest.raises(ManifestError, match="no such file"):
        read_json(tmp_path / "y.json")


@pytest.mark.parametrize(
    "text", ["../x", "a/../../x", "/etc/passwd", ".", "a/..", "", "  ", "a\0b", "a\nb", None, 3]
)
def test_paths_that_lead_out_are_refused(tmp_path: Path, text):
    assert isinstance(path_inside(tmp_path, text), str)


@pytest.mark.parametrize("text", ["./a/b.nii", "a//b.nii", "a/c/../b.nii"])
def test_paths_inside_are_found(tmp_path: Path, text):
    assert path_inside(tmp_path, text) == tmp_path / "a" / "b.nii"


@given(st.text("a./\\~ \0", max_size=12))
def test_a_path_is_inside_or_refused(text: str):
    found = path_inside(Path("/data/set"), text)
    assert isinstance(found, str) or Path("/data/set") in found.parents
