"""Settings that train on from a run: its split, its bundle, a tenth of the rate."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from medseg.config.load import load_run_config, resolved_yaml
from medseg.review.fine_tune import fine_tune_overrides, fine_tune_settings, fine_tune_text
from medseg.review.results import Results

PIPELINE = """\
medseg: 1
name: organs
data: {{source: {{use: phantom, cases: 4}}, split: {split}}}
labels: {{liver: {{value: 1}}}}
model: {{use: unet, channels: [4, 8]}}
training: {{epochs: 3, learning_rate: 2e-3}}
"""


def results(folder: Path, split: str) -> Results:
    folder.mkdir(parents=True)
    (folder / "pipeline.yaml").write_text(PIPELINE.format(split=split))
    config = load_run_config(folder / "pipeline.yaml").config
    return Results(path=folder, kind="run", cases={}, table=config.label_table(), config=config)


def test_a_run_goes_on_with_its_split_its_bundle_and_a_tenth_of_the_rate(tmp_path):
    found = results(tmp_path / 'a "run", here', "{use: holdout}")
    manifest = found.path / "review" / "manifest-v1.csv"
    config, why = fine_tune_settings(found, manifest, [], model=None)
    assert why == ""
    assert config.data.source.path == manifest.resolve()
    assert config.data.split.use == "manifest"
    assert Path(config.model.start_from) == (found.path / "model").resolve()
    assert config.training.learning_rate == pytest.approx(2e-4)
    assert (config.training.epochs, config.model.channels) == (3, (4, 8))
    (tmp_path / "fine_tune.yaml").write_text(fine_tune_text(config))
    again = load_run_config(tmp_path / "fine_tune.yaml").config
    assert resolved_yaml(again) == resolved_yaml(config)


def test_the_resolved_settings_of_a_plan_are_preferred(tmp_path):
    found = results(tmp_path / "run", "{use: holdout}")
    text = (found.path / "pipeline.yaml").read_text()
    (found.path / "pipeline.resolved.yaml").write_text(text.replace("epochs: 3", "epochs: 7"))
    config, _ = fine_tune_settings(found, tmp_path / "m.csv", [], model=None)
    assert config.training.epochs == 7


def test_what_is_trained_from_an_ensemble_is_tested_on_the_fold_that_its_first_member_never_saw(
    tmp_path, monkeypatch
):
    found = results(tmp_path / "run", "{use: folds, count: 4, fold: all}")
    bundle = SimpleNamespace(members=(SimpleNamespace(fold=2), SimpleNamespace(fold=0)))
    monkeypatch.setattr("medseg.review.fine_tune.read_bundle", lambda _: bundle)
    overrides = fine_tune_overrides(found, tmp_path / "m.csv")
    assert "data.split={use: folds, count: 4, fold: 2, validation: next}" in overrides


def test_a_bundle_that_is_not_here_gives_no_settings_but_a_sentence(tmp_path):
    found = results(tmp_path / "run", "{use: holdout}")
    record = {"model": {"name": "no-such-model", "version": "1.0.0", "weights_sha256": "00"}}
    case = SimpleNamespace(record=record)
    alone = Results(path=found.path, kind="predictions", cases={"a": case}, table=found.table)
    config, why = fine_tune_settings(alone, tmp_path / "m.csv", [], model=None)
    assert config is None
    assert "name its folder with --model" in why
