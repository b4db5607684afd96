"""A run that plans itself: its decided settings give the same weights, and it compares itself with its plan."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import tiny_volumes

from medseg.pipeline.api import run_pipeline
from medseg.planning.plan import read_plan

pytestmark = pytest.mark.slow
AUTO = ("preprocess=auto", "augment=auto", "model=auto", "training=auto", "inference.window=auto")


def train(pipeline: Path, output: Path, *overrides: str) -> tuple[Path, dict]:
    result = run_pipeline(pipeline, output=output, overrides=overrides, until="train")
    folder = Path(result.facts["run"])
    return folder, json.loads((folder / "run.json").read_text())["stages"]["train"]["summary"]


def test_the_decided_settings_give_the_same_weights_and_memory_is_as_predicted(tmp_path):
    pipeline = tiny_volumes.write(tmp_path / "data")
    folder, first = train(
        pipeline, tmp_path / "runs", *AUTO, "budget.time=25s", "training.samples_per_epoch=32"
    )
    assert read_plan(folder).value("training.epochs") > 1
    _, second = train(folder / "pipeline.resolved.yaml", tmp_path / "again", "budget.probe=false")
    assert second["weights_sha256"] == first["weights_sha256"]
    assert second["comparison"] is None
    comparison = first["comparison"]
    assert comparison["ram_within"], comparison["text"]
    # The machine that runs the tests may be busy with others; a prediction is of its speed when it was made.
    assert 0.3 < comparison["seconds"] / comparison["predicted_seconds"] < 3, comparison["text"]
