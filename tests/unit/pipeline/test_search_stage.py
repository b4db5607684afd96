"""What the stage `search` refuses, and how its result reaches the stages after it; no training here."""

from __future__ import annotations

from dataclasses import replace

import pytest

from medseg.config import SettingsError, load_run_config
from medseg.config.schema import decided
from medseg.data.manifest import Case
from medseg.errors import ConfigError, ManifestError
from medseg.pipeline import search
from medseg.pipeline.api import dry_run_pipeline
from medseg.pipeline.context import Context
from medseg.pipeline.progress import SilentReporter
from medseg.pipeline.run_folder import RunFolder, StageState

PIPELINE = """medseg: 1
name: searched
data: {source: {use: phantom, cases: 8}}
labels: {lung: {value: 1}}
preprocess: [{use: resize, size: [64, 48]}]
model: {use: unet, channels: [8, 16]}
training: {epochs: 2}
search:
  space: {training.loss: {choices: [dice, ce]}, training.batch_size: {low: 1, high: 3}}
"""


@pytest.fixture
def pipeline(tmp_path):
    path = tmp_path / "p.yaml"
    path.write_text(PIPELINE)
    return path


@pytest.fixture
def context(pipeline, tmp_path):
    config = load_run_config(pipeline).config
    return Context(settings=decided(config), run=RunFolder(tmp_path / "run"), reporter=SilentReporter())


def test_an_earlier_search_gives_its_best_to_the_stages_after_it(context):
    values = {"training.loss": {"use": "ce"}, "training.batch_size": 3}
    context.run.path.mkdir()
    context.run.set_stage("search", StageState(summary={"values": values}))
    search.recall(context)
    assert context.config.training.loss.use == "ce"
    assert context.config.training.batch_size == 3
    assert context.config.search is None


def test_torchrun_is_refused(context, monkeypatch):
    pytest.importorskip("optuna", reason="searches need the extra search")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match=r"started by torchrun; .*search\.parallel"):
        search.run(context)


def test_there_must_be_cases_to_compare_on(context, tmp_path):
    pytest.importorskip("optuna", reason="searches need the extra search")
    case = Case(case_id="a", patient_id="a", images=(tmp_path / "a.png",), label=tmp_path / "m.png")
    context = replace(context, cases=(case,), splits={"a": "train"})
    with pytest.raises(ManifestError, match="no usable case with a mask is in the validation split"):
        search.run(context)


@pytest.mark.parametrize(("then", "last"), [("train_best", "report"), ("stop", "search")])
def test_a_dry_run_tells_the_search_and_what_follows(pipeline, tmp_path, then, last):
    result = dry_run_pipeline(pipeline, output=tmp_path / "runs", overrides=[f"search.then={then}"])
    stages = [stage["stage"] for stage in result.facts["stages"]]
    assert stages[:3] == ["check", "plan", "search"]
    assert stages[-1] == last


def test_a_cross_validation_compares_trials_on_its_first_fold(pipeline, tmp_path):
    split = "data.split={use: folds, count: 4, fold: all}"
    config = load_run_config(pipeline, overrides=[split]).config
    names = "abcd"
    context = Context(
        settings=decided(config),
        run=RunFolder(tmp_path / "run"),
        reporter=SilentReporter(),
        cases=tuple(Case(case_id=n, patient_id=n, images=(tmp_path / n,), label=tmp_path / n) for n in names),
        folds={name: fold for fold, name in enumerate(names)},
    )
    assert context.every_fold
    compared = search._compared(context)
    assert compared.fold == 0
    assert {name: compared.splits[name] for name in "ab"} == {"a": "test", "b": "validation"}
    with pytest.raises(SettingsError, match=r"set data\.split\.validation: next"):
        load_run_config(
            pipeline, overrides=[split.replace("all", "all, validation: none"), "training.keep=last"]
        )
