"""RunConfig: what a pipeline may say, what does not go together, the label table that it makes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

from medseg.config import RunConfig, SettingsError, load_run_config
from medseg.data.options import HoldoutSplit, PhantomSource

BASE = """\
medseg: 1
name: chest
data: {source: {use: phantom, recipe: chest_xray, cases: 4, seed: 1}}
labels:
  lung_right:
    {value: 1, side: right, pair: lung_left, code: {scheme: SCT, value: "3341006", meaning: Right lung}}
  lung_left: {value: 2, side: left, pair: lung_right, color: "#b684f5"}
regions: {lung: [lung_right, lung_left]}
model: small_unet
training: {}
"""


def load(folder: Path, extra: str = "", *overrides: str) -> RunConfig:
    path = folder / "run.yaml"
    path.write_text(BASE + extra)
    return load_run_config(path, overrides=overrides).config


def found(folder: Path, extra: str, *overrides: str) -> dict[str, str]:
    with pytest.raises(SettingsError) as caught:
        load(folder, extra, *overrides)
    return {problem.path: problem.text for problem in caught.value.problems}


def test_smallest_pipeline_has_defaults(tmp_path: Path):
    config = load(tmp_path)
    assert config.data.source == PhantomSource(cases=4, seed=1)
    assert config.data.split == HoldoutSplit()
    assert config.export == ("nifti",)
    assert config.compute.device == "auto"


def test_label_table_has_labels_regions_and_schemes(tmp_path: Path):
    config = load(
        tmp_path,
        "ignore_value: 255\nlabel_schemes:\n"
        "  lung: {values: {1: [lung_right, lung_left], 7: lung_left}, sides_by_position: true}\n"
        "  heart: {values: {1: [lung_left, background]}, medial_open: {lung_left: 0.5}}\n",
    )
    table = config.label_table()
    assert table.names == ("background", "lung_right", "lung_left")
    assert [label.colour for label in table.labels] == ["#56b4e9", "#b684f5"]
    assert table.labels[0].code.value == "3341006"
    assert table.ignore == 255
    assert table.schemes["lung"].sides_by_position
    assert dict(table.schemes["heart"].medial_open) == {"lung_left": 0.5}
    sets = table.encode(np.array([0, 1, 7, 255]), "lung")
    assert [set(table.sets[s]) for s in sets] == [{0}, {1, 2}, {2}, {0, 1, 2}]


@pytest.mark.parametrize(
    ("extra", "path", "text"),
    [
        ("ignore_value: 2", "labels.lung_left.value", "the value 2 is ignore_value"),
        ("label_schemes: {x: {values: {1: liver}}}", "label_schemes.x.values.1", "no label `liver`"),
        ("label_schemes: {x: {values: {1: [liver]}}}", "label_schemes.x.values.1.0", "no label `liver`"),
        (
            "label_schemes: {x: {values: {1: lung_left}, sides_by_position: true}}",
            "label_schemes.x.sides_by_position",
            "a value that names a left label and its pair",
        ),
        (
            "label_schemes: {x: {values: {1: lung_left}, medial_open: {lung: 0.5}}}",
            "label_schemes.x.medial_open.lung",
            "no label `lung`",
        ),
        (
            "postprocess: [{use: keep_largest, labels: [lungs]}]",
            "postprocess.0.labels.0",
            "did you mean `lung`?",
        ),
        ("postprocess: [{use: fill_holes, labels: [lung]}]", "postprocess.0.labels.0", "no label `lung`"),
        ("evaluation: {require: {heart: {dice: 0.9}}}", "evaluation.require.heart", "no label `heart`"),
        ("evaluation: {structures: [lung, heart]}", "evaluation.structures.1", "no label `heart`"),
        ("flags: {expected: [heart]}", "flags.expected.0", "no label `heart`"),
        ("inference: {refine: {labels: [heart]}}", "inference.refine.labels.0", "no label `heart`"),
        ("export: [nifti, dicom_seg]", "labels.lung_left", "needs a coded concept"),
        (
            "inference: {window: [64, 64, 64]}",
            "inference.window",
            "has 3 axes where data.source makes chest_xray",
        ),
        ("preprocess: [{use: resize, size: [128, 128, 128]}]", "preprocess.0.size", "has 3 axes"),
        ("preprocess: [{use: orient, to: RAS}]", "preprocess.0.to", "has 3 axes"),
        ("inference: {flip_axes: [2]}", "inference.flip_axes", "the axes are 0 to 1"),
        ("inference: {window: [16, 16]}", "inference.window", "edges of at least 64"),
        ("preprocess: [{use: resize, size: [32, 32]}]", "preprocess.0.size", "edges of at least 64"),
        (
            "pacs: {to: [{use: dimse, host: h, called_ae_title: A}], send: [rtstruct]}",
            "pacs.send.0",
            "rtstruct is not written; add rtstruct to export",
        ),
    ],
)
def test_conflicts_name_the_setting_to_change(tmp_path: Path, extra, path, text):
    problems = found(tmp_path, f"{extra}\n")
    assert list(problems) == [path]
    assert text in problems[path]


@pytest.mark.parametrize(
    ("overrides", "path", "text"),
    [
        (
            ["regions.both=[lung_rigth]"],
            "regions.both.0",
            "no label `lung_rigth`, did you mean `lung_right`?",
        ),
        (["regions.lung_left=[lung_left]"], "regions.lung_left", "`lung_left` is taken"),
        (["regions.both=[lung_left, lung_left]"], "regions.both", "stands twice"),
        (["training=null"], "model", "says neither start_from"),
        (["model={use: small_unet, cell: [2, 2, 1]}"], "model.cell", "has 3 axes where data.source"),
        (
            ["model={use: unet, channels: [8, 16], strides: [[2, 2, 1]]}", "inference.window=[64, 64]"],
            "model.strides",
            "has 3 axes where data.source",
        ),
        (["labels.lung_left.value=1"], "labels.lung_left.value", "the value 1 is that of lung_right"),
        (["labels.lung_left.pair=null"], "labels.lung_right.pair", "lung_left does not name it back"),
        (
            ["labels.lung_left.pair=lung_left"],
            "labels.lung_left.pair",
            "a pair is the label on the other side",
        ),
        (["labels.lung_left.side=right"], "labels.lung_left.pair", "found right and right"),
        (["labels.lung_left.pair=heart"], "labels.lung_left.pair", "no label `heart`"),
        (
            ["data.split={use: holdout, training: 0.8, validation: 0, test: 0.2}"],
            "data.split.validation",
            "keep: last",
        ),
        (
            ["training.loss={use: dice_ce, class_weights: {heart: 2}}"],
            "training.loss.class_weights.heart",
            "no label",
        ),
        (
            ["data.split={use: holdout, training: 0.8, validation: 0.2, test: 0}"],
            "data.split.test",
            "evaluation.cases is test, but the share is 0",
        ),
        (
            ["data.source={use: folder, images: x, scheme: lungs}"],
            "data.source.scheme",
            "label_schemes has no `lungs`; it has: none",
        ),
    ],
)
def test_conflicts_of_overrides(tmp_path: Path, overrides, path, text):
    problems = found(tmp_path, "", *overrides)
    assert text in problems[path]


def test_measure_of_sides_needs_a_pair(tmp_path: Path):
    unpaired = [
        "labels.lung_left.pair=null",
        "labels.lung_right.pair=null",
        "measure=[area, left_right_ratio]",
    ]
    assert "pair" in found(tmp_path, "", *unpaired)["measure.1"]


def test_conflicts_are_told_beside_other_mistakes(tmp_path: Path):
    problems = found(
        tmp_path, "trainig: {}\nevaluation: {require: {heart: {dice: 0.9}}}\nreport: {cases: some}\n"
    )
    assert set(problems) == {"trainig", "evaluation.require.heart", "report.cases"}


def test_three_axes_are_fine_where_all_agree(tmp_path: Path):
    load(
        tmp_path,
        "preprocess: [{use: orient, to: RAS}, {use: resize, size: [64, 64, 64]}]\n"
        "inference: {window: [64, 64, 64]}\n",
        "data.source={use: folder, images: x}",
    )


@pytest.mark.parametrize(
    ("override", "text"),
    [
        ("medseg=2", "needs 1, found 2"),
        ("name=a/b", "needs text that matches"),
        ("labels={}", "needs a list of at least 1"),
        ("labels={all: {value: 1}}", "`all` has a meaning of its own"),
        ("labels={1x: {value: 1}}", "the key `1x` must be text that matches"),
        ("labels={a: {value: 0}}", "needs a number of at least 1, found 0"),
        ("labels={a: {value: 1, code: {scheme: SCT, value: 8, meaning: Heart}}}", "write it in quotes"),
        ("labels={a: {value: 1, color: red}}", "needs text that matches"),
        ("compute.device=gpu", "needs one of 'auto', 'cpu', 'cuda' or text that matches ^cuda:[0-9]{1,3}$"),
        ("compute.workers=-1", "needs 'auto' or a number of at least 0, found -1"),
    ],
)
def test_values_out_of_place(tmp_path: Path, override, text):
    (problem,) = found(tmp_path, "", "regions={}", override).values()
    assert text in problem


def test_conflicts_hold_for_configs_made_in_python(tmp_path: Path):
    values = load(tmp_path).model_dump()
    with pytest.raises(ValidationError, match=r"regions\.lung\.0: no label"):
        RunConfig(**{**values, "regions": {"lung": ("heart",)}})


def test_colour_is_refused_only_where_gray_is_expected_and_not_made(tmp_path: Path):
    assert not load(tmp_path).refuses_colour
    assert load(tmp_path, "", "data.gray=true").refuses_colour
    assert not load(tmp_path, "preprocess: [gray]\n", "data.gray=true").refuses_colour


@pytest.mark.parametrize("mode", ["none", "tested"])
def test_a_fold_that_chooses_nothing_needs_the_last_epoch(tmp_path: Path, mode: str):
    split = f"data.split={{use: folds, validation: {mode}, fold: all}}"
    problems = found(tmp_path, "", split, "training.early_stop={patience: 3}", "evaluation.cases=validation")
    assert set(problems) == {"data.split.validation", "evaluation.cases"}
    assert "every case is a test case of its fold" in problems["evaluation.cases"]
    assert mode in problems["data.split.validation"]
    config = load(tmp_path, "", split, "training.keep=last")
    assert config.data.split.fold == "all"


def test_all_folds_need_a_training(tmp_path: Path):
    text = "data.split={use: folds, fold: all}"
    problems = found(tmp_path, "", text, "training=null", "model.start_from=chest-xray-lungs")
    assert "no `training`" in problems["data.split.fold"]


def test_clean_up_may_be_left_to_the_predictions(tmp_path: Path):
    assert load(tmp_path, "postprocess: auto\n").postprocess == "auto"
