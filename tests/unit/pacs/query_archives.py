"""Archives on loopback that are asked by C-FIND, C-GET and C-MOVE, and answer as a test says."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest

pytest.importorskip("pynetdicom", reason="needs medseg[pacs]")
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian
from pynetdicom import AE, evt
from pynetdicom.sop_class import (
    BasicTextSRStorage,
    CTImageStorage,
    StudyRootQueryRetrieveInformationModelFind,
    StudyRootQueryRetrieveInformationModelGet,
    StudyRootQueryRetrieveInformationModelMove,
)

from medseg.pacs.options import DimsePeer

Answers = Callable[[Any], Iterator[Any]]


def nothing(event: Any) -> Iterator[Any]:
    """No match."""
    yield from ()


def one_match(**values: Any) -> Dataset:
    """A match of a C-FIND for studies, by DICOM keyword."""
    found = Dataset()
    found.QueryRetrieveLevel = "STUDY"
    for keyword, value in values.items():
        setattr(found, keyword, value)
    return found


@contextlib.contextmanager
def query_archive(*, find: Answers = nothing, get: Answers = nothing, move: Answers = nothing):
    """An archive whose answers are what pynetdicom's handlers yield."""
    ae = AE(ae_title="ARCHIVE")
    for model in (
        StudyRootQueryRetrieveInformationModelFind,
        StudyRootQueryRetrieveInformationModelGet,
        StudyRootQueryRetrieveInformationModelMove,
    ):
        ae.add_supported_context(model)
    for stored in (CTImageStorage, BasicTextSRStorage):
        ae.add_supported_context(stored, ExplicitVRLittleEndian, scu_role=True, scp_role=True)
    handlers = [(evt.EVT_C_FIND, find), (evt.EVT_C_GET, get), (evt.EVT_C_MOVE, move)]
    server = ae.start_server(("127.0.0.1", 0), block=False, evt_handlers=handlers)
    try:
        port = server.socket.getsockname()[1]
        yield DimsePeer(host="127.0.0.1", port=port, called_ae_title="ARCHIVE")
    finally:
        server.shutdown()
