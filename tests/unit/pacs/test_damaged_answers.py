"""Answers that are damaged or were never asked for: the connection ends, in time, and no thread dies of them."""

from __future__ import annotations

import contextlib
import random
import struct
import threading

import pytest

pytest.importorskip("pynetdicom", reason="needs medseg[pacs]")

from medseg.errors import MedsegError
from medseg.pacs.dimse_client import DimseSender
from medseg.pacs.query import QueryClient
from tests.unit.node.listening import wait_until
from tests.unit.pacs.archives import dimse_archive, outgoing
from tests.unit.pacs.changed_line import changed_line
from tests.unit.pacs.query_archives import one_match, query_archive

_ACCEPT, _DATA = 2, 4
FILES = [outgoing(1), outgoing(2)]
EXPLICIT, BIG_ENDIAN, NONE = b"1.2.840.10008.1.2.1", b"1.2.840.10008.1.2.2", b"1.2.840.10008.9.9.9"
# A thread that dies of an exception is an error.
pytestmark = pytest.mark.filterwarnings("error::pytest.PytestUnhandledThreadExceptionWarning")


def no_command(pdu: bytes):
    """A message without its Command Field."""
    if pdu[0] == _DATA:
        element = struct.pack("<HHLH", 0x0000, 0x0900, 2, 0)
        value = struct.pack(">LBB", len(element) + 2, 1, 3) + element
        pdu = struct.pack(">BBL", _DATA, 0, len(value)) + value
    yield pdu


def odd_rejection(pdu: bytes):
    """A rejection from a source that is none."""
    yield bytes([3, 0, 0, 0, 0, 4, 0, 9, 9, 9])


def release(pdu: bytes):
    """A request to release in place of an answer."""
    yield bytes([5, 0, 0, 0, 0, 4, 0, 0, 0, 0]) if pdu[0] == _DATA else pdu


def accepted_twice(pdu: bytes):
    """The acceptance once more, in place of an answer."""
    if pdu[0] == _ACCEPT:
        accepted.append(pdu)
    yield accepted[-1]


def data_at_once(pdu: bytes):
    """Data before the acceptance."""
    yield from (bytes([4, 0, 0, 0, 0, 7, 0, 0, 0, 3, 1, 3, 0]), pdu)


def unknown(pdu: bytes):
    """A PDU of no known type."""
    yield bytes([9]) + pdu[1:]


accepted: list[bytes] = []


@pytest.mark.parametrize(
    "change", [no_command, odd_rejection, release, accepted_twice, data_at_once, unknown]
)
def test_what_is_no_answer_is_none(change):
    with dimse_archive() as archive, changed_line(archive.port, change) as line:
        answers = DimseSender(archive.options(port=line.port)).send(FILES)
        assert [answer.state for answer in answers] == ["again", "again"]
        with pytest.raises(MedsegError):
            DimseSender(archive.options(port=line.port)).echo()


@pytest.mark.parametrize("syntax", [BIG_ENDIAN, NONE])
def test_a_transfer_syntax_that_was_not_offered_is_not_taken(syntax: bytes):
    def change(pdu: bytes):
        yield pdu.replace(EXPLICIT, syntax)

    with dimse_archive() as archive, changed_line(archive.port, change) as line:
        (answer,) = DimseSender(archive.options(port=line.port)).send(FILES[:1])
    assert answer.state == "again"
    assert "in a transfer syntax that was not offered" in answer.reason


@pytest.mark.parametrize("seed", range(12))
def test_answers_with_damage_end_in_time(seed: int):
    chance = random.Random(seed)

    def damaged(pdu: bytes):
        changed = bytearray(pdu)
        for _ in range(chance.randint(0, 2)):
            changed[chance.randrange(len(changed))] = chance.randrange(256)
        yield bytes(changed[: chance.choice([len(changed), len(changed), chance.randrange(len(changed))])])

    def find(event):
        for number in range(1, 4):
            yield 0xFF00, one_match(StudyInstanceUID=f"1.2.{number}")

    before = threading.active_count()
    with query_archive(find=find) as peer, changed_line(peer.port, damaged) as line:
        client = QueryClient(peer.model_copy(update={"port": line.port}), timeout_s=1)
        with contextlib.suppress(MedsegError):
            assert len(client.find_studies({})) <= 3
        # The thread of the line that accepts stays.
        wait_until(lambda: threading.active_count() <= before + 2, 40)
