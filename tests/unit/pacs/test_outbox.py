"""What is to be sent reaches the archive once, whoever fails in between."""

from __future__ import annotations

import itertools
import random
from pathlib import Path

import pytest

pytest.importorskip("pynetdicom", reason="needs medseg[pacs]")
from pydicom.dataset import Dataset
from sqlalchemy import select

from medseg.database import Database
from medseg.errors import StorageError
from medseg.pacs.outbox import Outbox
from medseg.pacs.outbox_table import deliveries, metadata
from medseg.pacs.senders import wait_before
from medseg.pacs.sending import Sent
from tests.unit.node.turned_clock import TurnedClock
from tests.unit.pacs.archives import dimse_archive, outgoing

DAY = 86400.0


class ScriptedSender:
    """Answers as a script says, and remembers what it was given."""

    def __init__(self, *answers) -> None:
        self.answers, self.given = iter(answers), []

    def send(self, files, _flight=None):
        self.given.append([file.sop_instance_uid for file in files])
        answer = next(self.answers)
        if callable(answer):
            return [answer(file.sop_instance_uid) for file in files]
        return [
            Sent(sop_instance_uid=file.sop_instance_uid, state=answer, reason="so it is") for file in files
        ]

    def echo(self) -> None:
        pass


class Site:
    def __init__(self, folder: Path, options, *, owner: str = "here") -> None:
        self.clock, self.files = TurnedClock(), {}
        self.database = Database.in_file(folder / "outbox.db", metadata)
        self.options = options
        self.box = self.outbox(owner)

    def outbox(self, owner: str) -> Outbox:
        return Outbox(self.database, {"archive": self.options}, read=self.read, clock=self.clock, owner=owner)

    def read(self, path: str) -> bytes:
        if path not in self.files:
            raise StorageError(f"{path} is not there")
        return self.files[path]

    def put(self, *numbers: int) -> list[str]:
        files = [outgoing(number) for number in numbers]
        with self.database.write() as connection:
            for number, file in zip(numbers, files, strict=True):
                self.files[f"jobs/{number}"] = file.content
                self.box.put(
                    connection,
                    destination="archive",
                    sop_class_uid=file.sop_class_uid,
                    sop_instance_uid=file.sop_instance_uid,
                    path=f"jobs/{number}",
                )
        return [file.sop_instance_uid for file in files]

    def script(self, *answers) -> ScriptedSender:
        sender = ScriptedSender(*answers)
        self.box._senders["archive"] = sender
        return sender

    def rows(self):
        with self.database.read() as connection:
            return connection.execute(select(deliveries).order_by(deliveries.c.id)).mappings().all()

    def states(self) -> list[str]:
        return [row["state"] for row in self.rows()]


@pytest.fixture
def archive():
    with dimse_archive() as opened:
        yield opened


@pytest.fixture
def site(tmp_path: Path, archive):
    made = Site(tmp_path, archive.options(first_wait=10.0, longest_wait=60.0, give_up_after=1000.0))
    yield made
    made.database.close()


def test_a_delivery_is_made_once_however_often_it_is_asked_for(site: Site, archive):
    uids = site.put(1, 2)
    site.put(1, 2)
    assert site.box.run_once("archive") == 2
    site.put(1)
    assert site.box.run_once("archive") == 0
    assert archive.taken == uids
    assert site.states() == ["sent", "sent"]


def test_waits_double_up_to_the_ceiling(site: Site):
    assert [wait_before(n, site.options) for n in (1, 2, 3, 4, 5, 40)] == [10, 20, 40, 60, 60, 60]
    site.put(1)
    sender = site.script(*["again"] * 4, "sent")
    for wait in (10, 20, 40, 60):
        site.box.run_once("archive")
        site.clock.turn(wait - 1)
        assert site.box.run_once("archive") == 0
        site.clock.turn(1)
    assert site.box.run_once("archive") == 1
    assert len(sender.given) == 5


def test_an_archive_says_itself_when_to_come_again(site: Site):
    site.put(1)
    site.script(lambda uid: Sent(sop_instance_uid=uid, state="again", retry_after_s=33.0), "sent")
    site.box.run_once("archive")
    site.clock.turn(32)
    assert site.box.run_once("archive") == 0
    site.clock.turn(1)
    assert site.box.run_once("archive") == 1


