"""What is old is removed, and nothing that a job, a person, a delivery or a late slice needs."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("pynetdicom", reason="needs medseg[pacs]")
from sqlalchemy import insert, update

from medseg.node.audit import Audit
from medseg.node.options import StorageOptions
from medseg.node.privacy_options import AuditOptions
from medseg.node.retention import Retention
from medseg.node.tables import deliveries, instances, jobs, results, studies, work_items
from medseg.node.work_items import WorkItems
from medseg.pacs.workitem import WorkRequest
from tests.unit.node.listening import ct_slice
from tests.unit.node.test_scheduling import Site

DAY = 86400.0


class KeptSite(Site):
    """A settled study with a job that is done and a result that was sent."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        options = StorageOptions(reserve=1, keep_instances=7 * DAY, keep_results=90 * DAY)
        self.retention = Retention(
            options,
            database=self.database,
            vault=self.vault,
            audit=Audit(folder, AuditOptions(), self.clock),
            clock=self.clock,
        )
        self.take(0, 1, 2)
        self.after(0)
        assert self.after(61) == 1
        self.vault.write("jobs/1/1/segmentation.dcm", b"SEG")
        row = {
            "job_id": 1,
            "kind": "dicom_seg",
            "path": "jobs/1/1/segmentation.dcm",
            "size": 3,
            "sha256": "0",
        }
        sent = {
            "destination": "archive",
            "sop_class_uid": "1.2",
            "sop_instance_uid": "1.2.3",
            "path": row["path"],
            "job_id": 1,
            "state": "sent",
            "created_at": self.clock.now(),
        }
        with self.database.write() as connection:
            connection.execute(update(jobs).values(state="done", ended_at=self.clock.now()))
            connection.execute(insert(results).values(row))
            connection.execute(insert(deliveries).values(sent))

    def files(self) -> int:
        return sum(path.suffix == ".dcm" for path in self.vault.folder.rglob("*") if path.is_file())

    def set(self, table, **values) -> None:
        with self.database.write() as connection:
            connection.execute(update(table).values(values))


@pytest.fixture
def site(tmp_path: Path):
    made = KeptSite(tmp_path)
    yield made
    made.close()


def test_images_go_first_and_results_much_later(site: KeptSite):
    site.clock.turn(6 * DAY)
    site.retention.run()
    assert (len(site.row(instances)), site.files()) == (3, 4)
    site.clock.turn(2 * DAY)
    site.retention.run()
    assert (len(site.row(instances)), site.files()) == (0, 1)
    assert site.row(studies) == []
    site.clock.turn(90 * DAY)
    site.retention.run()
    assert (site.row(jobs), site.row(results), site.row(deliveries), site.files()) == ([], [], [], 0)


def test_a_clock_that_is_set_removes_nothing(site: KeptSite):
    site.clock.jump(365 * DAY)
    site.retention.run()
    site.clock.jump(-2 * 365 * DAY)
    site.retention.run()
    assert (len(site.row(instances)), len(site.row(jobs)), site.files()) == (3, 1, 4)


@pytest.mark.parametrize("state", ["queued", "running", "held"])
def test_what_a_job_or_a_person_needs_stays(site: KeptSite, state: str):
    site.set(jobs, state=state)
    site.clock.turn(200 * DAY)
    site.retention.run()
    assert (len(site.row(instances)), len(site.row(jobs)), site.files()) == (3, 1, 4)


def test_what_was_not_sent_yet_stays(site: KeptSite):
    site.set(deliveries, state="waiting")
    site.clock.turn(200 * DAY)
    site.retention.run()
    assert len(site.row(results)) == 1
    assert site.vault.read("jobs/1/1/segmentation.dcm") == b"SEG"


def test_a_slice_that_comes_while_old_studies_are_removed_stays(site: KeptSite):
    site.clock.turn(8 * DAY)
    look = site.retention._ids

    def look_and_receive(query):
        found = look(query)
        if ct_slice(0).StudyInstanceUID in found:
            site.take(3)
        return found

    site.retention._ids = look_and_receive
    site.retention.run()
    assert len(site.row(instances)) == 4
    assert [row["state"] for row in site.row(studies)] == ["receiving"]


def test_work_items_are_forgotten_when_they_ended_long_ago(site: KeptSite):
    items, request = (
        WorkItems(site.database, site.clock, "here"),
        WorkRequest(codes=(), priority="", inputs=()),
    )
    ended, live = (
        items.add("list", uid, rule="ct", request=request, transaction_uid="1.2") for uid in ("1.3", "1.4")
    )
    items.end(ended, "completed")
    site.clock.turn(89 * DAY)
    site.retention.run()
    assert len(site.row(work_items)) == 2
    site.clock.turn(2 * DAY)
    site.retention.run()
    assert [row["workitem_uid"] for row in site.row(work_items)] == [live.workitem_uid]
