"""Cross-validation as a run: out-of-fold by the right network, resumed, faults of one fold, the ensemble."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from cohort_files import write_cohort

from medseg.errors import ConfigError, MedsegError, StorageError, TrainingError
from medseg.models.bundle import read_bundle
from medseg.pipeline import folds
from medseg.pipeline.api import run_fold, run_pipeline
from medseg.pipeline.predict_folder import predict_folder
from medseg.pipeline.progress import SilentReporter
from medseg.pipeline.run_folder import RunFolder


class Notes(SilentReporter):
    def __init__(self):
        self.texts: list[str] = []

    def note(self, text):
        self.texts.append(text)


def run(pipeline, output, *overrides, **options):
    result = run_pipeline(pipeline, output=output, overrides=overrides, **options)
    return result, Path(result.facts["run"])


def rows(path):
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream))


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    return write_cohort(tmp_path_factory.mktemp("cohort"))


@pytest.fixture(scope="module")
def whole(cohort, tmp_path_factory):
    """The folder of an unbroken run."""
    result, folder = run(cohort, tmp_path_factory.mktemp("whole"))
    assert result.exit_code == 0
    return folder


def test_every_case_is_predicted_by_the_network_that_never_saw_its_patient(whole):
    table = rows(whole / "evaluation" / "cases.csv")
    fold_of = {row["case_id"]: int(row["fold"]) for row in table}
    assert fold_of == {f"c{n}": n // 2 % 3 for n in range(6)}
    for case_id, fold in fold_of.items():
        record = json.loads((whole / "cases" / case_id / "measurements.json").read_text())
        member = read_bundle(whole / "folds" / str(fold) / "model")
        assert record["fold"] == fold
        assert record["model"]["weights_sha256"] == member.weights_sha256
        assert member.record.training.cases == 4
    summary = json.loads((whole / "evaluation" / "summary.json").read_text())
    assert (summary["cases"], summary["patients"]) == (6, 3)
    assert set(summary["groups"]["fold"]) == {"0", "1", "2"}
    assert summary["structures"]["front"]["dice"]["mean_interval"] is not None


def test_the_bundle_is_the_ensemble_with_out_of_fold_results_and_tuned_clean_up(whole):
    bundle = read_bundle(whole / "model")
    folds_found = [read_bundle(whole / "folds" / str(k) / "model") for k in range(3)]
    for position, single in enumerate(folds_found):
        for name, value in bundle.load_state(position).items():
            np.testing.assert_array_equal(value, single.load_state()[name])
    assert {m.data.split(":")[0] for m in bundle.metrics} >= {"out-of-fold predictions of tiny"}
    assert any("fold 1" in m.data for m in bundle.metrics)
    tuned = json.loads((whole / "postprocess.json").read_text())
    assert tuned["data"] == "out-of-fold predictions, 6 cases"
    assert list(bundle.postprocess) == tuned["steps"]
    assert all(item["after"] >= item["before"] for item in tuned["structures"].values())
    assert len(list((whole / "cache" / "prepared").glob("*.image.npy"))) == 6, "one cache for all folds"


def test_the_report_shows_folds_curves_and_clean_up(whole):
    page = (whole / "report.html").read_text()
    for text in (
        "Subgroups by fold",
        "fold 2",
        "Clean-up tuned on out-of-fold predictions",
        "3 networks, one for each fold",
    ):
        assert text in page
    # Loss and Dice of three folds; reliability curves have no names of their own.
    assert page.count("</polyline>") == 6


def test_a_second_run_does_nothing_and_predict_takes_the_ensemble_or_one_member(whole, cohort, tmp_path):
    result, folder = run(cohort, whole.parents[1])
    assert folder == whole
    assert "up to date" in result.lines[0]
    image = cohort.parent / "image1.nii.gz"
    for fold, expected in ((None, read_bundle(whole / "model")), (2, read_bundle(whole / "model").member(2))):
        output = tmp_path / str(fold)
        predict_folder([image], model=str(whole / "model"), output=output, formats="nifti", fold=fold)
        record = json.loads((output / "image1" / "measurements.json").read_text())
        assert record["model"]["weights_sha256"] == expected.weights_sha256


@pytest.mark.slow
def test_a_run_killed_between_folds_goes_on_and_ends_in_the_same_hash(whole, cohort, tmp_path, monkeypatch):
    def killed(context, fold, _train=folds.train_fold):
        if fold == 1:
            raise KeyboardInterrupt
        return _train(context, fold)

    with monkeypatch.context() as patch:
        patch.setattr(folds, "train_fold", killed)
        with pytest.raises(KeyboardInterrupt):
            run(cohort, tmp_path, until="train")
    (folder,) = (tmp_path / "tiny").glob("2*")
    assert RunFolder(folder / "folds" / "0").stage("train").done
    assert not (folder / "model").exists()
    before = (folder / "folds" / "0" / "training" / "final.safetensors").stat().st_mtime_ns
    run(cohort, tmp_path, until="train")
    assert (folder / "folds" / "0" / "training" / "final.safetensors").stat().st_mtime_ns == before
    assert read_bundle(folder / "model").weights_sha256 == read_bundle(whole / "model").weights_sha256


def test_a_failing_fold_is_told_and_the_others_finish(cohort, tmp_path, monkeypatch):
    def failing(context, fold, _train=folds.train_fold):
        if fold == 0:
            raise TrainingError("the loss is not finite")
        return _train(context, fold)

    notes = Notes()
    with monkeypatch.context() as patch:
        patch.setattr(folds, "train_fold", failing)
        with pytest.raises(TrainingError, match=r"1 of 3 folds .* fold 0: the loss is not finite .*: 1, 2;"):
            run(cohort, tmp_path, until="train", reporter=notes)
    assert "fold 0 failed: the loss is not finite" in notes.texts
    (folder,) = (tmp_path / "tiny").glob("2*")
    assert all(RunFolder(folder / "folds" / k).stage("train").done for k in "12")
    assert not (folder / "model").exists()


@pytest.mark.slow
def test_folds_on_several_machines_share_a_run_and_a_plain_run_gathers(whole, cohort, tmp_path):
    found = {run_fold(cohort, fold, output=tmp_path).facts["run"] for fold in (2, 0)}
    assert len(found) == 1
    folder = Path(found.pop())
    notes = Notes()
    with (
        folds.FoldFolder(folder, 1).locked(),
        pytest.raises(MedsegError, match=r"fold 1: .* is in use by process"),
    ):
        run(cohort, tmp_path, until="train", reporter=notes)
    with pytest.raises(StorageError, match="in use"), folds.FoldFolder(folder, 2).locked():
        run_fold(cohort, 2, output=tmp_path)
    run(cohort, tmp_path, until="train", reporter=notes)
    assert sum("(reused)" in text for text in notes.texts) == 4
    assert read_bundle(folder / "model").weights_sha256 == read_bundle(whole / "model").weights_sha256
    with pytest.raises(ConfigError, match="--fold is 0 to 2 for 3 folds, found 3"):
        run_fold(cohort, 3, output=tmp_path / "none")
    assert not (tmp_path / "none").exists()


@pytest.mark.slow
def test_one_case_per_fold_and_a_class_absent_from_a_fold(tmp_path):
    pipeline = write_cohort(tmp_path / "few", cases=3, per_patient=1, without_back=(1,))
    overrides = ("training.epochs=1", "data.split.validation=none", "evaluation.metrics=[dice]")
    result, folder = run(pipeline, tmp_path / "runs", *overrides)
    assert result.exit_code == 0
    summary = json.loads((folder / "evaluation" / "summary.json").read_text())
    assert summary["structures"]["back"]["dice"]["count"] + len(summary["both_empty"]) == 3
    fold = summary["groups"]["fold"]["1"]["back"]["dice"]
    assert fold["count"] == 1 or fold["undefined"] == {"empty in the prediction and in the reference": 1}


@pytest.mark.slow
def test_a_single_fold_watched_while_it_is_tested_chooses_nothing(cohort, tmp_path):
    notes = Notes()
    overrides = ("data.split.fold=1", "training.epochs=1", "evaluation.metrics=[dice]")
    result, folder = run(cohort, tmp_path, *overrides, reporter=notes)
    assert result.exit_code == 0
    trained = RunFolder(folder).stage("train").summary
    assert trained["best_epoch"] is None
    assert trained["last_dice"] is not None, "the tested fold is watched"
    assert any("no out-of-fold and no validation predictions" in text for text in notes.texts)
    assert read_bundle(folder / "model").postprocess == ()
    assert {row["case_id"] for row in rows(folder / "evaluation" / "cases.csv")} == {"c2", "c3"}


@pytest.mark.slow
def test_a_holdout_tunes_on_its_validation_cases_alone(cohort, tmp_path, monkeypatch):
    from medseg.pipeline import cleaning

    seen = []
    original = cleaning.tuned
    monkeypatch.setattr(
        cleaning,
        "tuned",
        lambda context, groups, load: seen.extend(groups) or original(context, groups, load),
    )
    split = "data.split={use: holdout, training: 0.34, validation: 0.33, test: 0.33}"
    _, folder = run(cohort, tmp_path, split, "training.epochs=1", "evaluation.metrics=[dice]")
    splits = {row["case_id"]: row["split"] for row in rows(folder / "cases.csv")}
    looked_at = {case.case_id for _, cases in seen for case in cases}
    assert looked_at == {case for case, split in splits.items() if split == "validation"}
    assert (
        json.loads((folder / "postprocess.json").read_text())["data"]
        == "predictions of the validation cases, 2 cases"
    )


@pytest.mark.slow
def test_watching_the_tested_fold_does_not_change_the_weights(whole, cohort, tmp_path):
    _, folder = run(cohort, tmp_path, "data.split.validation=none", until="train")
    assert read_bundle(folder / "model").weights_sha256 == read_bundle(whole / "model").weights_sha256