def test_what_is_refused_or_too_old_waits_for_a_person(site: Site):
    site.put(1, 2)
    site.script(
        lambda uid: Sent(
            sop_instance_uid=uid, state="refused" if uid == site.rows()[0]["sop_instance_uid"] else "again"
        ),
        "again",
        "sent",
    )
    site.box.run_once("archive")
    site.clock.turn(1001)
    site.box.run_once("archive")
    assert site.states() == ["failed", "failed"]
    assert site.rows()[1]["reason"].startswith("given up after 17 min")
    assert site.box.retry(site.rows()[0]["id"])
    assert site.box.run_once("archive") == 1
    assert site.states() == ["sent", "failed"]


def test_what_is_cancelled_is_not_sent(site: Site):
    site.put(1)
    assert site.box.cancel(site.rows()[0]["id"])
    assert site.box.run_once("archive") == 0
    site.put(1)
    assert site.box.run_once("archive") == 1


def test_a_file_that_cannot_be_read_holds_no_other_up(site: Site):
    site.put(1, 2)
    del site.files["jobs/1"]
    assert site.box.run_once("archive") == 1
    assert site.states() == ["waiting", "sent"]


def test_a_database_that_is_away_when_the_archive_has_answered_is_waited_for(
    site: Site, archive, monkeypatch: pytest.MonkeyPatch
):
    uids, real, away = site.put(1, 2), site.database.write, [StorageError("the disk is full")] * 3
    settle = site.box._write_down

    def write():
        if away:
            raise away.pop()
        return real()

    def written_down(*given):
        monkeypatch.setattr(site.database, "write", write)
        return settle(*given)

    monkeypatch.setattr("medseg.pacs.outbox._LOOK_EVERY_S", 0.01)
    monkeypatch.setattr(site.box, "_write_down", written_down)
    assert site.box.run_once("archive") == 2
    assert (away, archive.taken, site.states()) == ([], uids, ["sent", "sent"])


def test_at_a_stop_without_a_database_it_is_sent_again_by_the_next_start(
    site: Site, archive, monkeypatch: pytest.MonkeyPatch
):
    site.put(1)
    settle = site.box._write_down

    def written_down(*given):
        with monkeypatch.context() as patch:
            patch.setattr(site.database, "write", lambda: (_ for _ in ()).throw(StorageError("away")))
            site.box._stop.set()
            return settle(*given)

    monkeypatch.setattr(site.box, "_write_down", written_down)
    assert site.box.run_once("archive") == 0
    assert site.states() == ["sending"]
    later = site.outbox("next")
    assert later.recover() == 1
    assert later.run_once("archive") == 1
    assert site.states() == ["sent"]
    assert len(set(archive.taken)) == 1


def test_a_sender_that_breaks_or_forgets_an_answer_leaves_nothing_under_way(site: Site):
    site.put(1, 2)

    class Broken(ScriptedSender):
        def send(self, files, _flight=None):
            super().send(files)
            return [Sent(sop_instance_uid=files[0].sop_instance_uid, state="sent")]

    sender = site.box._senders["archive"] = Broken("sent", lambda uid: 1 / 0)
    assert site.box.run_once("archive") == 1
    assert site.states() == ["sent", "waiting"]
    assert site.rows()[1]["reason"] == "no answer for this instance"
    site.clock.turn(60)
    site.box.run_once("archive")
    assert site.states() == ["sent", "waiting"]
    assert site.rows()[1]["reason"] == "internal error, please report it: ZeroDivisionError"
    assert len(sender.given) == 2


def test_what_another_node_has_taken_over_is_not_settled_by_the_first(site: Site):
    site.put(1)
    other = site.outbox("other")

    def taken_over(uid: str) -> Sent:
        assert other.recover(["here"]) == 1
        assert len(other._claim("archive")) == 1
        return Sent(sop_instance_uid=uid, state="again", reason="late")

    site.script(taken_over)
    site.box.run_once("archive")
    assert [(row["state"], row["owner"], row["reason"]) for row in site.rows()] == [("sending", "other", "")]


@pytest.mark.parametrize("seconds", [-365 * DAY, -3600.0, -1800.0, 1800.0, 3600.0, 365 * DAY])
def test_a_clock_that_is_set_changes_no_wait(site: Site, seconds: float):
    site.put(1)
    site.script("again", "sent")
    site.box.run_once("archive")
    site.clock.jump(seconds)
    assert site.box.run_once("archive") == 0
    site.clock.turn(site.options.first_wait)
    assert site.box.run_once("archive") == 1


