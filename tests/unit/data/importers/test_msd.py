"""Folders of the Medical Segmentation Decathlon, and the real hippocampus set."""

from __future__ import annotations

import json

import pytest

from medseg.data.manifest import read_manifest


def test_cases_test_images_and_names(msd, run):
    summary = run(msd())
    assert summary.kind == "msd"
    assert read_manifest(summary.manifest) == summary.cases
    assert [(c.case_id, c.split, c.label and c.label.name) for c in summary.cases] == [
        ("x_1", "train", "x_1.nii.gz"),
        ("x_2", "train", "x_2.nii.gz"),
        ("x_3", "test", None),
    ]
    assert "Left_lung: {value: 1}  # Left lung" in summary.labels_file.read_text()


def test_an_image_of_four_axes_without_channels_is_a_problem(msd, refused, nifti):
    folder = msd()
    nifti(folder / "imagesTr" / "x_1.nii.gz", shape=(4, 5, 3, 2))
    assert "x_1.nii.gz has 4 axes, shape (4, 5, 3, 2)" in refused(folder)


def test_channels_along_a_fourth_axis(msd, run, refused, nifti):
    folder = msd(modality={"0": "FLAIR", "1": "T1w"})
    for name in ("imagesTr/x_1", "imagesTr/x_2", "imagesTs/x_3"):
        nifti(folder / f"{name}.nii.gz", shape=(4, 5, 3, 2))
    summary = run(folder)
    assert [len(case.images) for case in summary.cases] == [1, 1, 1]
    assert "fourth_axis: channels}" in summary.labels_file.read_text()
    assert any("2 channels (FLAIR, T1w) along a fourth axis" in note for note in summary.notes)


def test_wrong_channels_along_a_fourth_axis(msd, refused, nifti):
    folder = msd(modality={"0": "FLAIR", "1": "T1w"})
    for name in ("imagesTr/x_1", "imagesTs/x_3"):
        nifti(folder / f"{name}.nii.gz", shape=(4, 5, 3, 2))
    nifti(folder / "imagesTr" / "x_2.nii.gz", shape=(4, 5, 3, 3))
    nifti(folder / "labelsTr" / "x_1.nii.gz", shape=(5, 4, 3))
    message = refused(folder)
    assert "has the shape (4, 5, 3, 3); expected a fourth axis of 2 channels" in message
    assert "case x_1: image and label do not share a grid" in message


def test_all_problems_are_told_at_once(msd, refused, nifti):
    folder = msd()
    entries = [
        {"image": "./imagesTr/x_1.nii.gz", "label": "./labelsTr/x_1.nii.gz"},
        {"image": "./imagesTr/x_1.nii.gz", "label": "./labelsTr/x_1.nii.gz"},
        {"image": "./imagesTr/x_2.nii.gz"},
        {"image": "./imagesTr/gone.nii.gz", "label": "./labelsTr/x_2.nii.gz"},
        {"image": "../../y.nii.gz", "label": "./labelsTr/x_2.nii.gz"},
        {"label": "./labelsTr/x_2.nii.gz"},
        7,
    ]
    message = refused(msd(training=entries, numTest=4))
    for text in (
        "case x_1: the id stands 2 times",
        "imagesTr/x_1.nii.gz is used 2 times",
        "dataset.json names no label in training[2]",
        "gone.nii.gz does not exist",
        "'../../y.nii.gz' leads out",
        "case training[5]: image: expected a file name",
        "case training[6]: image: expected a file name, found '7'",
        "numTraining is 2, found 7 training cases",
        "numTest is 4, found 1 test case",
    ):
        assert text in message
    assert folder.exists()


def test_files_that_no_list_names_are_noted(msd, run, nifti):
    folder = msd()
    nifti(folder / "imagesTr" / "x_9.nii.gz")
    assert any("1 file in imagesTr that dataset.json does not name" in note for note in run(folder).notes)


def test_lists_of_monai_have_folds_and_channels(msd, run, nifti):
    folder = msd()
    for channel in range(2):
        nifti(folder / "c" / f"y_{channel:04d}.nii")
    entry = {"image": ["c/y_0000.nii", "c/y_0001.nii"], "label": "labelsTr/x_1.nii.gz", "fold": 3}
    about = {
        "training": [entry],
        "test": [],
        "modality": {"0": "a", "1": "b"},
        "numTraining": 1,
        "numTest": 0,
    }
    (case,) = run(msd(**about)).cases
    assert (case.case_id, case.fold, len(case.images)) == ("y", 3, 2)


def test_no_list_is_refused(msd, refused):
    folder = msd(training={})
    assert "has no list `training`" in refused(folder, kind="msd")


def test_the_real_hippocampus_set(shared_data, run, tmp_path):
    folder = shared_data / "hippocampus"
    summary = run(folder, splits=folder / "split.json", root=shared_data, sha256=True)
    assert len(summary.cases) == 200
    assert {case.fold for case in summary.cases} == {0, 1, 2, 3, 4}
    assert read_manifest(summary.manifest, root=shared_data) == summary.cases
    sums = dict(reversed(line.split()) for line in (folder / "checksums.sha256").read_text().splitlines())
    for case in summary.cases:
        assert case.sha256 == sums[f"imagesTr/{case.images[0].name}"]
    folds = json.loads((folder / "split.json").read_text())
    assert all(case.case_id in folds[case.fold]["val"] for case in summary.cases)


@pytest.mark.parametrize("value", ["x", True, 3])
def test_a_wrong_number_of_cases_is_told(msd, refused, value):
    assert "numTraining is" in refused(msd(numTraining=value))
