import json

import pytest

from medseg.data.manifest import Case
from medseg.errors import ManifestError, StorageError
from medseg.review.versions import latest_version, manifest_path, masks_path, next_number, write_version


def rows(tmp_path, *, split="train"):
    return [
        Case(
            case_id=f"c{n}",
            patient_id=f"p{n // 2}",
            images=(tmp_path / f"c{n}.nii",),
            split=split,
            columns={"site": "A"},
        )
        for n in range(4)
    ]


def test_versions_are_numbered_and_the_last_finished_one_counts(tmp_path):
    assert latest_version(tmp_path) is None
    assert next_number(tmp_path) == 1
    write_version(tmp_path, 0, rows(tmp_path), {"parent": None})
    write_version(tmp_path, 1, rows(tmp_path, split="test"), {"parent": {"version": 0}})
    found = latest_version(tmp_path)
    assert found.number == 1
    assert found.record["manifest"]["cases"] == 4
    assert [row.split for row in found.rows()] == ["test"] * 4
    assert found.rows()[0].columns["site"] == "A"


def test_a_version_that_was_begun_and_killed_is_neither_used_nor_written_over(tmp_path):
    write_version(tmp_path, 0, rows(tmp_path), {})
    masks_path(tmp_path, 1).mkdir()
    manifest_path(tmp_path, 2).write_text("case_id\n")
    assert latest_version(tmp_path).number == 0
    assert next_number(tmp_path) == 3
    with pytest.raises(StorageError, match="never written over"):
        write_version(tmp_path, 2, rows(tmp_path), {})
    assert manifest_path(tmp_path, 2).read_text() == "case_id\n"


def test_a_manifest_that_was_edited_is_no_parent(tmp_path):
    write_version(tmp_path, 0, rows(tmp_path), {})
    path = manifest_path(tmp_path, 0)
    path.write_text(path.read_text().replace("train", "test"))
    with pytest.raises(StorageError, match="changed after it was written"):
        latest_version(tmp_path).rows()


def test_a_damaged_record_is_told(tmp_path):
    write_version(tmp_path, 0, rows(tmp_path), {})
    (tmp_path / "manifest-v0.json").write_text(json.dumps({"schema": "other"}))
    with pytest.raises(StorageError, match="move it away"):
        latest_version(tmp_path)


def test_a_torn_patient_or_a_double_id_stops_before_anything_is_written(tmp_path):
    torn = rows(tmp_path)
    torn[1] = Case(case_id="c1", patient_id="p0", images=torn[1].images, split="test")
    torn[2] = torn[3]
    with pytest.raises(ManifestError, match=r"(?s)c3 stands twice.*patient p0 is in test, train"):
        write_version(tmp_path, 0, torn, {})
    assert list(tmp_path.iterdir()) == []
