"""Settings of the recognition of targets: what goes together and what does not."""

from __future__ import annotations

from pathlib import Path

import pytest

from medseg.config import RunConfig, SettingsError, load_run_config
from medseg.evaluation.instance_options import DetectionOptions, RecogniseOptions

BASE = """\
medseg: 1
name: chest
data: {source: {use: phantom, recipe: chest_xray, cases: 4, seed: 1}}
labels: {lung_right: {value: 1}, lung_left: {value: 2}}
regions: {lung: [lung_right, lung_left]}
model: small_unet
training: {}
"""


def load(folder: Path, extra: str = "") -> RunConfig:
    path = folder / "run.yaml"
    path.write_text(BASE + extra)
    return load_run_config(path).config


def found(folder: Path, extra: str) -> dict[str, str]:
    with pytest.raises(SettingsError) as caught:
        load(folder, extra)
    return {problem.path: problem.text for problem in caught.value.problems}


def test_off_by_default(tmp_path):
    config = load(tmp_path)
    assert config.recognise is None
    assert config.evaluation.detection is None


def test_what_may_be_said(tmp_path):
    config = load(
        tmp_path,
        "recognise: {labels: [lung], connectivity: faces, min_mm2: 12.5}\n"
        "evaluation: {detection: {match: centre, froc: [0.5, 1]}}\n"
        "export: [nifti, instance_seg, instance_sr, coco]\n",
    )
    assert config.recognise == RecogniseOptions(labels=("lung",), connectivity="faces", min_mm2=12.5)
    assert config.evaluation.detection == DetectionOptions(match="centre", froc=(0.5, 1))
    assert load(tmp_path, "recognise: {}\n").recognise == RecogniseOptions()


@pytest.mark.parametrize(
    ("extra", "path", "text"),
    [
        ("export: [nifti, coco]", "export.1", "coco holds recognised targets; add a section recognise"),
        ("evaluation: {detection: {}}", "evaluation.detection", "judges recognised targets"),
        ("recognise: {labels: [lungs]}", "recognise.labels.0", "no label `lungs`, did you mean `lung`?"),
        ("recognise: {labels: [lung, lung]}", "recognise", "each may stand there once"),
        ("recognise: {min_ml: 1, min_pixels: 3}", "recognise", "give at most one of"),
        (
            "recognise: {}\nexport: [instance_sr]",
            "export.0",
            "instance_sr refers to the segments of instance_seg; add instance_seg to export",
        ),
        (
            "recognise: {}\nevaluation: {detection: {ap_iou: [0.5, 0.1]}}",
            "evaluation.detection",
            "ap_iou must ascend",
        ),
    ],
)
def test_what_does_not_go_together(tmp_path, extra, path, text):
    problems = found(tmp_path, extra)
    assert text in problems[path]
