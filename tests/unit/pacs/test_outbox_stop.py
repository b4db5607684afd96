"""A stop waits for the answer to what is in flight, begins nothing more, and forgets no answer of a silent archive."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("pynetdicom", reason="needs medseg[pacs]")
from medseg.pacs import flight
from medseg.pacs.dicomweb_client import DicomwebSender
from medseg.pacs.flight import Flight
from medseg.pacs.options import DimseDestination
from tests.unit.node.listening import wait_until
from tests.unit.pacs.archives import DimseArchive, dimse_archive, http_archive, outgoing
from tests.unit.pacs.test_outbox import Site


class SlowArchive:
    """Takes the first instance at once, and the second when it is told to."""

    def __init__(self) -> None:
        self.reached, self.go_on = threading.Event(), threading.Event()
        self.count = 0

    def answer(self, _event: object) -> int:
        self.count += 1
        if self.count == 2:
            self.reached.set()
            assert self.go_on.wait(30)
        return 0x0000


@pytest.fixture
def slow() -> Iterator[tuple[SlowArchive, DimseArchive]]:
    told = SlowArchive()
    with dimse_archive(told.answer) as archive:
        yield told, archive
        told.go_on.set()


def test_the_answer_to_what_is_in_flight_is_waited_for_and_the_rest_is_left(slow, tmp_path: Path):
    told, archive = slow
    site = Site(tmp_path, archive.options(timeout=30.0))
    uids = site.put(1, 2, 3)
    site.box.start()
    assert told.reached.wait(30)
    stopping = threading.Thread(target=site.box.stop, args=(60.0,))
    stopping.start()
    wait_until(lambda: site.box._flights["archive"]._stopped)
    told.go_on.set()
    stopping.join()
    assert site.states() == ["sent", "sent", "waiting"]
    assert [row["attempts"] for row in site.rows()] == [1, 1, 0]
    later = site.outbox("next")
    assert later.recover() == 0
    assert later.run_once("archive") == 1
    assert archive.taken == uids


def test_what_a_silent_archive_had_answered_is_not_sent_again(
    slow, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    told, archive = slow
    monkeypatch.setattr(flight, "PATIENCE_S", 0.2)
    site = Site(tmp_path, archive.options(timeout=30.0))
    uids = site.put(1, 2, 3)
    site.box.start()
    assert told.reached.wait(30)
    site.box.stop(60.0)
    assert site.box._threads["archive"].is_alive(), "nobody waited for its time-out"
    assert site.states() == ["sent", "sending", "sending"]
    # Only now, for the next start, which offers the second once more.
    told.go_on.set()
    site.box._threads["archive"].join()
    later = site.outbox("next")
    later.recover()
    while later.run_once("archive"):
        pass
    assert archive.taken.count(uids[0]) == 1
    assert site.states() == ["sent"] * 3


def test_an_archive_that_takes_no_call_does_not_hold_the_stop_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    # Nothing has begun: patience is for answers to instances.
    monkeypatch.setattr(flight, "PATIENCE_S", 3600.0)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        options = DimseDestination(host="127.0.0.1", port=port, called_ae_title="X", timeout=5.0)
        site = Site(tmp_path, options)
        site.put(1)
        site.box.start()
        called, _ = silent.accept()
        with called:
            site.box.stop(60.0)
            assert site.box._threads["archive"].is_alive(), "nobody waited for its time-out"
            assert site.states() == ["sending"]
            assert site.outbox("next").recover() == 1
        site.box._threads["archive"].join()


def test_after_a_stop_nothing_is_posted():
    with http_archive(lambda _body: (200, b"", {})) as archive:
        sender, stopped = DicomwebSender(archive.options()), Flight()
        stopped.stop()
        answers = sender.send([outgoing(1), outgoing(2)], stopped)
        assert [(answer.state, answer.retry_after_s) for answer in answers] == [("again", 0.0)] * 2
        assert [answer.state for answer in sender.send([outgoing(1)])] == ["sent"]
        assert len(archive.bodies) == 1


def test_one_by_one_after_a_stop_the_rest_of_a_request_is_left():
    sent, many = Flight(), [outgoing(number) for number in range(3)]

    def answer(body: bytes) -> tuple[int, bytes, dict[str, str]]:
        if body.count(b"application/dicom") > 1:
            return 413, b"", {}
        sent.stop()
        return 200, b"", {}

    with http_archive(answer) as archive:
        answers = DicomwebSender(archive.options()).send(many, sent)
    assert [one.state for one in answers] == ["sent", "again", "again"]


def test_flights_are_waited_for_as_long_as_bytes_leave(monkeypatch: pytest.MonkeyPatch):
    times = [0.0]
    monkeypatch.setattr(flight.time, "monotonic", lambda: times[0])
    one = Flight()
    assert one.begin()
    one.stop()
    for now, moves in ((9.0, True), (18.0, False), (20.0, False)):
        times[0] = now
        if moves:
            one.moved()
        assert one.is_vain() == (now == 20.0)
    one.end()
    assert (one.begin(), one.is_vain()) == (False, False)
    times[0] = 21.5
    assert one.is_vain()
    assert one.begin(anyhow=True)
    assert not one.is_vain()
