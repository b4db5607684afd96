"""STOW-RS requests, whole and in drips, and what a client hears."""

from __future__ import annotations

import asyncio
import io
import json

import pytest

pytest.importorskip("pynetdicom", reason="needs medseg[node]")
from hypothesis import given
from hypothesis import strategies as st
from pydicom import dcmwrite
from pydicom.dataset import Dataset
from pydicom.uid import generate_uid

from medseg.node.arrival import Arrival, Budget, Peer, Receipt
from medseg.node.stow import StowAnswer, store_request
from tests.unit.node.listening import ct_slice

PEER = Peer(route="stow", name="tester")
BOUNDARY = "b0undary"
TYPE = f'multipart/related; type="application/dicom"; boundary={BOUNDARY}'


def as_file(data_set: Dataset) -> bytes:
    stream = io.BytesIO()
    dcmwrite(stream, data_set, enforce_file_format=True)
    return stream.getvalue()


def body_of(*parts: bytes) -> bytes:
    head = f"--{BOUNDARY}\r\nContent-Type: application/dicom\r\n\r\n".encode()
    return b"".join(head + part + b"\r\n" for part in parts) + f"--{BOUNDARY}--\r\n".encode()


def post(body: bytes, *, step: int = 1 << 16, verdicts=None, content_type: str = TYPE, **limits):
    arrivals: list[Arrival] = []

    async def store(arrival: Arrival) -> Receipt:
        arrivals.append(arrival)
        verdict = "stored" if verdicts is None else verdicts[len(arrivals) - 1]
        return Receipt(
            verdict=verdict, sop_class_uid=arrival.sop_class_uid, sop_instance_uid=arrival.sop_instance_uid
        )

    async def chunks():
        for at in range(0, len(body), step):
            yield body[at : at + step]

    bounds = {"part_limit": 1 << 20, "body_limit": 1 << 22, "budget": Budget(most=1 << 22)} | limits
    answer = asyncio.run(store_request(content_type, chunks(), store=store, peer=PEER, **bounds))
    return answer, arrivals


def uids(answer: StowAnswer, tag: str) -> list[str]:
    return [item["00081155"]["Value"][0] for item in json.loads(answer.body)[tag]["Value"]]


def test_every_instance_reaches_the_intake_and_the_answer():
    sent = [ct_slice(number) for number in range(3)]
    answer, arrivals = post(body_of(*map(as_file, sent)), step=777)
    assert answer.status == 200
    assert uids(answer, "00081199") == [one.SOPInstanceUID for one in sent]
    assert [arrival.sop_instance_uid for arrival in arrivals] == [one.SOPInstanceUID for one in sent]
    assert arrivals[0].data_set.endswith(sent[0].PixelData)
    assert arrivals[0].transfer_syntax_uid == sent[0].file_meta.TransferSyntaxUID


@pytest.mark.parametrize(
    ("verdicts", "status"),
    [
        (("stored", "duplicate"), 200),
        (("stored", "unreadable"), 202),
        (("conflict", "mismatch"), 409),
        (("no_space", "no_space"), 507),
        (("no_space", "stored"), 202),
    ],
)
def test_the_status_tells_all_some_or_none(verdicts, status: int):
    answer, _ = post(body_of(as_file(ct_slice(1)), as_file(ct_slice(2))), verdicts=verdicts)
    assert answer.status == status


def test_a_part_that_is_no_dicom_fails_alone():
    answer, arrivals = post(body_of(b"<html>not an image</html>" * 20, as_file(ct_slice(1))))
    assert answer.status == 202
    assert len(arrivals) == 1
    failed = json.loads(answer.body)["00081198"]["Value"]
    assert [item["00081197"]["Value"] for item in failed] == [[0xC000]]


def test_a_study_in_the_address_is_handed_on():
    study = generate_uid()
    _, arrivals = post(body_of(as_file(ct_slice(1))), study_uid=study)
    assert arrivals[0].study_uid == study


@pytest.mark.parametrize(
    ("body", "content_type", "status"),
    [
        (b"{}", "application/json", 415),
        (body_of(b"{}"), TYPE.replace("dicom", "dicom+json"), 415),
        (b"", TYPE, 400),
        (body_of()[:-10], TYPE, 400),
        (body_of(b"x")[:-20], TYPE, 400),
        (b"--other--\r\n", TYPE, 400),
        (body_of(b"x"), "multipart/related; type=application/dicom", 400),
        (b"\0" * 200_000, TYPE, 400),
    ],
)
def test_what_is_malformed_is_said(body: bytes, content_type: str, status: int):
    answer, arrivals = post(body, content_type=content_type)
    assert answer.status == status
    assert arrivals == []


@pytest.mark.parametrize(("length", "status"), [(1, 200), (70, 200), (73, 200), (200, 200), (201, 400)])
def test_a_boundary_may_be_as_long_as_that_of_orthanc(length: int, status: int):
    mark = b"b" * length
    body = body_of(as_file(ct_slice(1))).replace(BOUNDARY.encode(), mark)
    kind = f'multipart/related; type="application/dicom"; boundary={mark.decode()}'
    assert post(body, content_type=kind)[0].status == status


def test_limits_hold_before_anything_is_kept():
    body = body_of(as_file(ct_slice(1)))
    assert post(body, part_limit=1000)[0].status == 413
    assert post(body, body_limit=5000, step=1000)[0].status == 413


def test_requests_share_the_memory_for_what_comes_in():
    body, budget = body_of(as_file(ct_slice(1)), as_file(ct_slice(2))), Budget(most=15_000)
    # What another request holds at the moment.
    assert budget.take(10_000)
    answer, arrivals = post(body, budget=budget, step=1000)
    assert (answer.status, arrivals) == (503, [])
    budget.give_back(10_000)
    for _ in range(3):
        assert post(body, budget=budget, step=1000)[0].status == 200
    assert post(body[:-100], budget=budget, step=1000)[0].status == 400
    assert budget.held == 0


@given(st.data())
def test_a_spoilt_request_is_answered(data: st.DataObject):
    body = bytearray(body_of(as_file(ct_slice(1)), as_file(ct_slice(2))))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, min(len(body), 900) - 1))
        body[at : at + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3))
    answer, _ = post(
        bytes(body), step=data.draw(st.sampled_from([1, 13, 1 << 16])) if len(body) < 3000 else 997
    )
    assert answer.status in (200, 202, 400, 409, 413, 507)
