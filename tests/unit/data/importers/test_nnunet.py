"""nnU-Net raw folders, v1 and v2."""

from __future__ import annotations

import json
import shutil

import pytest

from medseg.data.manifest import read_manifest


def test_cases_channels_and_test_images(nnunet, run):
    summary = run(nnunet())
    assert summary.kind == "nnunet"
    assert read_manifest(summary.manifest) == summary.cases
    a, b, t = summary.cases
    assert [p.name for p in a.images] == ["a_0000.nii.gz", "a_0001.nii.gz"]
    assert (a.label.name, a.split, a.patient_id) == ("a.nii.gz", "train", "a")
    assert (b.case_id, t.case_id, t.split, t.label) == ("b", "t", "test", None)
    text = summary.labels_file.read_text()
    assert "Channels in this order: T1, FLAIR" in text
    assert "liver: {value: 1}" in text


def test_version_1_and_test_masks(nnunet, run, nifti):
    folder = nnunet()
    about = {
        "modality": {"0": "T1", "1": "FLAIR"},
        "labels": {"0": "background", "1": "liver"},
        "training": [{"image": "./imagesTr/a.nii.gz", "label": "./labelsTr/a.nii.gz"}],
        "numTraining": 2,
        "numTest": 1,
    }
    (folder / "dataset.json").write_text(json.dumps(about))
    nifti(folder / "labelsTs" / "t.nii.gz")
    summary = run(folder)
    assert summary.kind == "nnunet"
    assert summary.cases[2].label.name == "t.nii.gz"
    assert {len(case.images) for case in summary.cases} == {2}


def test_without_test_images(nnunet, run):
    assert [case.case_id for case in run(nnunet(), test=False).cases] == ["a", "b"]


def test_other_endings_and_colour_pictures(tmp_path, run):
    folder = tmp_path / "d"
    for name in (
        "imagesTr/a_0000.png",
        "labelsTr/a.png",
        "imagesTr/notes.txt",
        "imagesTr/a.json",
        "labelsTr/.b.png",
    ):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    about = {"channel_names": {"0": "R", "1": "G", "2": "B"}, "labels": {"background": 0, "road": 1}}
    (folder / "dataset.json").write_text(json.dumps(about | {"numTraining": 1, "file_ending": ".png"}))
    summary = run(folder)
    assert [p.name for p in summary.cases[0].images] == ["a_0000.png"]
    assert any("notes.txt" in note for note in summary.notes)
    assert any("not NIfTI were not compared" in note for note in summary.notes)


def test_all_problems_are_told_at_once(nnunet, refused, nifti):
    folder = nnunet(numTraining=7)
    (folder / "imagesTr" / "a_0001.nii.gz").unlink()
    (folder / "imagesTr" / "stray.nii.gz").touch()
    (folder / "labelsTr" / "b.nii.gz").unlink()
    nifti(folder / "labelsTr" / "ghost.nii.gz")
    nifti(folder / "imagesTr" / "c_0000.nii.gz")
    nifti(folder / "imagesTr" / "c_0001.nii.gz")
    nifti(folder / "imagesTr" / "c_0002.nii.gz")
    nifti(folder / "labelsTr" / "c.nii.gz", shift=2)
    shutil.copytree(
        folder / "imagesTr", folder / "imagesTs", dirs_exist_ok=True, ignore=lambda *_: ["stray.nii.gz"]
    )
    message = refused(folder)
    for text in (
        "numTraining is 7, found 3 training cases",
        "case a: channel 0001 (FLAIR) is missing",
        "imagesTr/stray.nii.gz does not end in a channel",
        "case b: the image has no mask",
        "case ghost: the mask labelsTr/ghost.nii.gz has no image",
        "case c: dataset.json names 2 channels, but there is c_0002.nii.gz",
        "case c: image and label do not share a grid",
        "case c: the id stands 2 times",
    ):
        assert text in message


