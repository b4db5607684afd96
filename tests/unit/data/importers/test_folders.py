"""Parallel folders of images and masks."""

from __future__ import annotations

import pytest

from medseg.data.manifest import read_manifest
from medseg.errors import ConfigError


def test_folders_are_matched_and_channels_follow(tmp_path, run, nifti):
    for name in (
        "ct/p1/a.nii.gz",
        "pet/p1/A_img.nii",
        "m/p1/a_mask.nii.gz",
        "ct/b.nii",
        "pet/b.nii",
        "m/seg_B.nii",
    ):
        nifti(tmp_path / name)
    summary = run(
        tmp_path / "ct", labels=tmp_path / "m", channels=(tmp_path / "pet",), label_names={2: "node"}
    )
    assert summary.kind == "folders"
    assert read_manifest(summary.manifest) == summary.cases
    found = {
        c.case_id: [p.relative_to(tmp_path).as_posix() for p in (*c.images, c.label)] for c in summary.cases
    }
    assert found == {
        "b": ["ct/b.nii", "pet/b.nii", "m/seg_B.nii"],
        "p1_a": ["ct/p1/a.nii.gz", "pet/p1/A_img.nii", "m/p1/a_mask.nii.gz"],
    }
    assert "node: {value: 2}" in summary.labels_file.read_text()


def test_everything_unmatched_is_told(tmp_path, refused, nifti):
    for name in (
        "i/a.nii",
        "i/b.nii",
        "i/b.nii.gz",
        "i/c.nii",
        "m/a.nii",
        "m/a_seg.nii",
        "m/d.nii",
        "m/c.nii",
    ):
        nifti(tmp_path / name, shift=1.0 if name == "m/c.nii" else 0.0)
    message = refused(tmp_path / "i", labels=tmp_path / "m")
    assert "case a: a and a.nii, a_seg.nii cannot be told apart" in message
    assert "case b: the image has no mask" in message
    assert "b.nii and b.nii.gz have the same stem" in message
    assert "the mask" in message
    assert "m/d.nii has no image" in message
    assert "case c: image and label do not share a grid" in message
    assert "the affine [0 -1.2 0.5 10; " in message
    assert "the affine [0 -1.2 0.5 11; " in message


def test_masks_may_lie_inside_and_other_files_are_noted(tmp_path, run, nifti):
    nifti(tmp_path / "d" / "a.nii")
    nifti(tmp_path / "d" / "masks" / "a.nii")
    (tmp_path / "d" / "readme.txt").touch()
    summary = run(tmp_path / "d", labels=tmp_path / "d" / "masks")
    assert len(summary.cases) == 1
    assert any("readme.txt" in note for note in summary.notes)
    assert any("does not name its mask values" in note for note in summary.notes)
    assert "# labels: {liver: {value: 1}}" in summary.labels_file.read_text()


def test_images_without_a_mask_may_be_kept(tmp_path, run, nifti):
    for name in ("i/a.nii", "i/b.nii", "m/a.nii"):
        nifti(tmp_path / name)
    summary = run(tmp_path / "i", labels=tmp_path / "m", keep_unlabelled=True)
    assert [case.label is None for case in summary.cases] == [False, True]
    assert "1 case without a mask" in summary.notes


def test_ids_that_share_a_folder_are_refused(tmp_path, refused, nifti):
    for folder in "im":
        nifti(tmp_path / folder / "a_b.nii")
        nifti(tmp_path / folder / "a" / "b.nii")
    assert "case a_b: the id stands 2 times" in refused(tmp_path / "i", labels=tmp_path / "m")


def test_a_semicolon_in_a_name_survives(tmp_path, run, nifti):
    for folder in "im":
        nifti(tmp_path / folder / "a;b.nii")
    summary = run(tmp_path / "i", labels=tmp_path / "m")
    assert read_manifest(summary.manifest) == summary.cases


@pytest.mark.parametrize(("labels", "text"), [(None, "need --labels"), ("i", "must be different")])
def test_folders_that_do_not_go_together(tmp_path, run, nifti, labels, text):
    nifti(tmp_path / "i" / "a.nii")
    with pytest.raises(ConfigError, match=text):
        run(tmp_path / "i", kind="folders", labels=labels and tmp_path / labels)


def test_empty_and_absent_folders(tmp_path, refused, nifti):
    (tmp_path / "i").mkdir()
    nifti(tmp_path / "m" / "a.nii")
    assert "there is no image in" in refused(tmp_path / "i", labels=tmp_path / "m")
    nifti(tmp_path / "i" / "a.nii")
    assert "no such folder" in refused(tmp_path / "i", labels=tmp_path / "gone")


@pytest.mark.parametrize(
    ("images", "masks", "channels", "count"),
    [
        ("ct_lesion/images", "ct_lesion/labels", (), 4),
        ("mr_brats/images_ch0", "mr_brats/labels", ("mr_brats/images_ch1",), 3),
        ("mr_spine/images", "mr_spine/labels", (), 7),
        ("mr_tumour_nrrd/images", "mr_tumour_nrrd/labels", (), 2),
    ],
)
def test_real_folders(shared_data, run, images, masks, channels, count):
    folders = tuple(shared_data / channel for channel in channels)
    summary = run(shared_data / images, labels=shared_data / masks, channels=folders, root=shared_data)
    assert len(summary.cases) == count
    assert read_manifest(summary.manifest, root=shared_data) == summary.cases
    assert all(len({p.name for p in (*c.images, c.label)}) == 1 for c in summary.cases)


def test_a_real_image_without_a_mask(shared_data, refused):
    message = refused(shared_data / "ct_small" / "images", labels=shared_data / "ct_small" / "labels")
    assert "1 problem\n" in message
    assert "case ct_heart: the image has no mask" in message
