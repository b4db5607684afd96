"""Many instances in one commit: rows as if each had come alone."""

from __future__ import annotations

import io
import random
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("sqlalchemy", reason="needs medseg[node]")
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.filereader import read_file_meta_info
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian
from sqlalchemy import select

from medseg.database import Database
from medseg.export.dicom_bytes import file_head
from medseg.node.instance_header import InstanceFacts
from medseg.node.instance_rows import InstanceRow, Known, _add, _Counted
from medseg.node.tables import conflicts, instances, metadata, series, studies

FACTS = InstanceFacts(
    sop_instance_uid="1.1",
    sop_class_uid=CTImageStorage,
    series_uid="1.2",
    study_uid="1.3",
    patient="p",
    transfer_syntax_uid=ExplicitVRLittleEndian,
    modality="CT",
    body_part="",
    description="",
    protocol="",
    number=None,
)


def row(number: int, *, sha256: str = "", **facts: str) -> InstanceRow:
    return InstanceRow(
        facts=replace(FACTS, sop_instance_uid=f"1.1.{number}", **facts),
        path=f"instances/{number}",
        size=1,
        sha256=sha256 or f"sha{number}",
        received_at=float(number),
        route="dimse",
        peer="SENDER",
    )


class Rows:
    """A database that batches are written to."""

    def __init__(self, path: Path) -> None:
        self.database = Database.in_file(path, metadata)
        self._counted = _Counted(self.database)

    def add(self, *rows: InstanceRow) -> list[Known | None]:
        with self.database.write() as connection:
            return _add(self._counted, connection, rows)

    def of(self, table) -> list[dict]:
        with self.database.read() as connection:
            return [dict(one) for one in connection.execute(select(table)).mappings()]


@pytest.fixture
def rows(tmp_path: Path):
    opened = Rows(tmp_path / "node.db")
    yield opened
    opened.database.close()


def test_an_instance_twice_in_one_commit_is_stored_once(rows: Rows):
    known = Known("sha1", row(1).path)
    assert rows.add(row(1), row(1), row(1, sha256="other")) == [None, known, known]
    assert rows.add(row(1), row(2)) == [known, None]
    assert [one["sha256"] for one in rows.of(instances)] == ["sha1", "sha2"]
    assert rows.of(studies)[0]["arrivals"] == rows.of(series)[0]["instances"] == 2


@pytest.mark.parametrize("together", [False, True], ids=["one by one", "in one commit"])
def test_other_content_under_one_uid_is_noted_once_for_the_series_of_the_first(rows: Rows, together: bool):
    other = row(1, sha256="other", series_uid="1.9")
    batch = [row(1), row(2), row(2), other, other]
    for some in [batch] if together else [[one] for one in batch]:
        rows.add(*some)
    assert rows.of(conflicts) == [
        {"sop_instance_uid": row(1).facts.sop_instance_uid, "series_uid": row(1).facts.series_uid}
    ]


def test_a_study_that_was_settled_opens_again_only_for_what_is_new(rows: Rows):
    rows.add(row(1))
    with rows.database.write() as connection:
        connection.execute(studies.update().values(state="settled"))
    rows.add(row(1))
    assert rows.of(studies)[0]["state"] == "settled"
    rows.add(row(2))
    found = rows.of(studies)[0]
    assert (found["state"], found["first_at"], found["last_at"]) == ("receiving", 1.0, 2.0)


@pytest.mark.parametrize("together", [False, True], ids=["one by one", "in one commit"])
@pytest.mark.parametrize(
    ("second", "note"),
    [
        ({}, ""),
        ({"patient": "q"}, "instances of two patients in one study"),
        ({"study_uid": "1.3.9"}, "instances of two studies under one Series Instance UID"),
    ],
)
def test_series_of_two_patients_or_studies_are_noted(rows: Rows, together: bool, second: dict, note: str):
    both = row(1), row(2, **second)
    for batch in [both] if together else [[one] for one in both]:
        rows.add(*batch)
    assert [one["mixed"] for one in rows.of(series)] == [note]


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32), st.lists(st.integers(1, 12), min_size=1, max_size=12))
def test_counts_do_not_depend_on_how_rows_are_shared_among_commits(
    tmp_path_factory, seed: int, sizes: list[int]
):
    dice = random.Random(seed)
    rows = Rows(tmp_path_factory.mktemp("rows") / "node.db")
    sent = [
        row(dice.randrange(30), study_uid=f"1.3.{study}", series_uid=f"1.2.{study}.{dice.randrange(2)}")
        for study in (dice.randrange(3) for _ in range(sum(sizes)))
    ]
    left = list(sent)
    for size in sizes:
        rows.add(*left[:size])
        del left[:size]
    first = {one.facts.sop_instance_uid: one.facts for one in reversed(sent)}
    arrivals, counts = (
        Counter(one.study_uid for one in first.values()),
        Counter(one.series_uid for one in first.values()),
    )
    assert {one["sop_instance_uid"]: one["series_uid"] for one in rows.of(instances)} == {
        uid: one.series_uid for uid, one in first.items()
    }
    assert {one["study_uid"]: one["arrivals"] for one in rows.of(studies)} == arrivals
    assert {one["series_uid"]: one["instances"] for one in rows.of(series)} == counts
    rows.database.close()


@pytest.mark.parametrize("uid", ["1.2", "1.2.3", "2.25." + "7" * 58, "2.25." + "7" * 59])
def test_the_head_of_a_file_is_read_by_pydicom(tmp_path: Path, uid: str):
    head = file_head(
        transfer_syntax_uid=ExplicitVRLittleEndian, sop_class_uid=CTImageStorage, sop_instance_uid=uid
    )
    path = tmp_path / "head.dcm"
    path.write_bytes(head)
    meta = read_file_meta_info(path)
    assert (meta.MediaStorageSOPInstanceUID, meta.MediaStorageSOPClassUID) == (uid, CTImageStorage)
    assert (meta.TransferSyntaxUID, meta.FileMetaInformationVersion) == (ExplicitVRLittleEndian, b"\0\1")
    stream = io.BytesIO()
    from pydicom.filewriter import write_file_meta_info

    write_file_meta_info(stream, meta, enforce_standard=True)
    assert head == b"\0" * 128 + b"DICM" + stream.getvalue()


def test_what_is_no_uid_makes_no_file():
    with pytest.raises(ValueError, match="expected a UID"):
        file_head(transfer_syntax_uid="1.2", sop_class_uid="1.2", sop_instance_uid="1." + "2" * 63)
