"""Reports of storage commitment on the association that they were asked for on, and what outboxes make of reports."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from io import BytesIO
from typing import Any

import pytest

pytest.importorskip("pynetdicom", reason="needs medseg[pacs]")
from pydicom.dataset import Dataset
from pydicom.uid import ImplicitVRLittleEndian
from pynetdicom import AE, evt
from pynetdicom.dimse_primitives import N_EVENT_REPORT
from pynetdicom.dsutils import encode
from pynetdicom.sop_class import (
    CTImageStorage,
    StorageCommitmentPushModel,
    StorageCommitmentPushModelInstance,
    Verification,
)

from medseg.errors import PacsRejectedError, PacsUnreachableError
from medseg.pacs import dimse_client
from medseg.pacs.dimse_client import DimseSender
from medseg.pacs.options import DimseDestination

ASKED = [(CTImageStorage, "1.2.3")]


@contextlib.contextmanager
def archive(action: Callable[[Any], Any]) -> Iterator[DimseDestination]:
    """One that is asked for storage commitment, and acts as a handler of pynetdicom does."""
    ae = AE(ae_title="ARCHIVE")
    ae.add_supported_context(Verification)
    ae.add_supported_context(StorageCommitmentPushModel, ImplicitVRLittleEndian)
    server = ae.start_server(("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_N_ACTION, action)])
    try:
        port = server.socket.getsockname()[1]
        yield DimseDestination(host="127.0.0.1", port=port, called_ae_title="ARCHIVE", timeout=5.0)
    finally:
        server.shutdown()


def information(request: Dataset) -> Dataset:
    told = Dataset()
    told.TransactionUID, told.ReferencedSOPSequence = request.TransactionUID, request.ReferencedSOPSequence
    return told


def report_now(event: Any) -> None:
    """Send a report, and wait for no answer to it."""
    report = N_EVENT_REPORT()
    report.MessageID, report.EventTypeID = 9, 1
    report.AffectedSOPClassUID = StorageCommitmentPushModel
    report.AffectedSOPInstanceUID = StorageCommitmentPushModelInstance
    encoded = encode(information(event.action_information), True, True)
    report.EventInformation = BytesIO(encoded or b"")
    event.assoc.dimse.send_msg(report, event.context.context_id)


class Reports:
    def __init__(self) -> None:
        self.came: list[tuple[str, int]] = []
        self.heard = threading.Event()

    def __call__(self, told: Dataset, event_type: int) -> int:
        self.came.append((str(told.TransactionUID), event_type))
        self.heard.set()
        return 0x0000


def ask(options: DimseDestination, reports: Reports) -> list[Exception | None]:
    """What came of it; empty where it does not end."""
    ended: list[Exception | None] = []

    def work() -> None:
        try:
            DimseSender(options, report=reports).ask_commitment(ASKED, "1.2.9")
            ended.append(None)
        except (PacsRejectedError, PacsUnreachableError) as err:
            ended.append(err)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(20)
    return ended


def test_a_report_before_the_answer_is_taken_and_stops_nobody():
    reports = Reports()

    def action(event):
        report_now(event)
        # The other side has served it before it is answered.
        reports.heard.wait(10)
        return 0x0000, None

    with archive(action) as options:
        assert ask(options, reports) == [None]
    assert reports.came == [("1.2.9", 1)]


def test_a_report_after_the_answer_is_waited_for():
    reports, statuses = Reports(), []

    def action(event):
        request, association = event.action_information, event.assoc

        def later() -> None:
            status, _ = association.send_n_event_report(
                information(request), 1, StorageCommitmentPushModel, StorageCommitmentPushModelInstance
            )
            statuses.append(status.get("Status"))

        threads.append(threading.Thread(target=later))
        threads[0].start()
        return 0x0000, None

    threads: list[threading.Thread] = []
    with archive(action) as options:
        assert ask(options, reports) == [None]
        threads[0].join(10)
    assert reports.came == [("1.2.9", 1)]
    assert statuses == [0x0000]


def test_a_report_that_does_not_come_is_not_waited_for(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(dimse_client, "_REPORT_WAIT_S", 0.05)
    reports = Reports()
    with archive(lambda event: (0x0000, None)) as options:
        assert ask(options, reports) == [None]
    assert reports.came == []


@pytest.mark.parametrize("status", [0x0110, 0x0213, 0xC000])
def test_a_request_that_is_refused_is_said(status: int):
    with archive(lambda event: (status, None)) as options:
        (err,) = ask(options, Reports())
    assert isinstance(err, PacsRejectedError)
    assert f"{status:04X}" in str(err)


def test_an_archive_that_aborts_a_request_is_unreachable():
    def action(event):
        event.assoc.abort()
        return 0x0000, None

    with archive(action) as options:
        (err,) = ask(options, Reports())
    assert isinstance(err, PacsUnreachableError)