@pytest.mark.parametrize("restart", [False, True])
def test_a_clock_set_back_holds_nothing_up(site: Site, restart: bool):
    site.put(1)
    site.script("again", "sent")
    site.box.run_once("archive")
    site.clock.jump(-365 * DAY)
    if restart:
        site.clock.restart()
    else:
        site.clock.turn(site.options.first_wait)
    assert site.box.run_once("archive") == 1


def test_a_clock_set_forward_gives_nothing_up(site: Site):
    site.put(1)
    site.script("again", "again")
    site.clock.jump(365 * DAY)
    site.box.run_once("archive")
    assert site.rows()[0]["state"] == "waiting"
    site.clock.turn(site.options.give_up_after + 1)
    site.box.run_once("archive")
    assert site.rows()[0]["state"] == "failed"


def test_what_a_dead_owner_was_sending_is_sent_again_and_stored_once(site: Site, archive):
    uids = site.put(1, 2)
    assert len(site.box._claim("archive")) == 2
    heir = site.outbox("heir")
    assert heir.run_once("archive") == 0
    assert heir.recover(["somebody"]) == 0
    assert heir.recover(["here"]) == 2
    assert heir.run_once("archive") == 2
    assert archive.taken == uids


def report(transaction: str, kept, failed=()) -> Dataset:
    information = Dataset()
    information.TransactionUID = transaction
    for keyword, uids in (("ReferencedSOPSequence", kept), ("FailedSOPSequence", failed)):
        items = []
        for uid in uids:
            item = Dataset()
            item.ReferencedSOPInstanceUID = uid
            items.append(item)
        setattr(information, keyword, items)
    return information


def test_a_promise_to_keep_is_asked_for_and_taken(tmp_path: Path, archive):
    site = Site(tmp_path, archive.options(commitment="ask"))
    uids = site.put(1, 2)
    site.box.run_once("archive")
    (asked,) = archive.asked
    assert [item.ReferencedSOPInstanceUID for item in asked.ReferencedSOPSequence] == uids
    assert site.box.report(report("1.2.3", uids), 1) == 0x0112
    assert site.box.report(report(asked.TransactionUID, uids[:1], uids[1:]), 2) == 0
    assert site.states() == ["committed", "waiting"]
    site.clock.turn(61)
    site.box.run_once("archive")
    assert archive.taken == [*uids, uids[1]]
    site.database.close()


def test_reports_that_contradict_themselves_or_come_twice(tmp_path: Path, archive):
    site = Site(tmp_path, archive.options(commitment="ask"))
    uids = site.put(1, 2)
    site.box.run_once("archive")
    told = report(archive.asked[0].TransactionUID, uids, uids[1:])
    assert site.box.report(told, 2) == 0
    assert site.states() == ["committed", "waiting"]
    assert site.box.report(told, 2) == 0
    assert site.box.report(report("", uids), 1) == 0x0112
    assert site.states() == ["committed", "waiting"]
    site.database.close()


def test_without_a_promise_it_is_sent_again_after_a_day(tmp_path: Path, archive):
    site = Site(tmp_path, archive.options(commitment="ask"))
    site.put(1)
    site.box.run_once("archive")
    site.box._resend_uncommitted("archive")
    assert site.states() == ["sent"]
    site.clock.turn(25 * 3600)
    site.box._resend_uncommitted("archive")
    assert site.states() == ["waiting"]
    site.database.close()


@pytest.mark.parametrize("seed", range(2))
def test_an_archive_that_drops_associations_loses_and_doubles_nothing(tmp_path: Path, seed: int):
    chance = random.Random(seed)

    def flaky(event) -> int:
        if chance.random() < 0.2:
            event.assoc.abort()
        return 0

    with dimse_archive(flaky) as archive:
        site = Site(tmp_path, archive.options(first_wait=0.001, longest_wait=0.002, timeout=0.4))
        uids = site.put(*range(12))
        for turn in itertools.count():
            assert turn < 100
            site.box.run_once("archive")
            site.clock.turn(1.0)
            if set(site.states()) == {"sent"}:
                break
        # An instance whose acknowledgement was lost is offered again under its own UID, and is the same one.
        assert set(archive.taken) == set(uids)
        site.database.close()
