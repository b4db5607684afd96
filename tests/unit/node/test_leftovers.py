"""Files without a row: whole instances are taken in again, purged ones stay away, nothing acknowledged is removed."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("pynetdicom", reason="needs medseg[node]")
from sqlalchemy import delete, update

from medseg.node.arrival import Verdict
from medseg.node.leftovers import Leftovers, Settled
from medseg.node.tables import instances, removals, series, studies
from tests.unit.node.listening import STUDY, ct_slice
from tests.unit.node.test_deidentify import deidentifier, options
from tests.unit.node.test_intake import Site, arrival

KEY = b"k" * 32
DAY = 86400.0


class LeftSite(Site):
    def leftovers(self) -> Leftovers:
        parts = {"database": self.database, "vault": self.vault, "audit": self.audit}
        return Leftovers(intake=self.intake, **parts)

    def settle(self, older_than_s: float = 0.0) -> Settled:
        left = self.leftovers()
        left.look(older_than_s)
        return left.settle()

    def take(self, *numbers: int) -> None:
        for number in numbers:
            assert self.intake.accept(arrival(ct_slice(number))).verdict == "stored"

    def forget(self) -> None:
        """As a database does that is set back to a backup."""
        with self.database.write() as connection:
            for table in (instances, series, studies):
                connection.execute(delete(table))

    def audit_text(self) -> str:
        return (self.folder / "audit.jsonl").read_text()

    def aside(self) -> list[Path]:
        return [path for path in (self.folder / "set_aside").rglob("*") if path.is_file()]

    def left(self) -> list[str]:
        return [path.relative_to(self.folder).as_posix() for path in self.files()]


@pytest.fixture(params=[None, KEY], ids=["plain", "encrypted"])
def site(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[LeftSite]:
    opened = LeftSite(tmp_path, key=request.param)
    yield opened
    opened.stop()


def test_instances_whose_rows_were_lost_are_taken_in_again(site: LeftSite):
    site.take(0, 1, 2)
    before = {row["sop_instance_uid"]: row for row in site.rows()}
    site.forget()
    assert site.settle() == Settled(taken_back=3)
    after = {row["sop_instance_uid"]: row for row in site.rows()}
    same = ("path", "size", "sha256", "patient", "series_uid")
    assert {uid: [row[key] for key in same] for uid, row in after.items()} == {
        uid: [row[key] for key in same] for uid, row in before.items()
    }
    assert [(row["state"], row["arrivals"]) for row in site.rows(studies)] == [("receiving", 3)]
    assert site.settle() == Settled()
    assert site.intake.accept(arrival(ct_slice(1))).verdict == "duplicate"


def test_what_is_not_whole_is_set_aside_and_goes_with_the_images_of_its_time(
    site: LeftSite, monkeypatch: pytest.MonkeyPatch
):
    site.take(0, 1, 2, 3)
    paths = [site.vault.place(row["path"]) for row in site.rows()]
    site.forget()
    content = paths[0].read_bytes()
    paths[0].write_bytes(content[: len(content) // 2])
    # As long as it was, and its front is intact: blocks that did not reach the disk.
    paths[1].write_bytes(content[:-64] + bytes(64) if site.vault.encrypted else _other_pixels(paths[1]))
    paths[2].write_bytes(b"")
    assert site.settle() == Settled(taken_back=1, set_aside=3)
    assert site.left() == [row["path"] for row in site.rows()]
    assert len(site.aside()) == 3
    retention = site.retention()
    retention.run()
    assert len(site.aside()) == 3
    # A clock that is set forward makes nothing old.
    monkeypatch.setattr(time, "time", lambda now=time.time: now() + 365 * DAY)
    retention.run()
    assert len(site.aside()) == 3
    monkeypatch.undo()
    for path in site.aside():
        os.utime(path, (0, 0))
    retention.run()
    assert site.aside() == []


def _other_pixels(path: Path) -> bytes:
    return path.read_bytes()[:-64] + b"\1" * 64


def test_a_file_under_a_name_that_is_not_its_own_is_set_aside(site: LeftSite):
    site.take(0, 1)
    first, second = (row["path"] for row in site.rows())
    site.forget()
    shutil.copyfile(site.vault.place(first), site.vault.place(second))
    site.vault.write("instances/ab/cd/copy.dcm", site.vault.read(first))
    assert site.settle() == Settled(taken_back=1, set_aside=2)


def test_purged_instances_do_not_come_back(site: LeftSite, monkeypatch: pytest.MonkeyPatch):
    site.take(0, 1)
    # The process is killed when the rows are gone.
    with monkeypatch.context() as patch:
        patch.setattr(site.vault, "remove", _killed)
        with pytest.raises(KeyboardInterrupt):
            site.retention().purge_instances(STUDY)
    assert (len(site.files()), len(site.rows()), len(site.rows(removals))) == (2, 0, 2)
    assert site.settle() == Settled()
    assert (site.files(), site.rows(), site.rows(removals)) == ([], [], [])


def test_files_that_a_failing_disk_kept_are_removed_later(site: LeftSite, monkeypatch: pytest.MonkeyPatch):
    site.take(0)
    with monkeypatch.context() as patch:
        patch.setattr(site.vault, "remove", lambda _name: None)
        site.retention().purge_instances(STUDY)
    assert len(site.rows(removals)) == 1
    site.retention().run()
    assert (site.files(), site.rows(removals)) == ([], [])


def _killed(_name: str) -> None:
    raise KeyboardInterrupt


def test_second_copies_are_removed_and_other_content_is_set_aside(site: LeftSite):
    site.take(0)
    (row,) = site.rows()
    first = site.vault.place(row["path"])
    first.rename(first.with_suffix(".kept"))
    other = ct_slice(0)
    other.PatientName = "Roe^Richard"
    site.forget()
    for one in (ct_slice(0), other):
        assert site.intake.accept(arrival(one)).verdict == "stored"
        site.forget()
    first.with_suffix(".kept").rename(first)
    # The row is the one of before.
    with site.database.write() as connection:
        connection.execute(studies.insert(), [_study()])
        connection.execute(series.insert(), [_series()])
        connection.execute(instances.insert(), [dict(row)])
    assert site.settle() == Settled(removed=1, set_aside=1)
    assert site.left() == [row["path"]]


def test_a_row_whose_file_was_purged_after_the_backup_gets_the_file_that_came_again(site: LeftSite):
    site.take(0)
    (row,) = site.rows()
    site.vault.place(row["path"]).unlink()
    site.forget()
    site.take(0)
    (again,) = site.rows()
    with site.database.write() as connection:
        connection.execute(update(instances).values(path=row["path"]))
    assert site.settle() == Settled(taken_back=1)
    assert [found["path"] for found in site.rows()] == [again["path"]] == site.left()


def test_what_other_nodes_may_be_writing_stays(site: LeftSite):
    site.take(0)
    young, old, whole = "instances/a/b/young.dcm", "instances/a/b/old.dcm", site.left()[0]
    results = ["jobs/1/1/young.dcm", "jobs/1/1/old.dcm"]
    for name in (young, old, *results):
        site.vault.write(name, b"no row yet")
    for name in (old, results[1]):
        os.utime(site.vault.place(name), (0, 0))
    site.forget()
    assert site.settle(DAY) == Settled(taken_back=1, set_aside=1)
    assert sorted(site.left()) == sorted([young, whole])
    assert [site.vault.place(name).exists() for name in results] == [True, False]
    assert site.leftovers().look() == (1, 1)
    assert site.settle() == Settled(set_aside=1)


def test_a_node_whose_new_file_another_one_takes_back_has_stored_it(
    site: LeftSite, monkeypatch: pytest.MonkeyPatch
):
    add = site.vault.add

    def add_and_find(name: str, *parts: bytes) -> None:
        add(name, *parts)
        assert site.settle(DAY) == Settled(taken_back=1)

    monkeypatch.setattr(site.vault, "add", add_and_find)
    site.take(0)
    assert [row["path"] for row in site.rows()] == site.left()


def test_a_deidentified_instance_that_was_taken_back_is_known_when_it_comes_again(tmp_path: Path):
    site = LeftSite(tmp_path)
    site.intake._deidentify = deidentifier(options(), KEY)
    site.take(0)
    site.forget()
    assert site.settle() == Settled(taken_back=1)
    assert site.intake.accept(arrival(ct_slice(0))).verdict == "duplicate"
    site.stop()


def test_instances_that_come_meanwhile_and_a_stop_lose_nothing(site: LeftSite):
    site.take(0, 1, 2)
    site.forget()
    first = site.leftovers()
    assert first.look() == (3, 0)
    # The node listens already, and one of them is sent again.
    site.take(1)
    first.stop()
    assert first.settle() == Settled()
    assert site.settle() == Settled(taken_back=2, removed=1)
    assert sorted(site.left()) == sorted(row["path"] for row in site.rows())
    assert len(site.rows()) == 3


def test_a_file_that_nobody_expected_keeps_no_other_from_its_row(
    site: LeftSite, monkeypatch: pytest.MonkeyPatch
):
    site.take(0, 1, 2)
    site.forget()
    poison, take_back = site.left()[0], site.intake.take_back

    def breaks(path: str) -> Verdict:
        if path == poison:
            raise RuntimeError("Doe^Jane")
        return take_back(path)

    monkeypatch.setattr(site.intake, "take_back", breaks)
    left = site.leftovers()
    left.look()
    left.start()
    left._thread.join()
    assert (len(site.rows()), len(site.aside())) == (2, 1)
    assert '"event": "leftovers", "taken_back": 2, "set_aside": 1, "removed": 0' in site.audit_text()


def _study() -> dict[str, object]:
    times = {"first_at": 1.0, "last_at": 1.0}
    return {"study_uid": STUDY, "state": "receiving", "arrivals": 1} | times


def _series() -> dict[str, object]:
    texts = dict.fromkeys(("body_part", "description", "protocol", "called_by"), "")
    return {
        "series_uid": ct_slice().SeriesInstanceUID,
        "study_uid": STUDY,
        "modality": "CT",
        "instances": 1,
    } | texts
