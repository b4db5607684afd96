"""Pipelines for MR tumours, spinal cord, CT organs and driving scenes, each run shortly as a user runs it."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from functools import cached_property
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

# Where nothing is asked of the network; that a budget is measured and kept, the others show.
SHORT = ("training.epochs=2", "training.samples_per_epoch=8", "budget.probe=false")
STAGES = ("check", "plan", "train", "predict", "evaluate", "export", "report")


class Run:
    """A finished run folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def json(self, name: str) -> Any:
        return json.loads((self.folder / name).read_text(encoding="utf-8"))

    @cached_property
    def structures(self) -> dict[str, dict[str, Any]]:
        return self.json("evaluation/summary.json")["structures"]

    @cached_property
    def masks(self) -> dict[str, np.ndarray]:
        paths = sorted(self.folder.glob("cases/*/segmentation.nii.gz"))
        return {path.parent.name: np.asarray(nibabel.load(path).dataobj).squeeze() for path in paths}

    def evaluated(self) -> set[str]:
        with (self.folder / "evaluation" / "cases.csv").open(newline="") as stream:
            return {row["case_id"] for row in csv.DictReader(stream)}


def run(project: Path, shared_data: Path, output: Path, name: str, seconds: int, *more: str) -> Run:
    # Calibration, which predicts every case once more, has tests of its own.
    quick = (f"budget.time={seconds}s", "evaluation.calibration=false")
    settings = (f"data.source.root={shared_data / name}", *quick, *more)
    done = subprocess.run(
        [
            *(sys.executable, "-m", "medseg", "run", str(project / "pipelines" / f"{name}.yaml"), "--json"),
            *("--output", str(output), *(word for text in settings for word in ("--set", text))),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = Run(Path(json.loads(done.stdout)["run"]))
    stages = found.json("run.json")["stages"]
    assert all(stages[stage]["done"] for stage in STAGES)
    check = found.json("check.json")
    assert not check["unusable"]
    assert not check["skipped"]
    assert (found.folder / "report.html").stat().st_size > 10_000
    return found


def test_tumours_on_two_channels(project, shared_data, tmp_path):
    found = run(project, shared_data, tmp_path, "mr_brats", 30)
    assert found.json("model/bundle.json")["in_channels"] == 2
    assert {name: mask.shape for name, mask in found.masks.items()} == {"brats_pat0003": (240, 240, 155)}
    names = ("necrosis", "oedema", "non_enhancing", "enhancing", "whole", "core")
    assert {name: found.structures[name]["dice"]["count"] for name in names} == dict.fromkeys(names, 1)
    assert found.structures["whole"]["dice"]["mean"] > 0.02


def test_cord_on_mixed_grids(project, shared_data, tmp_path):
    found = run(project, shared_data, tmp_path, "mr_spine", 30, *SHORT)
    assert {name: mask.shape for name, mask in found.masks.items()} == dict.fromkeys(
        ("unf01_T1w", "unf01_T2star", "unf01_T2w"), (131, 141, 16)
    )
    assert found.structures["cord"]["dice"]["count"] == 3
    groups = found.json("evaluation/summary.json")["groups"]["contrast"]
    assert {name: group["cord"]["dice"]["count"] for name, group in groups.items()} == dict.fromkeys(
        ("T1w", "T2star", "T2w"), 1
    )
    assert found.json("check.json")["facts"]["sct_t2s_gm_crop"]["voxels"] == {"cord": 519}


def test_organs_with_masks_that_know_some_of_them(project, shared_data, tmp_path):
    found = run(project, shared_data, tmp_path, "ct_small", 30, *SHORT)
    assert {name: mask.shape for name, mask in found.masks.items()} == {
        "ct_heart": (122, 102, 112),
        "ct_lung_other_grid": (57, 78, 64),
    }
    # The one has no mask that is read, the other tells lungs alone.
    assert found.evaluated() == {"ct_lung_other_grid"}
    lungs, left = found.structures["lungs"]["dice"], found.structures["lung_left"]["dice"]
    assert (lungs["count"], left["count"]) == (1, 0)
    assert sum(left["undefined"].values()) == 1
    # Sixteen samples of two images promise nothing about lungs of a third one.
    assert 0 <= lungs["mean"] <= 1


def test_driving_scenes_in_colour(project, shared_data, tmp_path):
    steps = ("training.epochs=8", "training.samples_per_epoch=24", "budget.probe=false")
    found = run(project, shared_data, tmp_path, "driving", 300, *steps)
    assert found.json("model/bundle.json")["in_channels"] == 3
    assert len(found.masks) == 20
    assert {mask.shape for mask in found.masks.values()} == {(480, 360)}
    assert 11 not in np.unique(np.stack(list(found.masks.values())))
    pooled = found.json("evaluation/summary.json")["mean_iou"]
    assert len(pooled["structures"]) == 11
    assert not pooled["absent"]
    assert pooled["cases"] == 20
    assert pooled["structures"]["road"] > 0.3
    assert pooled["mean"] > 0.1
