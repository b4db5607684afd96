"""`medseg send` to dcmtk's storescp and to Orthanc: what arrives is what was sent."""

from __future__ import annotations

import contextlib
import json
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import dicom_results as made_up
import numpy as np
import pydicom
import pytest
from pydicom import uid

pytest.importorskip("httpx", reason="needs medseg[pacs]")
pytest.importorskip("pynetdicom", reason="needs medseg[pacs]")
import httpx

from medseg.errors import PacsUnreachableError
from medseg.export.dicom_sr import MeasuredValue, write_measurement_sr
from medseg.pacs.dimse_client import DimseSender
from medseg.pacs.options import DimseDestination
from medseg.pacs.sending import Outgoing

pytestmark = pytest.mark.slow
# pynetdicom installs programs of the same names.
DCMTK = "/usr/bin:/usr/local/bin"
MEASURES = {"liver": [MeasuredValue(measure="volume", value=1500.0, unit="ml")]}
EXPLICIT, IMPLICIT = uid.ExplicitVRLittleEndian, uid.ImplicitVRLittleEndian


def program(name: str) -> str:
    found = shutil.which(name, path=DCMTK)
    if found is None:
        pytest.skip(f"{name} of dcmtk is not here (Debian: dcmtk)")
    return found


@contextlib.contextmanager
def storescp(folder: Path, *options: str, port: int = 0) -> Iterator[DimseDestination]:
    """dcmtk's archive; it keeps the bytes that it gets."""
    with socket.create_server(("127.0.0.1", port)) as free:
        port = free.getsockname()[1]
    folder.mkdir()
    command = [program("storescp"), *options, "+B", "-od", str(folder), str(port)]
    process = subprocess.Popen(command)
    to = DimseDestination(host="127.0.0.1", port=port, called_ae_title="ANY-SCP", timeout=20.0)
    try:
        for _ in range(100):
            with contextlib.suppress(PacsUnreachableError):
                DimseSender(to).echo()
                break
            time.sleep(0.1)
        yield to
    finally:
        process.terminate()
        process.wait()


def send(folder: Path, files: list[Path], destination: str) -> dict[str, tuple[str, str]]:
    """State and reason by file, as the command tells them."""
    config = folder / "to.yaml"
    config.write_text(f"destinations:\n  archive: {destination}\n")
    command = [sys.executable, "-m", "medseg", "send", *map(str, files), "--to", "archive", "-c", str(config)]
    done = subprocess.run([*command, "--json", "--retry-for", "1s"], capture_output=True, text=True)
    told = json.loads(done.stdout)
    assert done.returncode == told["exit_code"]
    return {Path(each["path"]).name: (each["state"], each["reason"]) for each in told["files"]}


def dimse(to: DimseDestination) -> str:
    return f"{{use: dimse, host: {to.host}, port: {to.port}, called_ae_title: {to.called_ae_title}}}"


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> list[Path]:
    """A segmentation and its measurements."""
    folder = tmp_path_factory.mktemp("results")
    made = made_up.write_series(folder / "source", shape=(23, 19, 6))
    seg, report = folder / "seg.dcm", folder / "sr.dcm"
    made_up.write_seg(made, seg)
    write_measurement_sr(report, seg_path=seg, grid=made.volume.grid, table=made_up.TABLE, measures=MEASURES)
    return [seg, report]


def same(left: pydicom.Dataset, right: pydicom.Dataset) -> bool:
    """Whether two data sets have the same values; implicit VR does not tell OB from OW."""
    return values_of(left.to_json_dict()) == values_of(right.to_json_dict())


def values_of(told):
    if isinstance(told, dict):
        return {name: values_of(value) for name, value in told.items() if name != "vr"}
    return [values_of(each) for each in told] if isinstance(told, list) else told


def by_uid(files) -> dict[str, pydicom.Dataset]:
    read = [pydicom.dcmread(path) for path in files]
    return {each.SOPInstanceUID: each for each in read}


@pytest.mark.parametrize(("options", "syntax"), [((), EXPLICIT), (("+xi",), IMPLICIT)])
def test_results_arrive_at_dcmtk(tmp_path, results, options, syntax):
    with storescp(tmp_path / "in", *options) as to:
        told = send(tmp_path, results, dimse(to))
    assert {state for state, _ in told.values()} == {"sent"}
    sent, got = by_uid(results), by_uid((tmp_path / "in").iterdir())
    assert sent.keys() == got.keys()
    for each, data_set in got.items():
        assert data_set.file_meta.TransferSyntaxUID == syntax
        assert same(data_set, sent[each])


@pytest.fixture(scope="module")
def orthanc(shared_tools, tmp_path_factory):
    """Where a real Orthanc is."""
    if shutil.which("Orthanc") is None and not Path("/usr/sbin/Orthanc").exists():
        pytest.skip("no Orthanc here (Debian: orthanc orthanc-dicomweb)")
    folder = tmp_path_factory.mktemp("orthanc")
    start = [sys.executable, str(shared_tools / "orthanc-start"), "--dir", str(folder)]
    subprocess.run([*start, "--auth", "user:secret"], check=True, capture_output=True)
    lines = (folder / "orthanc.env").read_text().splitlines()
    yield dict(line.removeprefix("export ").split("=", 1) for line in lines if "=" in line)
    stop = [sys.executable, str(shared_tools / "orthanc-stop"), str(folder)]
    subprocess.run(stop, check=True, capture_output=True)


