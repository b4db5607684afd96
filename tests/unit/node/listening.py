"""A listener with all that stands behind it, and instances to send."""

from __future__ import annotations

import json
import socket
import time
from pathlib import Path

import pytest

pytest.importorskip("pynetdicom", reason="needs medseg[pacs]")
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid
from pynetdicom import AE, evt
from pynetdicom.pdu import A_ASSOCIATE_RJ
from pynetdicom.sop_class import CTImageStorage, Verification
from sqlalchemy import select

from medseg.database import Database
from medseg.node.audit import Audit
from medseg.node.clock import Clock
from medseg.node.dimse_server import DimseServer
from medseg.node.intake import Intake
from medseg.node.listen_options import DimseListenOptions
from medseg.node.options import StorageOptions
from medseg.node.privacy_options import AuditOptions
from medseg.node.tables import metadata
from medseg.node.vault import Vault

SERIES, STUDY = generate_uid(), generate_uid()


def ct_slice(number: int = 1, *, uid: str = "", patient: str = "P1", study: str = STUDY) -> Dataset:
    slice_ = Dataset()
    slice_.SOPClassUID = CTImageStorage
    slice_.SOPInstanceUID = uid or generate_uid(entropy_srcs=[SERIES, str(number)])
    slice_.StudyInstanceUID, slice_.SeriesInstanceUID = study, SERIES
    slice_.PatientID, slice_.PatientName, slice_.Modality = patient, "Doe^Jane", "CT"
    slice_.Rows = slice_.Columns = 64
    slice_.BitsAllocated = slice_.BitsStored = 16
    slice_.SamplesPerPixel, slice_.PixelRepresentation, slice_.HighBit = 1, 0, 15
    slice_.PhotometricInterpretation = "MONOCHROME2"
    slice_.PixelData = bytes(2 * 64 * 64)
    slice_["PixelData"].VR = "OW"
    slice_.file_meta = FileMetaDataset()
    slice_.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    return slice_


class Listener:
    """A listener with all that stands behind it."""

    def __init__(self, folder: Path, *, callers=(), storage=None, tls=None, **options) -> None:
        self.folder, self.vault = folder, Vault(folder)
        self.database = Database.in_file(folder / "node.db", metadata)
        storage = storage or StorageOptions(reserve=1)
        audit = self.audit = Audit(folder, AuditOptions(), Clock())
        self.intake = Intake(
            storage, database=self.database, vault=self.vault, audit=audit, clock=Clock(), secret=b"s" * 32
        )
        listen = DimseListenOptions.model_construct(
            **(DimseListenOptions().model_dump() | {"port": 0} | options)
        )
        self.server = DimseServer(
            listen,
            callers=callers,
            intake=self.intake,
            audit=audit,
            tls=tls,
            instance_limit=storage.instance_limit,
        )
        self.intake.start()
        self.server.start()

    def stop(self) -> None:
        self.server.stop(1.0)
        self.intake.stop()
        self.database.close()

    def associate(
        self,
        *,
        calling: str = "SENDER",
        called: str = "MEDSEG",
        syntaxes=(ExplicitVRLittleEndian,),
        note=lambda _: None,
    ):
        ae = AE(ae_title=calling)
        ae.add_requested_context(Verification)
        ae.add_requested_context(CTImageStorage, list(syntaxes))
        handlers = [(evt.EVT_PDU_RECV, note)]
        return ae.associate("127.0.0.1", self.server.port, ae_title=called, evt_handlers=handlers)

    def refusal(self, **options: str) -> tuple[int, int]:
        """Result and reason of the A-ASSOCIATE-RJ; pynetdicom may lose its own word of it."""
        came: list[A_ASSOCIATE_RJ] = []

        def note(event) -> None:
            if isinstance(event.pdu, A_ASSOCIATE_RJ):
                came.append(event.pdu)

        assert not self.associate(note=note, **options).is_established
        (answer,) = came
        return answer.result, answer.reason_diagnostic

    def rows(self, table):
        with self.database.read() as connection:
            return connection.execute(select(table)).mappings().all()

    def audit_lines(self) -> list[dict]:
        path = self.folder / "audit.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.server.port), timeout=5)


def wait_until(true, seconds: float = 30.0) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.01)


def encoded(data_set: Dataset) -> bytes:
    """A data set as it goes over the network, Explicit VR Little Endian."""
    from pynetdicom.dsutils import encode

    body = encode(data_set, False, True)
    assert body is not None
    return body
