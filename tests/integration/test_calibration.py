"""Runs that train fit a temperature and intervals, keep them in the bundle, and tell them with each result."""

from __future__ import annotations

import csv
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import tiny_volumes

from medseg.inference.predictor import Predictor
from medseg.models.bundle import read_bundle
from medseg.pipeline import case_pages, evaluate, report
from medseg.pipeline.api import run_pipeline
from medseg.pipeline.calibrate_model import CalibrateRequest, calibrate_model
from medseg.pipeline.case_files import read_mask_file

pytestmark = pytest.mark.slow


def written(folder: Path, *, count: int, validation: int) -> Path:
    """The tiny volumes, with so many validation cases of a patient each."""
    path = tiny_volumes.write(folder, count=count)
    with (folder / "cases.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    for number, row in enumerate(rows):
        row["split"] = (
            "test" if number >= count - 2 else "validation" if number >= count - 2 - validation else "train"
        )
    with (folder / "cases.csv").open("w", newline="") as stream:
        writer = csv.DictWriter(stream, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def run_of(path: Path, output: Path, *overrides: str) -> Path:
    return Path(run_pipeline(path, output=output, overrides=overrides).facts["run"])


@pytest.fixture(scope="module")
def held_out(tmp_path_factory) -> tuple[Path, Path]:
    path = written(tmp_path_factory.mktemp("held") / "data", count=17, validation=10)
    return path, run_of(path, tmp_path_factory.mktemp("runs"), "training.epochs=30", "measure=[volume]")


def test_validation_cases_calibrate_and_test_cases_are_told(held_out):
    _, run = held_out
    record = read_bundle(run / "model").record
    assert record.calibration.data == "validation split of tiny: 10 images of 10 patients"
    assert record.calibration.of == "model"
    assert record.calibration.temperature.nll_after <= record.calibration.temperature.nll_before
    assert record.temperature == record.calibration.temperature.value != 1.0
    assert "## Calibration" in (run / "model" / "CARD.md").read_text()
    told = json.loads((run / "evaluation" / "calibration.json").read_text())
    assert (told["cases"], told["temperature"]) == (2, record.temperature)
    assert set(told["structures"]) == {"front", "back"}
    assert {"bins", "ece", "mce", "brier", "nll", "without_temperature"} <= set(told["structures"]["front"])
    rows = list(csv.DictReader((run / "evaluation" / "calibration.csv").read_text().splitlines()))
    assert [row["state"] for row in rows[:2]] == ["network", "calibrated"]
    found = json.loads((run / "cases" / "v16" / "measurements.json").read_text())
    assert found["confidence"]
    assert all("calibrated_probability" in known for known in found["confidence"].values())
    for name, size in record.calibration.sizes.items():
        structure = found["measurements"]["structures"][name]
        assert structure["interval"] == 0.9
        if structure["state"] == "present" and not structure["cut_off"] and size.quantile is not None:
            volume = structure["quantities"]["volume"]["value"]
            assert structure["volume_ml_low"] == pytest.approx(volume * np.exp(-size.quantile))
            assert structure["volume_ml_high"] == pytest.approx(volume * np.exp(size.quantile))
        else:
            assert structure["interval_reason"]


def test_evaluated_cases_are_predicted_once_and_again_where_nothing_was_handed_over(tmp_path, monkeypatch):
    path = written(tmp_path / "data", count=8, validation=1)
    predicted = []
    monkeypatch.setattr(Predictor, "predict", counted(Predictor.predict, predicted))
    settings = ("training.epochs=1", "evaluation.samples=100")
    run = run_of(path, tmp_path / "runs", *settings)
    # One validation case to calibrate, two test cases for their results and their probabilities at once.
    assert len(predicted) == 3
    told = (run / "evaluation" / "calibration.json").read_bytes()
    assert len(list((run / "cache" / "looks").iterdir())) == 2
    shutil.rmtree(run / "cache" / "looks")
    run_pipeline(path, output=tmp_path / "runs", overrides=settings, only=("evaluate",))
    assert len(predicted) == 5
    assert (run / "evaluation" / "calibration.json").read_bytes() == told
    other = run_of(path, tmp_path / "ceiling", *settings, "predict.max_ram=16GB")
    assert len(predicted) == 5 + 5
    assert (other / "evaluation" / "calibration.json").read_bytes() == told


def test_images_are_not_read_again_for_the_pages_of_the_same_process(tmp_path, monkeypatch):
    path = written(tmp_path / "data", count=8, validation=1)
    read = []
    for module in (evaluate, report, case_pages):
        monkeypatch.setattr(module, "image_reader", counted_reader(module.image_reader, read))
    settings = ("training.epochs=1", "evaluation.samples=100", "report.cases=test")
    run = run_of(path, tmp_path / "runs", *settings)
    assert len(read) == 2
    page = sorted((run / "cases").glob("*/report.html"))[0]
    told = pictures(page)
    run_pipeline(path, output=tmp_path / "runs", overrides=settings, only=("report",))
    # The pages of another process read the images once, for the small picture of the cohort and their own.
    assert len(read) == 4
    assert pictures(page) == told != []


def pictures(page):
    return re.findall(r"data:image/webp;base64,[^\"]+", page.read_text())


def counted_reader(make, calls):
    return lambda config: counted(make(config), calls)


def counted(function, calls):
    def count(*given, **more):
        calls.append(1)
        return function(*given, **more)

    return count


def test_masks_are_those_of_a_run_without_calibration(held_out, tmp_path):
    path, run = held_out
    plain = run_of(path, tmp_path, "training.epochs=30", "measure=[volume]", "evaluation.calibration=false")
    assert read_bundle(plain / "model").record.calibration is None
    assert not (plain / "evaluation" / "calibration.json").exists()
    table = read_bundle(run / "model").table
    for case in ("v15", "v16"):
        np.testing.assert_array_equal(
            read_mask_file(run / "cases" / case, table), read_mask_file(plain / "cases" / case, table)
        )


def test_cross_validation_calibrates_out_of_fold(tmp_path):
    path = written(tmp_path / "data", count=12, validation=1)
    run = run_of(path, tmp_path / "runs", "data.split={use: folds, count: 3, fold: all}")
    bundle = read_bundle(run / "model")
    known = bundle.record.calibration
    assert (known.of, known.data) == ("members", "out-of-fold predictions of tiny: 12 images of 12 patients")
    assert bundle.record.temperature == 1.0
    assert bundle.member(1).record.temperature == known.temperature.value
    assert json.loads((run / "evaluation" / "calibration.json").read_text())["cases"] == 12


def test_command_writes_a_calibrated_copy(held_out, tmp_path):
    path, run = held_out
    request = CalibrateRequest(manifest=path.parent / "cases.csv", split="validation")
    result = calibrate_model(str(run / "model"), tmp_path, request)
    assert result.exit_code == 0
    copy, original = read_bundle(tmp_path / "model"), read_bundle(run / "model")
    assert copy.weights_sha256 == original.weights_sha256
    assert copy.record.calibration.temperature == original.record.calibration.temperature
    assert copy.record.calibration.sizes == original.record.calibration.sizes
    assert (tmp_path / "calibration_bins.csv").exists()