@pytest.mark.parametrize("way", ["dimse", "dicomweb"])
def test_results_arrive_at_orthanc(tmp_path, results, orthanc, monkeypatch, way):
    monkeypatch.setenv("ARCHIVE_PASSWORD", "secret")
    if way == "dimse":
        to = f"{{use: dimse, host: 127.0.0.1, port: {orthanc['ORTHANC_DICOM_PORT']}, called_ae_title: ORTHANC}}"
    else:
        login = "user: user, password: {env: ARCHIVE_PASSWORD}"
        to = f"{{use: dicomweb, url: {orthanc['ORTHANC_DICOMWEB_URL']}, {login}}}"
    with httpx.Client(base_url=orthanc["ORTHANC_URL"], auth=("user", "secret"), trust_env=False) as archive:
        for instance in archive.get("/instances").json():
            archive.delete(f"/instances/{instance}")
        told = send(tmp_path, results, to)
        assert {state for state, _ in told.values()} == {"sent"}
        got = [archive.get(f"/instances/{each}/file").content for each in archive.get("/instances").json()]
    for number, content in enumerate(got):
        (tmp_path / f"{number}.dcm").write_bytes(content)
    sent, got = by_uid(results), by_uid(tmp_path.glob("*.dcm"))
    assert sent.keys() == got.keys()
    assert all(same(got[each], sent[each]) for each in sent)
    if way == "dicomweb":
        assert sorted(path.read_bytes() for path in results) == sorted(
            path.read_bytes() for path in tmp_path.glob("*.dcm")
        )


def test_one_image_in_many_syntaxes_arrives_with_its_pixels(tmp_path, shared_data):
    originals = sorted((shared_data / "dicom" / "same_ct_many_syntaxes").glob("*.dcm"))
    plain = pydicom.dcmread(originals[0])
    files = []
    for number, path in enumerate([*originals, big_endian(originals[0], tmp_path)]):
        image = pydicom.dcmread(path)
        image.SOPInstanceUID = image.file_meta.MediaStorageSOPInstanceUID = f"2.25.{number + 1}"
        files.append(tmp_path / f"{number}.dcm")
        image.save_as(files[-1])
    with storescp(tmp_path / "in", "+xi") as to:
        told = send(tmp_path, files, dimse(to))
    lossy = {path.name for path in files if is_lossy(path)}
    assert {name for name, (state, _) in told.items() if state != "sent"} == lossy
    assert all("JPEG Baseline" in told[name][1] for name in lossy)
    got = by_uid((tmp_path / "in").iterdir())
    assert len(got) == len(files) - len(lossy) == 8
    for image in got.values():
        np.testing.assert_array_equal(image.pixel_array, plain.pixel_array)
        assert image.PatientName == plain.PatientName


def big_endian(path: Path, folder: Path) -> Path:
    subprocess.run([program("dcmconv"), "+tb", str(path), str(folder / "big.endian")], check=True)
    return folder / "big.endian"


def is_lossy(path: Path) -> bool:
    return pydicom.dcmread(path, stop_before_pixels=True).file_meta.TransferSyntaxUID == uid.JPEGBaseline8Bit


def test_small_objects_go_faster_than_a_delayed_acknowledgement(tmp_path, results):
    report = pydicom.dcmread(results[1])
    files = []
    for number in range(100):
        report.SOPInstanceUID = report.file_meta.MediaStorageSOPInstanceUID = f"2.25.{number + 1}"
        report.save_as(tmp_path / "one.dcm")
        content = (tmp_path / "one.dcm").read_bytes()
        files.append(
            Outgoing(
                sop_class_uid=report.SOPClassUID, sop_instance_uid=report.SOPInstanceUID, content=content
            )
        )
    with storescp(tmp_path / "in") as to:
        begin = time.monotonic()
        assert {answer.state for answer in DimseSender(to).send(files)} == {"sent"}
        # A delayed acknowledgement alone takes 40 ms on Linux, and there were two for each.
        assert (time.monotonic() - begin) / len(files) < 0.04


PIPELINE = """
medseg: 1
name: to_archive
data: {{source: {{use: phantom, recipe: chest_xray, cases: 2, seed: 7}}, modality: [CR, DX]}}
labels:
  lung_right: {{value: 1, side: right, pair: lung_left, code: {{scheme: SCT, value: "3341006", meaning: Right lung}}}}
  lung_left: {{value: 2, side: left, pair: lung_right, code: {{scheme: SCT, value: "44029006", meaning: Left lung}}}}
preprocess:
  - {{use: orient, to: LF}}
  - {{use: gray}}
  - {{use: normalise, method: percentile, low: 0.5, high: 99.5}}
  - {{use: resize, size: [256, 256], keep_aspect: true}}
model: {{use: small_unet, start_from: chest-xray-lungs}}
measure: [area]
export: [dicom_seg, measurement_sr]
report: {{cases: none}}
evaluation: {{calibration: false}}
pacs: {{to: [{to}], send: [dicom_seg, measurement_sr], hold_on: [], retry_for: 1s}}
"""


def test_a_pipeline_sends_its_results_once(tmp_path):
    with storescp(tmp_path / "first") as to:
        pass
    (tmp_path / "x.yaml").write_text(PIPELINE.format(to=dimse(to)))
    code, told = run(tmp_path)
    assert code == 4
    assert "0 of 4 objects are sent, 4 wait" in told["error"]
    with storescp(tmp_path / "second", port=to.port):
        assert run(tmp_path)[0] == 0
        exported = list(tmp_path.glob("runs/*/*/cases/*/*.dcm"))
        assert by_uid((tmp_path / "second").iterdir()).keys() == by_uid(exported).keys()
        for received in (tmp_path / "second").iterdir():
            received.unlink()
        assert run(tmp_path)[0] == 0
        assert run(tmp_path, "--only", "send")[0] == 0
        assert not list((tmp_path / "second").iterdir())


def run(folder: Path, *more: str):
    command = [sys.executable, "-m", "medseg", "run", "x.yaml", "--json", *more]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    return done.returncode, json.loads(done.stdout)
