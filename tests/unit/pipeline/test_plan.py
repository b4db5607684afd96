"""Stage `plan`: what it decides, writes, recalls and refuses. Only one test trains the steps of the probe."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from cohort_files import write_cohort
from typer.testing import CliRunner

from medseg.cli import app
from medseg.config import load_run_config
from medseg.errors import ConfigError, ManifestError, StorageError
from medseg.memory import peak_memory_bytes
from medseg.pipeline import probe
from medseg.pipeline.api import dry_run_pipeline, run_pipeline
from medseg.pipeline.progress import SilentReporter
from medseg.planning.cost import ProbeResult
from medseg.planning.plan import read_plan

AUTOS = """\
medseg: 1
name: tiny
data:
  source: {use: manifest, path: cases.csv}
  split: {use: folds, count: 3, fold: 0}
labels: {front: {value: 1}, back: {value: 2}}
preprocess: auto
augment: auto
model: auto
training: auto
inference: {window: auto}
budget: {ram: 3GB, time: 10min}
evaluation: {metrics: [dice], samples: 100}
report: {cases: none}
compute: {threads: 1, workers: 0, device: cpu}
"""
TOOK = ProbeResult(
    step_s=0.1,
    epoch_end_s=0.02,
    validation_s=0.1,
    validation_voxels=20_000,
    preparation_s=0.05,
    preparation_voxels=40_000,
    other_s=2.0,
    ram_bytes=600 * 10**6,
    start_bytes=400 * 10**6,
    gpu_bytes=None,
    steps=16,
)


class Notes(SilentReporter):
    def __init__(self):
        self.texts: list[str] = []

    def note(self, text):
        self.texts.append(text)


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cohort")
    write_cohort(folder)
    (folder / "auto.yaml").write_text(AUTOS)
    return folder / "auto.yaml"


@pytest.fixture
def measured(monkeypatch):
    """Probes that are not run; each takes what `measured.took` says for its configuration."""

    class Measured:
        configs: list = []  # noqa: RUF012

        def took(self, config):
            return TOOK

        def __call__(self, config, cases, **_):
            self.configs.append(config)
            self.cases = cases
            return self.took(config)

    double = Measured()
    double.configs = []
    monkeypatch.setattr(probe, "measure", double)
    return double


def plan(pipeline, output, *overrides, reporter=None):
    result = run_pipeline(pipeline, output=output, overrides=overrides, until="plan", reporter=reporter)
    return Path(result.facts["run"])


def test_everything_open_is_decided_with_a_reason(cohort, tmp_path, measured):
    folder = plan(cohort, tmp_path)
    found = read_plan(folder)
    assert found.value("preprocess") == [
        {"use": "orient", "to": "RAS"},
        {"use": "standardise", "method": "zscore"},
    ]
    assert found.value("model")["use"] == "unet"
    assert found.value("training.patch_size") == found.value("inference.window") == [24, 24, 20]
    assert found.value("training.samples_per_epoch") % found.value("training.batch_size") == 0
    assert all(decision.reason and not decision.given for decision in found.decisions)
    assert found.value("training.epochs") > 1
    assert 500 < found.prediction.seconds <= 600
    assert found.prediction.ram_bytes >= TOOK.ram_bytes
    assert json.loads((folder / "fingerprint.json").read_text())["fingerprint"]["cases"]


def test_little_time_makes_epochs_short_before_it_is_refused(cohort, tmp_path, measured):
    long = read_plan(plan(cohort, tmp_path))
    short = read_plan(plan(cohort, tmp_path, "budget.time=9s"))
    samples, batch = short.value("training.samples_per_epoch"), short.value("training.batch_size")
    assert batch <= samples < long.value("training.samples_per_epoch")
    assert samples % batch == 0
    assert short.value("training.epochs") >= 4
    reason = next(d.reason for d in short.decisions if d.name == "training.samples_per_epoch")
    assert reason == f"{samples // batch} updates: with more there were no time for several epochs"


def test_the_decided_settings_run_as_they_are_and_are_decided_alike(cohort, tmp_path, measured):
    folder = plan(cohort, tmp_path)
    resolved = load_run_config(folder / "pipeline.resolved.yaml").config
    assert resolved.autos == ()
    again = plan(folder / "pipeline.resolved.yaml", tmp_path / "again")
    other = load_run_config(again / "pipeline.resolved.yaml").config
    assert other.model_dump() == resolved.model_dump()
    assert all(decision.given for decision in read_plan(again).decisions)


def test_a_plan_is_kept_and_recalled_with_its_settings(cohort, tmp_path, measured):
    first = plan(cohort, tmp_path)
    before = (first / "plan.json").read_bytes()
    assert plan(cohort, tmp_path) == first
    assert (first / "plan.json").read_bytes() == before
    assert len(measured.configs) == 1
    stages = {s["stage"]: s for s in dry_run_pipeline(cohort, output=tmp_path).facts["stages"]}
    assert stages["plan"]["reason"] == "up to date"
    assert f"{read_plan(first).value('training.epochs')} epochs" in stages["train"]["action"]


def test_what_comes_after_the_training_is_told(cohort, tmp_path, measured):
    notes = Notes()
    once = read_plan(plan(cohort, tmp_path / "a", "evaluation.calibration=false", reporter=notes))
    looked = read_plan(plan(cohort, tmp_path / "c", "evaluation.calibration=true")).facts["after_training"]
    # Below a ceiling of memory probabilities are looked at by predicting once more.
    twice = read_plan(plan(cohort, tmp_path / "b", "evaluation.calibration=true", "predict.max_ram=16GB"))
    tested = once.facts["after_training"]["predicted"]
    assert once.facts["after_training"] | {"seconds": 0} == {
        "predicted": tested, "calibrating": 0, "again": 0, "seconds": 0,
    }  # fmt: skip
    more = twice.facts["after_training"]
    assert looked | {"seconds": 0} == more | {"again": 0, "seconds": 0}
    assert looked["seconds"] == pytest.approx(
        once.facts["after_training"]["seconds"] * (tested + more["calibrating"]) / tested, abs=0.3
    )
    assert (more["predicted"], more["again"]) == (tested, tested) != (0, 0)
    # 24 x 24 x 20 voxels a window, 20 000 of them in a tenth of a second.
    assert once.facts["after_training"]["seconds"] == pytest.approx(
        tested * 24 * 24 * 20 * 0.1 / 20_000, abs=0.06
    )
    assert more["seconds"] == pytest.approx(
        once.facts["after_training"]["seconds"] * (2 * tested + more["calibrating"]) / tested, abs=0.3
    )
    assert any(f"predicts {tested} images: about" in text for text in notes.texts)
    assert any(f"{tested} of them once more to calibrate" in text for text in twice.notes)


def test_a_dry_run_before_the_plan_says_what_is_open(cohort, tmp_path):
    stages = {s["stage"]: s["action"] for s in dry_run_pipeline(cohort, output=tmp_path).facts["stages"]}
    assert "decide preprocess, augment, model, training.epochs" in stages["plan"]
    assert not list(tmp_path.iterdir())


def test_what_is_given_stays_and_is_said(cohort, tmp_path, measured):
    folder = plan(
        cohort,
        tmp_path,
        "training.epochs=3",
        "training.batch_size=2",
        "model={use: unet, channels: [4, 8]}",
        "training.patch_size=[40, 16, 16]",
        "augment=[]",
    )
    found = read_plan(folder)
    given = {decision.name for decision in found.decisions if decision.given}
    assert given == {
        "augment",
        "model",
        "training.patch_size",
        "training.batch_size",
        "training.epochs",
    }
    config = load_run_config(folder / "pipeline.resolved.yaml").config
    assert (config.training.epochs, config.training.batch_size) == (3, 2)
    assert config.inference.window == (40, 16, 16)
    assert any("is larger than 2 of 2 prepared images" in note for note in found.notes)


def test_tested_cases_are_never_looked_at(cohort, tmp_path, measured):
    folder = plan(cohort, tmp_path)
    seen = {
        c["case_id"] for c in json.loads((folder / "fingerprint.json").read_text())["fingerprint"]["cases"]
    }
    assert seen == {"c4", "c5"}, "fold 0 is tested, fold 1 validates"
    assert {case.case_id for case in measured.cases.cases} == {"c2", "c3", "c4", "c5"}


def test_every_fold_shares_the_time_and_the_plan(cohort, tmp_path, measured):
    one = read_plan(plan(cohort, tmp_path))
    found = read_plan(plan(cohort, tmp_path, "data.split.fold=all"))
    assert found.value("training.epochs") < one.value("training.epochs") / 2
    decision = next(d for d in found.decisions if d.name == "training.epochs")
    assert "for each fold" in decision.reason


def test_a_probe_above_the_budget_makes_the_training_smaller(cohort, tmp_path, measured, monkeypatch):
    # Here the program is that of all tests before.
    monkeypatch.setattr("medseg.pipeline.epoch_budget.peak_memory_bytes", lambda: 4 * 10**8)
    measured.took = lambda config: type(TOOK)(
        **{n: getattr(TOOK, n) for n in TOOK.__slots__ if n != "ram_bytes"},
        ram_bytes=4 * 10**9 if config.training.batch_size > 2 else 10**9,
    )
    found = read_plan(plan(cohort, tmp_path))
    assert found.value("training.batch_size") < measured.configs[0].training.batch_size
    assert found.prediction.ram_bytes < 3 * 10**9


@pytest.mark.parametrize(
    ("overrides", "text"),
    [
        (
            ("budget.time=1s",),
            r"budget.time is 1.0 s, but one epoch .* takes about .* set budget.time to \d+s",
        ),
        (("training.time=0.1s",), "training.time is 0.1 s, but one epoch"),
        (
            ("budget.ram=100MB",),
            r"budget.ram is 100 MB, but the smallest training of these images .* set budget",
        ),
        (("budget.ram=9TB",), "budget.ram is 9000.0 GB, this machine has"),
        (
            (
                "preprocess=[{use: resize, size: [16, 16, 16]}]",
                "model={use: unet, channels: [4, 8, 8, 8, 8, 8]}",
            ),
            "needs edges of at least",
        ),
    ],
)
def test_budgets_and_settings_that_cannot_be_kept_are_one_sentence(
    cohort, tmp_path, measured, overrides, text
):
    with pytest.raises(ConfigError, match=text):
        plan(cohort, tmp_path, *overrides)


def test_labels_that_no_training_case_has_are_said(tmp_path, measured):
    write_cohort(tmp_path / "data", without_back=(4, 5))
    pipeline = tmp_path / "data" / "auto.yaml"
    pipeline.write_text(AUTOS)
    notes = Notes()
    plan(pipeline, tmp_path / "runs", reporter=notes)
    text = "back is in none of the 2 cases of the train split and will not be learnt"
    assert any(text in note for note in notes.texts)


def test_one_case_in_a_split_is_said(tmp_path, measured):
    write_cohort(tmp_path / "data", cases=3, per_patient=1)
    pipeline = tmp_path / "data" / "auto.yaml"
    pipeline.write_text(AUTOS)
    notes = Notes()
    plan(pipeline, tmp_path / "runs", reporter=notes)
    assert any("a single case is in the train split" in note for note in notes.texts)


def test_empty_masks_are_refused(cohort, tmp_path, measured):
    override = "labels={a: {value: 7}}"
    with pytest.raises(ManifestError):
        plan(cohort, tmp_path, override, "ignore_value=null")


@pytest.mark.parametrize("file", ["plan.json", "pipeline.resolved.yaml"])
def test_a_missing_or_damaged_plan_says_how_to_repeat_it(cohort, tmp_path, measured, file):
    folder = plan(cohort, tmp_path)
    (folder / file).unlink()
    with pytest.raises(StorageError, match="--only plan"):
        plan(cohort, tmp_path)
    run_pipeline(cohort, output=tmp_path, until="plan", only=["plan"])
    assert (folder / file).exists()


def test_a_plan_starts_from_a_bundle_with_its_network_and_preprocessing(tmp_path, measured):
    pipeline = tmp_path / "chest.yaml"
    pipeline.write_text(
        "medseg: 1\nname: chest\ndata: {source: {use: phantom, cases: 4}}\n"
        "labels: {lung_right: {value: 1, side: right, pair: lung_left}, "
        "lung_left: {value: 2, side: left, pair: lung_right}}\n"
        "preprocess: auto\naugment: auto\nmodel: {use: auto, start_from: chest-xray-lungs}\ntraining: auto\n"
    )
    found = read_plan(plan(pipeline, tmp_path / "runs"))
    assert [step["use"] for step in found.value("preprocess")] == ["orient", "gray", "normalise", "resize"]
    assert found.value("model")["channels"] == [16, 24, 48, 96, 128]
    assert found.value("model")["start_from"] == "chest-xray-lungs"
    assert found.value("training.patch_size") is None


def test_the_command_prints_table_json_or_yaml(cohort, tmp_path, measured):
    def call(*options):
        found = CliRunner().invoke(app, ["plan", str(cohort), "--output", str(tmp_path), "--quiet", *options])
        assert found.exit_code == 0, found.output
        return found.stdout

    table = call()
    assert "training.batch_size" in table
    assert "predicted: " in table
    shown = json.loads(call("--json"))
    assert shown["plan"]["decisions"][0]["source"] == "chosen"
    resolved = tmp_path / "resolved.yaml"
    resolved.write_text(call("--resolved"))
    assert load_run_config(resolved).config.autos == ()


def test_the_probe_trains_as_the_run_will_and_leaves_its_folder_alone(cohort, tmp_path):
    folder = plan(cohort, tmp_path, "model={use: unet, channels: [4, 8]}", "training.epochs=2")
    found = read_plan(folder)
    assert found.facts["probe"]["steps"] == 12
    assert found.facts["probe"]["step_s"] > 0
    assert found.facts["probe"]["validation_s"] > 0
    # What this process took before, by other tests, counts.
    assert 200e6 < found.prediction.ram_bytes < 1e9 + peak_memory_bytes()
    assert not list((folder / "cache").glob("probe-*"))
    assert not (folder / "training").exists()


def test_a_run_without_training_takes_what_is_open_from_its_model(tmp_path, measured):
    pipeline = tmp_path / "chest.yaml"
    pipeline.write_text(
        "medseg: 1\nname: chest\ndata: {source: {use: phantom, cases: 2}}\n"
        "labels: {lung_right: {value: 1}, lung_left: {value: 2}}\n"
        "preprocess: auto\nmodel: {use: auto, start_from: chest-xray-lungs}\ninference: {window: auto}\n"
    )
    folder = plan(pipeline, tmp_path / "runs")
    found = read_plan(folder)
    assert [decision.name for decision in found.decisions] == ["preprocess", "model", "inference.window"]
    assert found.prediction is None
    assert not measured.configs
    assert load_run_config(folder / "pipeline.resolved.yaml").config.autos == ()
