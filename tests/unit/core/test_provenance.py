"""Files are whole or absent, whatever call fails."""

import errno
import os

import pytest

from medseg import provenance
from medseg.errors import StorageError


def test_a_file_appears_only_when_the_block_ends_well(tmp_path):
    path = tmp_path / "a" / "result.nii.gz"
    with provenance.whole_file(path) as part:
        part.write_bytes(b"new")
        assert not path.exists()
        assert part.suffixes[-2:] == [".nii", ".gz"], "writers choose their format by the ending"
    assert path.read_bytes() == b"new"
    assert [p.name for p in path.parent.iterdir()] == ["result.nii.gz"]


def test_an_error_keeps_the_old_file_and_leaves_no_part(tmp_path):
    path = tmp_path / "result.json"
    path.write_text("old")

    def write_half_and_fail() -> None:
        with provenance.whole_file(path) as part:
            part.write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        write_half_and_fail()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("call", ["fsync", "replace"])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EDQUOT])
def test_a_failing_disk_is_one_sentence_and_the_old_file_stays(tmp_path, monkeypatch, call, number):
    path = tmp_path / "result.json"
    path.write_text("old")

    def fail(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(provenance.os, call, fail)
    with pytest.raises(StorageError, match=os.strerror(number)):
        provenance.write_text(path, "new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_nan_is_not_written_as_json(tmp_path):
    with pytest.raises(ValueError, match="JSON"):
        provenance.write_json(tmp_path / "a.json", {"x": float("nan")})
    assert list(tmp_path.iterdir()) == []


def test_parts_of_a_killed_process_are_swept(tmp_path):
    (tmp_path / "case").mkdir()
    (tmp_path / "case" / f".mask.nii.gz.123{provenance.TEMPORARY_SUFFIX}.nii.gz").write_bytes(b"x")
    (tmp_path / "case" / "mask.nii.gz").write_bytes(b"x")
    assert provenance.sweep_parts(tmp_path) == 1
    assert [p.name for p in (tmp_path / "case").iterdir()] == ["mask.nii.gz"]


def test_equal_values_hash_alike_whatever_their_order():
    assert provenance.sha256_json({"a": 1, "b": [1.5]}) == provenance.sha256_json({"b": [1.5], "a": 1})
