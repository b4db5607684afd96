"""The DICOM listener against pynetdicom as sender, and against peers that lie, drip and vanish."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("pynetdicom", reason="needs medseg[pacs]")
from pydicom.dataset import Dataset
from pydicom.uid import ImplicitVRLittleEndian
from pynetdicom import AE
from pynetdicom.sop_class import CTImageStorage, PatientRootQueryRetrieveInformationModelFind

from medseg.node.listen_options import CallerOptions
from medseg.node.options import StorageOptions
from medseg.node.tables import instances, series, studies
from tests.unit.node.listening import Listener, ct_slice, wait_until


@pytest.fixture
def listener(tmp_path: Path) -> Iterator[Listener]:
    opened = Listener(tmp_path)
    yield opened
    opened.stop()


def send(association, data_set: Dataset) -> int:
    return int(association.send_c_store(data_set).Status)


def test_an_acknowledged_instance_is_a_file_and_a_row(listener: Listener):
    association = listener.associate()
    assert association.send_c_echo().Status == 0
    sent = [ct_slice(number) for number in range(3)]
    assert [send(association, one) for one in sent] == [0, 0, 0]
    association.release()
    rows = listener.rows(instances)
    assert {row["sop_instance_uid"] for row in rows} == {one.SOPInstanceUID for one in sent}
    from pydicom import dcmread

    stored = dcmread(listener.vault.place(rows[0]["path"]))
    assert stored.preamble == bytes(128)
    assert stored.PixelData == sent[0].PixelData
    assert [row["instances"] for row in listener.rows(series)] == [3]
    assert [(row["arrivals"], row["state"]) for row in listener.rows(studies)] == [(3, "receiving")]


def test_what_comes_twice_is_stored_once_and_other_content_is_refused(listener: Listener):
    association = listener.associate()
    first, changed = ct_slice(1), ct_slice(1)
    changed.PixelData = b"\1" * len(changed.PixelData)
    assert [send(association, one) for one in (first, first, changed)] == [0, 0, 0xA900]
    association.release()
    (row,) = listener.rows(instances)
    assert len(list((listener.folder / "instances").rglob("*.dcm"))) == 1
    assert listener.vault.read(row["path"]).endswith(first.PixelData)
    wait_until(lambda: any(line.get("outcome") == "conflict" for line in listener.audit_lines()))
    assert first.SOPInstanceUID not in (listener.folder / "audit.jsonl").read_text()


def test_the_same_instance_from_many_senders_at_once_is_one(listener: Listener):
    statuses: list[int] = []

    def deliver() -> None:
        association = listener.associate()
        statuses.extend(send(association, ct_slice(number)) for number in range(5))
        association.release()

    threads = [threading.Thread(target=deliver) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert statuses == [0] * 20
    assert len(listener.rows(instances)) == 5
    assert [row["instances"] for row in listener.rows(series)] == [5]


def test_two_patients_under_one_study_are_noted(listener: Listener):
    association = listener.associate()
    assert [send(association, ct_slice(n, patient=f"P{n}")) for n in (1, 2)] == [0, 0]
    association.release()
    assert [row["mixed"] for row in listener.rows(series)] == ["instances of two patients in one study"]


@pytest.mark.parametrize(
    ("spoil", "status"),
    [
        (lambda one: delattr(one, "StudyInstanceUID"), 0xC000),
        (lambda one: setattr(one, "SeriesInstanceUID", "1.2.x"), 0xC000),
        (lambda one: setattr(one, "SeriesInstanceUID", ""), 0xC000),
    ],
)
@pytest.mark.filterwarnings("ignore:Invalid value for VR UI")
def test_a_data_set_that_names_nothing_is_refused(listener: Listener, spoil, status):
    association = listener.associate()
    one = ct_slice()
    spoil(one)
    assert send(association, one) == status
    association.release()
    assert listener.rows(instances) == []
    assert not (listener.folder / "instances").exists()


def test_a_full_disk_is_said_and_the_association_lives(tmp_path: Path):
    listener = Listener(tmp_path, storage=StorageOptions(reserve=1, quota=20_000))
    association = listener.associate()
    statuses = [send(association, ct_slice(number)) for number in range(4)]
    assert statuses == [0, 0, 0xA700, 0xA700]
    assert association.send_c_echo().Status == 0
    association.release()
    listener.stop()


def test_an_instance_above_the_limit_is_refused_with_little_memory(tmp_path: Path):
    listener = Listener(tmp_path, storage=StorageOptions(reserve=1, instance_limit=5_000))
    association = listener.associate()
    assert send(association, ct_slice()) == 0xA700
    association.release()
    assert listener.server._services.budget.held == 0
    listener.stop()


@pytest.mark.parametrize(
    ("calling", "called", "reason"),
    [("OTHER", "MEDSEG", 3), ("CT1", "ELSEWHERE", 7), ("CT2", "MEDSEG", 3)],
)
def test_who_is_not_allowed_is_rejected_and_noted(tmp_path: Path, calling: str, called: str, reason: int):
    callers = (
        CallerOptions(ae_title="CT1", address="127.0.0.0/8"),
        CallerOptions(ae_title="CT2", address="10.0.0.0/8"),
    )
    listener = Listener(tmp_path, callers=callers)
    assert listener.refusal(calling=calling, called=called)[1] == reason
    wait_until(lambda: bool(listener.audit_lines()))
    assert listener.audit_lines()[0]["outcome"] == "refused"
    assert listener.audit_lines()[0]["address"] == "127.0.0.1"
    accepted = listener.associate(calling="CT1")
    assert accepted.is_established
    accepted.release()
    listener.stop()


def test_one_association_too_many_is_refused_for_the_moment(tmp_path: Path):
    listener = Listener(tmp_path, max_associations=2)
    open_ones = [listener.associate() for _ in range(2)]
    assert listener.refusal()[0] == 2
    open_ones[0].release()
    wait_until(lambda: listener.server.associations == 1)
    again = listener.associate()
    assert again.is_established
    for association in (open_ones[1], again):
        association.release()
    listener.stop()


def test_queries_are_not_offered_and_implicit_is(listener: Listener):
    ae = AE(ae_title="SENDER")
    ae.add_requested_context(PatientRootQueryRetrieveInformationModelFind)
    ae.add_requested_context(CTImageStorage, [ImplicitVRLittleEndian])
    association = ae.associate("127.0.0.1", listener.server.port, ae_title="MEDSEG")
    assert [str(context.abstract_syntax) for context in association.accepted_contexts] == [CTImageStorage]
    association.release()


HOSTILE = {
    "http": b"GET / HTTP/1.1\r\n\r\n",
    "endless request": bytes((1, 0)) + (1 << 31).to_bytes(4, "big"),
    "data before association": bytes((4, 0, 0, 0, 0, 6)) + bytes(6),
    "garbage request": bytes((1, 0, 0, 0, 0, 80)) + b"\xff" * 80,
}


@pytest.mark.parametrize("sent", HOSTILE.values(), ids=HOSTILE.keys())
def test_what_is_no_dicom_is_cut_off(listener: Listener, sent: bytes):
    with listener.connect() as peer:
        peer.sendall(sent)
        assert peer.recv(100)[:1] in (b"\7", b"")
        assert peer.recv(100) == b""
    wait_until(lambda: listener.server.counts["aborted"] == 1)


def test_a_dripping_peer_is_cut_off_at_the_deadline(tmp_path: Path):
    listener = Listener(tmp_path, idle_timeout=0.3)
    begun = time.monotonic()
    with listener.connect() as peer:
        peer.settimeout(0.1)
        received = b""
        while not received and time.monotonic() < begun + 5:
            peer.sendall(b"\1")
            try:
                received = peer.recv(10)
            except TimeoutError:
                continue
            except ConnectionError:
                break
    assert time.monotonic() - begun < 2
    wait_until(lambda: not listener.server._open)
    listener.stop()


def test_many_that_connect_and_vanish_leave_nothing(listener: Listener):
    threads = threading.active_count()
    for _ in range(100):
        peer = listener.connect()
        peer.sendall(b"\1\0\0")
        peer.close()
    wait_until(lambda: not listener.server._open)
    assert threading.active_count() <= threads + 31
    association = listener.associate()
    assert association.send_c_echo().Status == 0
    association.release()


def test_a_peer_that_vanishes_in_a_data_set_leaves_no_file(listener: Listener):
    association = listener.associate()
    from pynetdicom.dsutils import encode

    body = encode(ct_slice(), False, True)
    context = next(c for c in association.accepted_contexts if c.abstract_syntax == CTImageStorage)
    part = bytes((context.context_id, 0)) + body[:100]
    value = len(part).to_bytes(4, "big") + part
    association.dul.socket.socket.sendall(bytes((4, 0)) + len(value).to_bytes(4, "big") + value)
    association.dul.socket.socket.shutdown(socket.SHUT_RDWR)
    wait_until(lambda: not listener.server._open)
    assert listener.rows(instances) == []
    assert listener.server._services.budget.held == 0
    association.abort()


def test_a_stop_waits_for_what_is_being_stored(tmp_path: Path):
    listener = Listener(tmp_path)
    inner = listener.intake._accept
    listener.intake._accept = lambda arrival: (time.sleep(0.3), inner(arrival))[1]
    statuses: list[int] = []
    association = listener.associate()
    sender = threading.Thread(target=lambda: statuses.append(send(association, ct_slice())))
    sender.start()
    wait_until(lambda: any(one is not None and one.busy for one in listener.server._open.values()))
    listener.stop()
    sender.join()
    assert statuses == [0]