def test_the_key_dataset_names_files(nnunet, run, refused, nifti):
    files = {"images": ["imagesTr/a_0000.nii.gz", "imagesTr/a_0001.nii.gz"], "label": "labelsTr/b.nii.gz"}
    folder = nnunet(dataset={"case-1": files}, numTraining=1)
    first, test = run(folder).cases
    assert (first.case_id, first.label.name, test.split) == ("case-1", "b.nii.gz", "test")


def test_paths_that_leave_the_folder_are_refused(nnunet, refused):
    entries = {
        "up": {"images": ["../secret.nii.gz", "imagesTr/a_0001.nii.gz"], "label": "labelsTr/a.nii.gz"},
        "root": {"images": ["imagesTr/b_0000.nii.gz", "imagesTr/b_0001.nii.gz"], "label": "/etc/passwd"},
        "gone": {
            "images": ["imagesTr/z_0000.nii.gz", "imagesTr/z_0001.nii.gz"],
            "label": "labelsTr/b.nii.gz",
        },
        "none": {},
        "three": {"images": [3, "x"]},
    }
    message = refused(nnunet(dataset=entries, numTraining=5))
    assert "case up: image: the file name '../secret.nii.gz' leads out" in message
    assert "case root: label: the file name '/etc/passwd' leads out" in message
    assert "z_0000.nii.gz does not exist" in message
    assert "case none: dataset.json names no list of images" in message
    assert "case three: image: expected a file name" in message


@pytest.mark.parametrize(
    ("about", "text"),
    [
        ({"channel_names": {"0": "a", "2": "b"}}, "must name the channels 0, 1"),
        ({"channel_names": None}, "names no channels"),
        ({"file_ending": "*"}, "file_ending must be like"),
        ({"dataset": []}, "dataset must map"),
        ({"labels": {"a": 1, "b": 1}}, "same value"),
    ],
)
def test_what_cannot_be_understood_is_refused_also_with_skip_broken(nnunet, refused, about, text):
    assert text in refused(nnunet(**about), skip_broken=True)


def test_skip_broken_leaves_out_and_lists(nnunet, run):
    folder = nnunet(numTraining=3)
    (folder / "labelsTr" / "b.nii.gz").unlink()
    summary = run(folder, skip_broken=True)
    assert [case.case_id for case in summary.cases] == ["a", "t"]
    assert len(summary.problems) == 2
    assert read_manifest(summary.manifest) == summary.cases


def test_splits_become_folds(nnunet, run):
    folder = nnunet()
    splits = [{"train": ["b"], "val": ["a"]}, {"train": ["a"], "val": ["b"]}]
    (folder / "splits_final.json").write_text(json.dumps(splits))
    summary = run(folder)
    assert [case.fold for case in summary.cases] == [0, 1, None]
    assert any("--no-test" in note for note in summary.notes)


def test_one_fold_becomes_a_split(nnunet, run, tmp_path):
    (tmp_path / "s.json").write_text('[{"train": ["b"], "val": ["a"]}]')
    summary = run(nnunet(), splits=tmp_path / "s.json")
    assert [(case.split, case.fold) for case in summary.cases] == [
        ("validation", None),
        ("train", None),
        ("test", None),
    ]


@pytest.mark.parametrize(
    ("splits", "text"),
    [
        ([{"train": ["b"], "val": ["a"]}, {"train": ["b"], "val": ["a"]}], "case b: validates in 0 folds"),
        ([{"train": ["b"], "val": ["a"]}, {"train": ["a"], "val": ["b", "z"]}], "does not have: z"),
        (
            [{"train": [], "val": ["a"]}, {"train": ["a"], "val": ["b"]}],
            "neither trained nor validated on: b",
        ),
        ([{"train": ["a", "b"], "val": ["a"]}, {"train": ["a"], "val": ["b"]}], "listed twice: a"),
        ([], "expected a list of"),
        ([{"train": ["a"]}], 'fold 0 has no list "val"'),
        ({}, "expected a list of"),
    ],
)
def test_splits_that_do_not_fit_are_refused(nnunet, refused, tmp_path, splits, text):
    (tmp_path / "s.json").write_text(json.dumps(splits))
    assert text in refused(nnunet(), splits=tmp_path / "s.json")
