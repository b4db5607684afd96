"""A pipeline that trains against attacks and corruptions, and is stressed afterwards."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from medseg.cli import app

pytestmark = pytest.mark.slow

PIPELINE = """
medseg: 1
name: small
data:
  source: {use: phantom, recipe: chest_xray, cases: 10, seed: 7}
  split: {use: holdout, by: patient, training: 0.6, validation: 0.2, test: 0.2, seed: 1}
labels:
  lung_right: {value: 1, side: right, pair: lung_left}
  lung_left: {value: 2, side: left, pair: lung_right}
preprocess:
  - {use: orient, to: LF}
  - {use: gray}
  - {use: normalise, method: percentile, low: 0.5, high: 99.5}
  - {use: resize, size: [48, 64], keep_aspect: true}
augment:
  - {use: corrupt, severity: 3, probability: 0.5}
model: {use: small_unet, channels: [4, 8, 16], norm: group, groups: 4}
training:
  epochs: 2
  batch_size: 3
  keep: last
  adversarial: {use: pgd, steps: 2, probability: 0.7, epsilon: 2}
inference: {tta: none}
evaluation: {metrics: [dice], samples: 200}
export: []
report: {cases: none}
compute: {device: cpu, threads: 1, workers: 0}
"""


def test_a_pipeline_is_trained_and_stressed_and_the_second_time_is_only_told(tmp_path):
    (tmp_path / "small.yaml").write_text(PIPELINE)
    command = [
        "stress",
        str(tmp_path / "small.yaml"),
        "-o",
        str(tmp_path / "runs"),
        "--quick",
        "--only",
        "noise,fgsm",
    ]
    first = CliRunner().invoke(app, [*command, "--json"], catch_exceptions=False)
    assert first.exit_code == 0
    (folder,) = (tmp_path / "runs" / "small").glob("*/stress")
    record = json.loads((folder / "stress.json").read_text())
    assert {test["name"] for test in record["tests"]} == {"noise", "fgsm"}
    assert record["failed"] == {}
    assert record["cases"] >= 2
    times = {path: path.stat().st_mtime_ns for path in folder.glob("cases/*/*.json")}
    second = CliRunner().invoke(app, [*command, "--language", "zh"], catch_exceptions=False)
    assert second.exit_code == 0
    assert times == {path: path.stat().st_mtime_ns for path in folder.glob("cases/*/*.json")}
    assert "压力测试" in (folder / "stress.html").read_text()
