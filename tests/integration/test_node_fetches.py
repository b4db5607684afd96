"""Real archives as sources: dcmtk's dcmqrscp and Orthanc; a study comes whole, is run once, and its results go back."""

from __future__ import annotations

import io
import json
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pydicom
import pytest

pytest.importorskip("httpx", reason="needs medseg[node]")
pytest.importorskip("pynetdicom", reason="needs medseg[node]")
from pydicom.uid import generate_uid
from pynetdicom.sop_class import BasicTextSRStorage

from medseg.errors import PacsUnreachableError
from medseg.pacs.dimse_client import DimseSender
from medseg.pacs.options import DimseDestination
from medseg.pacs.sending import Outgoing
from tests.integration import served_node
from tests.integration.served_node import ServedNode
from tests.integration.test_node_service import free_port, wait
from tests.unit.node.listening import ct_slice

pytestmark = pytest.mark.slow
# pynetdicom installs programs of the same names.
DCMTK = "/usr/bin:/usr/local/bin"
QRSCP = """
NetworkTCPPort = {port}
MaxPDUSize = 16384
MaxAssociations = 16
HostTable BEGIN
medseg = (MEDSEG, localhost, {node})
HostTable END
VendorTable BEGIN
VendorTable END
AETable BEGIN
ARCHIVE {store} RW (200, 1024mb) ANY
AETable END
"""


@pytest.fixture
def ports() -> tuple[int, int]:
    """Of the archive and of the node's listener."""
    return free_port(), free_port()


@pytest.fixture
def dcmqrscp(tmp_path: Path, ports) -> Iterator[dict[str, str]]:
    program = shutil.which("dcmqrscp", path=DCMTK)
    if program is None:
        pytest.skip("dcmqrscp of dcmtk is not here (Debian: dcmtk)")
    (tmp_path / "store").mkdir()
    settings = tmp_path / "dcmqrscp.cfg"
    settings.write_text(QRSCP.format(port=ports[0], node=ports[1], store=tmp_path / "store"))
    with (tmp_path / "dcmqrscp.log").open("w") as log:
        process = subprocess.Popen([program, "-c", str(settings)], stdout=log, stderr=log)
    yield {}
    process.terminate()
    process.wait()


@pytest.fixture
def orthanc(shared_tools, tmp_path: Path, ports) -> Iterator[dict[str, str]]:
    if shutil.which("Orthanc") is None and not Path("/usr/sbin/Orthanc").exists():
        pytest.skip("no Orthanc here (Debian: orthanc orthanc-dicomweb)")
    folder = tmp_path / "orthanc"
    start = [sys.executable, str(shared_tools / "orthanc-start"), "--dir", str(folder), "--aet", "ARCHIVE"]
    start += ["--auth", "user:secret", "--dicom-port", str(ports[0]), "--peer", f"MEDSEG:{ports[1]}"]
    subprocess.run(start, check=True, capture_output=True)
    lines = (folder / "orthanc.env").read_text().splitlines()
    yield dict(line.removeprefix("export ").split("=", 1) for line in lines if "=" in line)
    stop = [sys.executable, str(shared_tools / "orthanc-stop"), str(folder)]
    subprocess.run(stop, check=True, capture_output=True)


def made(shared_data: Path) -> list[pydicom.Dataset]:
    """A study of today with three slices and a report, and one with a chest radiograph."""
    today, study = f"{datetime.now(UTC):%Y%m%d}", generate_uid()
    images = [ct_slice(number, study=study) for number in range(4)]
    report = images[3]
    report.SOPClassUID, report.Modality, report.SeriesInstanceUID = BasicTextSRStorage, "SR", generate_uid()
    for keyword in ("PixelData", "Rows", "Columns"):
        delattr(report, keyword)
    place = shared_data / "dicom" / "cr_monochrome1_chest"
    film = next(pydicom.dcmread(path) for path in sorted(place.rglob("*")) if path.is_file())
    film.StudyInstanceUID, film.file_meta.MediaStorageSOPInstanceUID = generate_uid(), film.SOPInstanceUID
    for image in (*images, film):
        image.StudyDate, image.StudyTime, image.StudyID, image.AccessionNumber = today, "120000", "1", "A1"
    return [*images, film]


