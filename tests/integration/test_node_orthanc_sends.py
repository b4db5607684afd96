"""A real Orthanc as the sender: by C-STORE and by its STOW-RS client, what it has is stored, whole and once."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pydicom
import pytest

pytest.importorskip("httpx", reason="needs medseg[node]")
pytest.importorskip("pynetdicom", reason="needs medseg[node]")
import httpx

from tests.integration.served_node import SENDER, ServedNode
from tests.integration.test_node_service import archive  # noqa: F401  the fixture

pytestmark = pytest.mark.slow
STUDIES = ("ct_plain", "cr_monochrome1_chest", "cr_monochrome1_j2k", "mr_enhanced_small", "mr_knee_j2k")


@pytest.fixture
def node(tmp_path: Path) -> Iterator[ServedNode]:
    served = ServedNode(tmp_path / "node", settings=tmp_path / "node.yaml")
    yield served
    served.end()


@pytest.fixture
def orthanc(archive) -> Iterator[httpx.Client]:  # noqa: F811
    """Its REST interface."""
    with httpx.Client(base_url=archive["ORTHANC_URL"], auth=("user", "secret"), timeout=60) as client:
        yield client
        for place in client.get("/patients").json():
            client.delete(f"/patients/{place}")


@pytest.fixture
def given(orthanc, shared_data: Path) -> dict[str, str]:
    """What lies in Orthanc: SOP Instance UID by the name that Orthanc gave it."""
    found = {}
    for study in STUDIES:
        for path in sorted((shared_data / "dicom" / study).rglob("*")):
            if path.is_file() and path.read_bytes()[128:132] == b"DICM":
                answer = orthanc.post("/instances", content=path.read_bytes())
                assert answer.status_code == 200, (path, answer.text)
                found[answer.json()["ID"]] = str(
                    pydicom.dcmread(path, stop_before_pixels=True).SOPInstanceUID
                )
    assert len(found) > len(STUDIES)
    return found


def stored(folder: Path) -> dict[str, pydicom.Dataset]:
    """What the node has, by SOP Instance UID."""
    connection = sqlite3.connect(folder / "node.db")
    try:
        rows = connection.execute("SELECT sop_instance_uid, path FROM instances").fetchall()
    finally:
        connection.close()
    return {uid: pydicom.dcmread(folder / path) for uid, path in rows}


def agree(orthanc, given: dict[str, str], node: ServedNode) -> None:
    """The node has the same instances, and of each the pixels that Orthanc has."""
    found = stored(node.folder)
    assert set(found) == set(given.values())
    for place, uid in given.items():
        content = orthanc.get(f"/instances/{place}/file").content
        theirs = pydicom.dcmread(pydicom.filebase.DicomBytesIO(content))
        mine = found[uid]
        assert mine.file_meta.TransferSyntaxUID == theirs.file_meta.TransferSyntaxUID
        assert mine.PixelData == theirs.PixelData
        assert mine.get("PatientName") == theirs.get("PatientName")


def test_it_sends_by_c_store(orthanc, given, node: ServedNode):
    orthanc.put(
        "/modalities/node", json={"AET": "MEDSEG", "Host": "127.0.0.1", "Port": node.dimse}
    ).raise_for_status()
    assert orthanc.post("/modalities/node/echo", json={}).status_code == 200
    for _ in range(2):
        said = orthanc.post("/modalities/node/store", json={"Resources": list(given)}).raise_for_status()
        assert (said.json()["FailedInstancesCount"], said.json()["InstancesCount"]) == (0, len(given))
    agree(orthanc, given, node)


def test_it_sends_by_stow_rs(orthanc, given, node: ServedNode):
    server = {"Url": f"http://127.0.0.1:{node.http}/dicom-web/", "Username": "sven", "Password": SENDER}
    orthanc.put("/dicom-web/servers/node", json=server).raise_for_status()
    for _ in range(2):
        asked = {"Resources": list(given), "Synchronous": True}
        orthanc.post("/dicom-web/servers/node/stow", json=asked).raise_for_status()
    agree(orthanc, given, node)


def test_a_wrong_password_and_a_stranger_are_told_so(orthanc, given, node: ServedNode):
    server = {"Url": f"http://127.0.0.1:{node.http}/dicom-web/", "Username": "sven", "Password": "wrong"}
    orthanc.put("/dicom-web/servers/node", json=server).raise_for_status()
    asked = {"Resources": list(given)[:1], "Synchronous": True}
    assert orthanc.post("/dicom-web/servers/node/stow", json=asked).status_code != 200
    stranger = {"AET": "NOBODY", "Host": "127.0.0.1", "Port": node.dimse}
    orthanc.put("/modalities/node", json=stranger).raise_for_status()
    assert orthanc.post("/modalities/node/store", json={"Resources": list(given)[:1]}).status_code != 200
    assert stored(node.folder) == {}
