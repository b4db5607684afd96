"""Archives on loopback that accept, refuse, are full, keep silent or hang up."""

from __future__ import annotations

import contextlib
import inspect
import io
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

pytest.importorskip("pynetdicom", reason="needs medseg[pacs]")
from pydicom import dcmwrite
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian
from pynetdicom import AE, evt
from pynetdicom.sop_class import CTImageStorage, StorageCommitmentPushModel, Verification

from medseg.pacs.options import DicomwebDestination, DimseDestination
from medseg.pacs.sending import Outgoing
from tests.unit.node.listening import ct_slice


def outgoing(number: int, *, sop_class: str = CTImageStorage) -> Outgoing:
    data_set = ct_slice(number)
    data_set.SOPClassUID = sop_class
    stream = io.BytesIO()
    dcmwrite(stream, data_set, enforce_file_format=True)
    return Outgoing(
        sop_class_uid=sop_class, sop_instance_uid=data_set.SOPInstanceUID, content=stream.getvalue()
    )


class DimseArchive:
    """A C-STORE SCP that answers as `answer` says; it keeps the UIDs that it took."""

    def __init__(self, answer: Callable[[Any], int] = lambda event: 0, *, syntaxes=None) -> None:
        self.taken: list[str] = []
        self.asked: list[Dataset] = []
        self._answer = answer
        ae = AE(ae_title="ARCHIVE")
        ae.require_called_aet = True
        ae.add_supported_context(Verification)
        ae.add_supported_context(CTImageStorage, syntaxes or [ExplicitVRLittleEndian])
        ae.add_supported_context(StorageCommitmentPushModel)
        handlers = [(evt.EVT_C_STORE, self._store), (evt.EVT_N_ACTION, self._action)]
        self.server = ae.start_server(("127.0.0.1", 0), block=False, evt_handlers=handlers)
        self.port = self.server.socket.getsockname()[1]

    def _store(self, event) -> int:
        status = self._answer(event)
        if status in (0x0000, 0xB000):
            self.taken.append(str(event.request.AffectedSOPInstanceUID))
        return status

    def _action(self, event):
        self.asked.append(event.action_information)
        return 0x0000, None

    def options(self, **changed) -> DimseDestination:
        values = {"host": "127.0.0.1", "port": self.port, "called_ae_title": "ARCHIVE", "timeout": 2.0}
        return DimseDestination(**(values | changed))

    def stop(self) -> None:
        self.server.shutdown()


@contextlib.contextmanager
def dimse_archive(*args, **kwargs) -> Iterator[DimseArchive]:
    archive = DimseArchive(*args, **kwargs)
    try:
        yield archive
    finally:
        archive.stop()


class HttpArchive:
    """An HTTP server that answers with what `answer` says of a body, or of a body and a path; it keeps what came."""

    def __init__(self, answer: Callable[..., tuple[int, bytes, dict[str, str]]]) -> None:
        self.bodies: list[bytes] = []
        self.headers: list[dict[str, str]] = []
        outer, takes_path = self, len(inspect.signature(answer).parameters) == 2

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = b""
                if self.headers.get("Transfer-Encoding") == "chunked":
                    while size := int(self.rfile.readline(), 16):
                        body += self.rfile.read(size)
                        self.rfile.readline()
                    self.rfile.readline()
                else:
                    body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                outer.bodies.append(body)
                outer.headers.append(dict(self.headers))
                status, content, headers = answer(body, self.path) if takes_path else answer(body)
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            do_GET = do_POST

            def log_message(self, *_args) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        threading.Thread(
            target=self.server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True
        ).start()

    def options(self, **changed) -> DicomwebDestination:
        url = f"http://127.0.0.1:{self.server.server_address[1]}/dicom-web"
        return DicomwebDestination(**({"url": url, "timeout": 2.0} | changed))

    def stop(self) -> None:
        self.server.shutdown()
        self.server.server_close()


@contextlib.contextmanager
def http_archive(answer) -> Iterator[HttpArchive]:
    archive = HttpArchive(answer)
    try:
        yield archive
    finally:
        archive.stop()