def fill(port: int, images: list[pydicom.Dataset]) -> None:
    to = DimseDestination(host="127.0.0.1", port=port, called_ae_title="ARCHIVE", timeout=20.0)
    files = []
    for image in images:
        stream = io.BytesIO()
        pydicom.dcmwrite(stream, image, enforce_file_format=True)
        uids = {"sop_class_uid": image.SOPClassUID, "sop_instance_uid": image.SOPInstanceUID}
        files.append(Outgoing(**uids, content=stream.getvalue()))
    for _ in range(100):
        try:
            DimseSender(to).echo()
            break
        except PacsUnreachableError:
            time.sleep(0.1)
    assert {answer.state for answer in DimseSender(to).send(files)} == {"sent"}


def served(tmp_path: Path, ports, source: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> ServedNode:
    free = iter([ports[1], free_port()])
    monkeypatch.setattr(served_node, "free_port", lambda: next(free))
    monkeypatch.setenv("ARCHIVE_PASSWORD", "secret")
    archive = {"use": "dimse", "host": "127.0.0.1", "port": ports[0], "called_ae_title": "ARCHIVE"}
    rule = {
        "name": "chest",
        "match": {"modality": ["CR"]},
        "model": "chest-xray-lungs",
        "send_to": ["archive"],
    }
    return ServedNode(
        tmp_path / "node",
        settings=tmp_path / "node.yaml",
        rules=[rule],
        destinations={"archive": archive},
        sources=[{"name": "pacs", "every": "1s"} | source],
        studies={"stable_after": "3s"},
        review={"hold": "never"},
    )


def rows(node: ServedNode, query: str) -> list[tuple[Any, ...]]:
    connection = sqlite3.connect(node.folder / "node.db")
    try:
        return connection.execute(query).fetchall()
    finally:
        connection.close()


def lines(node: ServedNode, event: str) -> list[dict[str, Any]]:
    said = (node.folder / "audit.jsonl").read_text().splitlines()
    return [line for line in map(json.loads, said) if line["event"] == event]


def look(node: ServedNode, images: list[pydicom.Dataset], *, report: bool) -> None:
    """Everything came, one job ran, its results went back, and the source is in no trouble with them."""
    deliveries = "SELECT state FROM deliveries"
    wait("delivery", lambda: [state for (state,) in rows(node, deliveries)] == ["sent", "sent"])
    # Some looks later nothing has been computed or sent once more.
    time.sleep(5)
    held = {uid for (uid,) in rows(node, "SELECT sop_instance_uid FROM instances")}
    wanted = {image.SOPInstanceUID for image in images if report or image.SOPClassUID != BasicTextSRStorage}
    assert held == wanted
    assert rows(node, "SELECT rule, state FROM jobs") == [("chest", "done")]
    assert rows(node, deliveries) == [("sent",), ("sent",)]
    assert [line for line in lines(node, "source") if line["outcome"] == "trouble"] == []


def dimse(ports, retrieve: str) -> dict[str, Any]:
    where = {"host": "127.0.0.1", "port": ports[0], "called_ae_title": "ARCHIVE"}
    return {"use": "dimse", "calling_ae_title": "MEDSEG", "retrieve": retrieve, **where}


@pytest.mark.parametrize(("archive", "retrieve"), [("dcmqrscp", "get"), ("orthanc", "move")])
def test_queried_and_retrieved(
    request, shared_data, tmp_path, ports, monkeypatch, archive: str, retrieve: str
):
    request.getfixturevalue(archive)
    images = made(shared_data)
    fill(ports[0], images)
    node = served(tmp_path, ports, dimse(ports, retrieve), monkeypatch)
    try:
        look(node, images, report=retrieve == "move")
    finally:
        node.end()


@pytest.mark.parametrize("way", ["dicomweb", "orthanc"])
def test_by_http(shared_data, tmp_path, ports, monkeypatch, orthanc, way: str):
    images = made(shared_data)
    fill(ports[0], images)
    url = orthanc["ORTHANC_DICOMWEB_URL" if way == "dicomweb" else "ORTHANC_URL"]
    source = {"use": way, "url": url, "user": "user", "password": {"env": "ARCHIVE_PASSWORD"}}
    node = served(tmp_path, ports, source, monkeypatch)
    try:
        look(node, images, report=True)
    finally:
        node.end()
