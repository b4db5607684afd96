"""`medseg explain` and `medseg stress` from the command line: files, resuming, errors of one sentence."""

from __future__ import annotations

import csv
import json

import nibabel as nib
import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from medseg.cli import app
from medseg.data.phantoms import make_chest_phantom
from medseg.errors import ConfigError
from medseg.explain.explainer import ExplainOptions
from medseg.pipeline.explain_image import explain_image
from medseg.pipeline.stress_run import stress_model
from medseg.stress.options import stress_options

MODEL = "chest-xray-lungs"


@pytest.fixture(scope="module")
def films(tmp_path_factory):
    """Two drawn films of 200 x 240 pixels, their masks and a manifest."""
    folder = tmp_path_factory.mktemp("films")
    rows = ["case_id,patient_id,image,label,split"]
    for number in (5, 6):
        phantom = make_chest_phantom(number)
        size = (200, 240)
        film = Image.fromarray(np.round(255 * phantom.image.T).astype(np.uint8)).resize(size)
        film.save(folder / f"film{number}.png")
        mask = np.zeros(phantom.image.T.shape, dtype=np.uint8)
        for value, name in enumerate(("lung_right", "lung_left"), start=1):
            mask[phantom.masks[name].T] = value
        Image.fromarray(mask).resize(size, Image.Resampling.NEAREST).save(folder / f"mask{number}.png")
        rows.append(f"film{number},p{number},film{number}.png,mask{number}.png,test")
    (folder / "cases.csv").write_text("\n".join(rows) + "\n")
    return folder


def test_maps_lie_on_the_grid_of_the_film(films, tmp_path):
    options = ExplainOptions(methods=("gradcam",), draws=1)
    result = explain_image(
        films / "film5.png", model=MODEL, labels=["lung_right"], output=tmp_path, options=options
    )
    record = json.loads((tmp_path / "explanations.json").read_text())
    (entry,) = record["explanations"]
    heat = np.asarray(nib.load(tmp_path / "gradcam_lung_right.nii.gz").dataobj)
    assert heat.shape[:2] == (200, 240)
    assert heat.max() == pytest.approx(entry["maximum"])
    assert entry["sanity"]["sentence"] in result.lines[0]
    assert len(entry["sanity"]["steps"]) > 10
    with Image.open(tmp_path / "gradcam_lung_right.png") as picture:
        assert picture.width == round(640 * 200 / 240)
    # The right lung lies on the left of the picture.
    assert heat[:100].sum() > heat[100:].sum()


def test_stress_writes_its_tables_and_goes_on_where_it_stopped(films, tmp_path):
    options = stress_options(only=["blur", "crop", "fgsm"], quick=True)
    result = stress_model(MODEL, films / "cases.csv", output=tmp_path, options=options)
    assert result.exit_code == 0
    record = json.loads((tmp_path / "stress.json").read_text())
    assert record["cases"] == 2
    assert {test["name"] for test in record["tests"]} == {"blur", "crop", "fgsm"}
    attack = next(test for test in record["tests"] if test["name"] == "fgsm")
    assert all(
        row["facts"]["epsilon_source"] > row["facts"]["epsilon_prepared"] for row in attack["severities"]
    )
    rows = list(csv.DictReader((tmp_path / "stress.csv").read_text().splitlines()))
    assert len(rows) == (1 + 3 * 3) * len(record["structures"])
    assert (tmp_path / "stress.html").read_text().startswith("<!doctype html>")
    part = tmp_path / "cases" / "film5" / "blur.json"
    before = part.stat().st_mtime_ns
    (tmp_path / "cases" / "film6" / "crop.json").write_text("{")
    stress_model(MODEL, films / "cases.csv", output=tmp_path, options=options)
    assert part.stat().st_mtime_ns == before
    assert json.loads((tmp_path / "stress.json").read_text()) == record


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["explain", "FILM", "--model", MODEL, "--label", "heart"], "no such label or region"),
        (
            ["explain", "FILM", "--model", MODEL, "--label", "lung", "--method", "lime"],
            "expected one or more of gradcam",
        ),
        (
            ["explain", "FILM", "--model", MODEL, "--label", "lung", "--level", "9", "--draws", "1"],
            "feature levels",
        ),
        (["explain", "FOLDER", "--model", MODEL, "--label", "lung"], "explain takes one"),
        (["stress"], "found neither"),
        (["stress", "--model", MODEL], "too few"),
        (["stress", "--model", MODEL, "--manifest", "CSV", "--only", "rain"], "no such corruption or attack"),
        (
            ["stress", "--model", MODEL, "--manifest", "CSV", "--split", "train"],
            "has a mask; name another --split",
        ),
        (
            ["stress", "--model", MODEL, "--manifest", "CSV", "--set", "a=1"],
            "only for stress with a PIPELINE.yaml",
        ),
    ],
)
def test_errors_are_one_sentence(films, tmp_path, arguments, sentence):
    places = {"FILM": str(films / "film5.png"), "FOLDER": str(films), "CSV": str(films / "cases.csv")}
    given = [places.get(a, a) for a in arguments]
    if len(given) > 3:
        given += ["--output", str(tmp_path / "out")]
    outcome = CliRunner().invoke(app, given)
    assert outcome.exception is not None
    assert sentence in str(outcome.exception)
    assert "\n" not in str(outcome.exception)
    if not isinstance(outcome.exception, ConfigError):
        assert outcome.exception.exit_code == 2
