"""Folders of cases: whole or not counted, whatever happens while they are written."""

from __future__ import annotations

import pytest

from medseg.errors import StorageError
from medseg.pipeline.cohort_folder import cohort_folder, whole_case

OWN = ("record", "mask", "seg")


def write(path, **files):
    with whole_case(path, last="record", own=OWN) as folder:
        for name, text in files.items():
            (folder / name).write_text(text)


def fail(path):
    with whole_case(path, last="record", own=OWN) as folder:
        (folder / "mask").write_text("m2")
        raise ZeroDivisionError


def contents(path):
    return {child.name: child.read_text() for child in path.iterdir()}


def test_a_new_folder_appears_with_all_its_files(tmp_path):
    path = tmp_path / "out" / "case"
    with whole_case(path, last="record", own=OWN) as folder:
        (folder / "mask").write_text("m")
        assert not path.exists()
        (folder / "record").write_text("r")
    assert contents(path) == {"mask": "m", "record": "r"}
    assert [child.name for child in path.parent.iterdir()] == ["case"]


def test_a_failure_leaves_nothing_new_and_everything_old(tmp_path):
    write(tmp_path / "old", mask="m1", record="r1")
    for name in ("old", "new"):
        with pytest.raises(ZeroDivisionError):
            fail(tmp_path / name)
    assert contents(tmp_path / "old") == {"mask": "m1", "record": "r1"}
    assert [child.name for child in tmp_path.iterdir()] == ["old"]


def test_a_new_result_replaces_ours_and_leaves_what_is_not_ours(tmp_path):
    write(tmp_path / "case", mask="m1", seg="s1", record="r1")
    (tmp_path / "case" / "remarks.txt").write_text("looks odd")
    write(tmp_path / "case", mask="m2", record="r2")
    assert contents(tmp_path / "case") == {"mask": "m2", "record": "r2", "remarks.txt": "looks odd"}


@pytest.mark.parametrize("call", range(1, 4))
def test_a_kill_while_files_are_replaced_leaves_no_record(tmp_path, monkeypatch, call):
    write(tmp_path / "case", mask="m1", seg="s1", record="r1")
    calls = []

    def replace(source, target):
        calls.append(target)
        if len(calls) == call:
            raise KeyboardInterrupt
        source.rename(target)

    monkeypatch.setattr("medseg.pipeline.cohort_folder.os.replace", replace)
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "case", mask="m2", seg="s2", record="r2")
    assert "record" not in contents(tmp_path / "case")


def test_no_space_is_one_sentence(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("medseg.pipeline.cohort_folder.os.rename", full)
    with pytest.raises(StorageError, match=r"cannot write .*case: No space left on device; free space"):
        write(tmp_path / "case", mask="m", record="r")


def test_a_second_command_is_told_who_is_there_and_leftovers_are_swept(tmp_path):
    output = tmp_path / "out"
    (output / ".case.0123.medseg-part").mkdir(parents=True)
    (output / ".case.0123.medseg-part" / "mask").write_text("half")
    (output / ".predictions.json.7.medseg-part.json").write_text("half")
    with cohort_folder(output) as text:
        assert [child.name for child in output.iterdir()] == [".lock"]
        assert (output / ".lock").read_text() == text
        with (
            pytest.raises(StorageError, match=r"is in use by process \d+ on .* since"),
            cohort_folder(output),
        ):
            pass
    with cohort_folder(output):
        pass


def test_an_output_that_cannot_be_made_is_one_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="change --output"), cohort_folder(tmp_path / "file" / "out"):
        pass
