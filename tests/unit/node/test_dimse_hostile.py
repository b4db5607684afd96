"""The DICOM listener against PDUs that no toolkit would write."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

pytest.importorskip("pynetdicom", reason="needs medseg[pacs]")
import contextlib

from pydicom.uid import ExplicitVRLittleEndian
from pynetdicom.sop_class import CTImageStorage, StorageCommitmentPushModel, Verification

from medseg.node.tables import instances
from tests.unit.node.listening import Listener, ct_slice, encoded, wait_until

ROLE, IDENTITY = 0x54, 0x58
BOTH = ((1, Verification), (3, CTImageStorage))


@pytest.fixture
def listener(tmp_path: Path) -> Iterator[Listener]:
    opened = Listener(tmp_path)
    yield opened
    opened.stop()


def item(kind: int, value: bytes) -> bytes:
    return bytes((kind, 0)) + len(value).to_bytes(2, "big") + value


def pdu(kind: int, body: bytes) -> bytes:
    return bytes((kind, 0)) + len(body).to_bytes(4, "big") + body


def role(sop_class: str, scu: int, scp: int) -> bytes:
    return item(ROLE, len(sop_class).to_bytes(2, "big") + sop_class.encode() + bytes((scu, scp)))


def request(contexts: Sequence[tuple[int, str]] = BOTH, *, user: bytes = b"", more: bytes = b"") -> bytes:
    offered = b"".join(
        item(
            0x20,
            bytes((number, 0, 0, 0))
            + item(0x30, abstract.encode())
            + item(0x40, ExplicitVRLittleEndian.encode()),
        )
        for number, abstract in contexts
    )
    about = item(0x50, item(0x51, (16384).to_bytes(4, "big")) + item(0x52, b"1.2.3.4") + user)
    fixed = b"\0\1\0\0" + b"MEDSEG".ljust(16) + b"SENDER".ljust(16) + bytes(32)
    return pdu(1, fixed + item(0x10, b"1.2.840.10008.3.1.1.1") + offered + more + about)


def value(context_id: int, data: bytes, *, command: bool, last: bool) -> bytes:
    return (len(data) + 2).to_bytes(4, "big") + bytes((context_id, command | last << 1)) + data


def element(number: int, content: bytes) -> bytes:
    return b"\0\0" + number.to_bytes(2, "little") + len(content).to_bytes(4, "little") + content


def command(field: int, sop_class: str, instance: str = "", *, data_set: bool = False) -> bytes:
    texts = [
        element(number, text.encode() + b"\0" * (len(text) % 2))
        for number, text in ((2, sop_class), (0x1000, instance))
        if text
    ]
    kind = 1 if data_set else 0x0101
    numbers = [element(n, v.to_bytes(2, "little")) for n, v in ((0x100, field), (0x110, 1), (0x800, kind))]
    return b"".join(texts + numbers)


def answer(peer: socket.socket) -> tuple[int, bytes]:
    def exactly(count: int) -> bytes:
        got = b""
        while len(got) < count:
            more = peer.recv(count - len(got))
            assert more, "the connection ended"
            got += more
        return got

    head = exactly(6)
    return head[0], exactly(int.from_bytes(head[2:], "big"))


def status(body: bytes) -> int:
    at = body.index(b"\0\0\0\x09\2\0\0\0") + 8
    return int.from_bytes(body[at : at + 2], "little")


def associated(listener: Listener, sent: bytes | None = None) -> socket.socket:
    peer = listener.connect()
    peer.sendall(request() if sent is None else sent)
    assert answer(peer)[0] == 2
    return peer


def echoed(listener: Listener) -> float:
    """How long an echo takes."""
    begun = time.monotonic()
    with associated(listener) as peer:
        peer.sendall(pdu(4, value(1, command(0x30, Verification), command=True, last=True)))
        assert status(answer(peer)[1]) == 0
    return time.monotonic() - begun


@pytest.mark.parametrize("roles", [(0, 0), (1, 0), (0, 1), (1, 1)])
@pytest.mark.parametrize("sop_class", [StorageCommitmentPushModel, CTImageStorage])
def test_every_choice_of_roles_is_answered(listener: Listener, sop_class: str, roles: tuple[int, int]):
    associated(listener, request(user=role(sop_class, *roles))).close()


def test_items_that_are_not_known_are_passed_over(listener: Listener):
    strange = item(0x99, b"from a later edition")
    associated(listener, request(user=strange, more=strange)).close()
    assert echoed(listener) < 2


@pytest.mark.parametrize("cut", [1, 2, 3, 5, 30])
def test_a_request_that_ends_in_an_item_is_no_request(listener: Listener, cut: int):
    whole = request(user=role(CTImageStorage, 1, 0))
    with listener.connect() as peer:
        peer.sendall(pdu(1, whole[6:-cut]))
        assert answer(peer)[0] == 7


def test_two_contexts_with_one_identifier_are_refused(listener: Listener):
    with listener.connect() as peer:
        peer.sendall(request([(1, Verification), (1, CTImageStorage)]))
        assert answer(peer)[0] == 7


@pytest.mark.parametrize("size", [0, 1])
def test_fragments_of_nothing_keep_nobody_waiting(listener: Listener, size: int):
    fragments = pdu(4, value(3, b"\0" * size, command=size == 0, last=False) * 15_000)
    stop = threading.Event()

    def flood() -> None:
        with associated(listener) as peer:
            if size:
                begun = command(1, CTImageStorage, "1.2.3", data_set=True)
                peer.sendall(pdu(4, value(3, begun, command=True, last=True)))
            while not stop.is_set():
                peer.sendall(fragments)

    flooding = threading.Thread(target=flood)
    flooding.start()
    time.sleep(0.3)
    try:
        assert echoed(listener) < 2
    finally:
        stop.set()
        flooding.join(20)
    wait_until(lambda: not listener.server._open)
    assert listener.server._services.budget.held == 0


def test_an_instance_in_fragments_of_one_byte_is_stored(listener: Listener):
    image = ct_slice()
    said, data = command(1, CTImageStorage, image.SOPInstanceUID, data_set=True), encoded(image)
    with associated(listener) as peer:
        for content, is_command in ((said, True), (data, False)):
            values = [
                value(3, content[at : at + 1], command=is_command, last=at == len(content) - 1)
                for at in range(len(content))
            ]
            for at in range(0, len(values), 1000):
                peer.sendall(pdu(4, b"".join(values[at : at + 1000])))
        assert status(answer(peer)[1]) == 0
    (row,) = listener.rows(instances)
    assert listener.vault.read(row["path"]).endswith(data)


@pytest.mark.parametrize("field", [0x0001, 0x0100], ids=["store", "report"])
def test_a_context_serves_its_own_class_alone(listener: Listener, field: int):
    image = ct_slice()
    image.SOPClassUID = Verification
    with associated(listener) as peer:
        said = command(field, Verification, image.SOPInstanceUID, data_set=True)
        peer.sendall(pdu(4, value(1, said, command=True, last=True)))
        peer.sendall(pdu(4, value(1, encoded(image), command=False, last=True)))
        assert status(answer(peer)[1]) in (0x0122, 0x0211)
    assert listener.rows(instances) == []


def test_who_connects_and_says_nothing_keeps_nobody_out(tmp_path: Path):
    listener = Listener(tmp_path, max_associations=2)
    silent = [listener.connect() for _ in range(60)]
    assert echoed(listener) < 2
    wait_until(lambda: listener.server.counts["flood"] >= 60 - (4 * 2 + 16))
    for peer in silent:
        peer.close()
    wait_until(lambda: not listener.server._open)
    listener.stop()


def test_a_peer_that_is_gone_before_its_answer_is_no_error(
    listener: Listener, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    async def reset(_writer: asyncio.StreamWriter) -> None:
        raise ConnectionResetError

    with monkeypatch.context() as patched:
        patched.setattr(asyncio.StreamWriter, "drain", reset)
        with listener.connect() as peer:
            peer.sendall(request())
            wait_until(lambda: listener.server.counts["lost"] == 1)
        wait_until(lambda: not listener.server._open)
    wait_until(lambda: [line["outcome"] for line in listener.audit_lines()] == ["lost"])
    assert not caplog.records
    assert echoed(listener) < 2


def test_a_flood_of_cut_connections_is_counted_and_hides_nobody(listener: Listener):
    for number in range(50):
        listener.connect().close()
        wait_until(lambda past=number: listener.server.counts["lost"] == past + 1)
    for _ in range(30):
        assert not listener.associate(called="OTHER").is_established
    sender = listener.associate()
    sender.send_c_store(ct_slice())
    sender.abort()
    wait_until(lambda: len(listener.audit_lines()) == 20 + 30 + 1)
    told = Counter(line["outcome"] for line in listener.audit_lines() if "instances" not in line)
    assert told == {"lost": 20, "refused": 30}
    (stored,) = (line for line in listener.audit_lines() if "instances" in line)
    assert stored["instances"] == {"stored": 1}
    listener.audit.tell_counted(at_once=True)
    last = listener.audit_lines()[-1]
    assert {key: last[key] for key in ("event", "outcome", "address", "reason", "count")} == {
        "event": "association",
        "outcome": "lost",
        "address": "127.0.0.1",
        "reason": "30 more within a minute",
        "count": 30,
    }


@pytest.mark.parametrize("goodbye", ["rejected", "released"])
def test_the_peer_closes_after_the_last_pdu_and_who_does_not_is_cut_off(
    listener: Listener, monkeypatch: pytest.MonkeyPatch, goodbye: str
):
    monkeypatch.setattr("medseg.node.dimse_server._ARTIM_S", 0.5)
    with listener.connect() as line:
        line.sendall(
            request().replace(b"MEDSEG".ljust(16), b"OTHER".ljust(16)) if goodbye == "rejected" else request()
        )
        if goodbye == "released":
            assert line.recv(4096)[:1] == b"\2"
            line.sendall(pdu(5, bytes(4)))
        assert len(line.recv(4096)) == 10
        line.settimeout(0.2)
        # It is not hung up on, whatever it still sends; nor does it count as an association.
        line.sendall(b"more")
        with pytest.raises(TimeoutError):
            line.recv(1)
        assert listener.server.associations == 0
        line.settimeout(5)
        with contextlib.suppress(ConnectionResetError):
            assert line.recv(1) == b""
    wait_until(lambda: not listener.server._open)
