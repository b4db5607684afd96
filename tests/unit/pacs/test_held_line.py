"""Archives that answer something else, twice, or half."""

from __future__ import annotations

import threading
import time
from types import SimpleNamespace

import pytest

pytest.importorskip("pynetdicom", reason="needs medseg[pacs]")
from pynetdicom.dimse_primitives import C_ECHO, C_STORE

from medseg.pacs.dimse_client import DimseSender
from medseg.pacs.held_line import bound_messages, hold_to_requests
from tests.unit.pacs.archives import dimse_archive, outgoing

_FULL = 0xA700
_FILES = [outgoing(1), outgoing(2)]


def say(event, kind, *, to: int, instance: str | None = None) -> None:
    """Send an answer of success, of which pynetdicom knows nothing."""
    answer = kind()
    if instance is not None:
        answer.AffectedSOPInstanceUID = instance
    answer.MessageIDBeingRespondedTo, answer.Status = to, 0x0000
    answer.AffectedSOPClassUID = event.request.AffectedSOPClassUID
    event.assoc.dimse.send_msg(answer, event.context.context_id)


@pytest.mark.parametrize(("kind", "away"), [(C_STORE, 7), (C_STORE, -1), (C_ECHO, 0)])
def test_the_answer_to_another_message_is_no_success(kind, away: int):
    def answer(event) -> int:
        say(event, kind, to=event.request.MessageID + away)
        return _FULL

    with dimse_archive(answer) as archive:
        answers = DimseSender(archive.options()).send(_FILES)
    assert [(one.state, "A700" in one.reason) for one in answers] == [("again", True)] * 2


def test_the_answer_for_another_instance_is_no_success():
    other = outgoing(3).sop_instance_uid

    def answer(event) -> int:
        say(event, C_STORE, to=event.request.MessageID, instance=other)
        return 0x0000

    with dimse_archive(answer) as archive:
        answers = DimseSender(archive.options()).send(_FILES)
    assert [(one.state, "for another instance" in one.reason) for one in answers] == [("again", True)] * 2


@pytest.mark.parametrize("named", [False, True])
def test_an_answer_may_name_its_instance_or_leave_it_out(named: bool):
    def answer(event) -> int:
        uid = event.request.AffectedSOPInstanceUID if named else None
        say(event, C_STORE, to=event.request.MessageID, instance=uid)
        return _FULL

    with dimse_archive(answer) as archive:
        answers = DimseSender(archive.options()).send(_FILES)
    assert [one.state for one in answers] == ["sent", "sent"]


def test_an_answer_that_comes_twice_counts_once():
    def answer(event) -> int:
        if event.request.AffectedSOPInstanceUID != _FILES[0].sop_instance_uid:
            return _FULL
        say(event, C_STORE, to=event.request.MessageID)
        return 0x0000

    with dimse_archive(answer) as archive:
        answers = DimseSender(archive.options()).send(_FILES)
    assert [one.state for one in answers] == ["sent", "again"]


@pytest.mark.parametrize("length", [100, 1 << 31], ids=["half", "endless"])
def test_a_pdu_without_an_end_is_not_waited_for(length: int):
    done = threading.Event()

    def answer(event) -> int:
        event.assoc.dul.socket.socket.sendall(b"\4\0" + length.to_bytes(4, "big") + bytes(20))
        done.wait(20)
        return 0x0000

    with dimse_archive(answer) as archive:
        begun = time.monotonic()
        answers = DimseSender(archive.options(timeout=1.0)).send(_FILES)
        took = time.monotonic() - begun
        done.set()
    assert [one.state for one in answers] == ["again", "again"]
    assert took < 8


class Lines:
    """A provider of DIMSE whose messages come when a test says."""

    dimse_timeout, message = 0.0, None

    def __init__(self, *pieces: int) -> None:
        self.pieces, self.taken = list(pieces), 0

    def bind(self, event, handler) -> None:
        pass

    def receive_primitive(self, primitive) -> None:
        self.message = "begun"

    def get_msg(self, block: bool = False):
        """One time-out, in which a piece comes; after the last the message is whole."""
        self.taken += 1
        if not self.pieces:
            return 1, "whole"
        self.receive_primitive(SimpleNamespace(presentation_data_value_list=[(1, bytes(self.pieces.pop(0)))]))
        return None, None


@pytest.mark.parametrize(
    ("pieces", "found", "looks"),
    [((70_000, 70_000, 70_000), (1, "whole"), 4), ((70_000, 10, 70_000), (None, None), 2)],
    ids=["large", "dripping"],
)
def test_a_message_is_waited_for_as_long_as_it_comes_in(pieces, found, looks: int):
    provider = Lines(*pieces)
    association = SimpleNamespace(dimse=provider, bind=provider.bind)
    hold_to_requests(association, bound_messages(association, 1 << 30))
    assert provider.get_msg(block=True) == found
    assert provider.taken == looks
