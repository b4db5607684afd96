"""BIDS trees: entities, derivatives, tables."""

from __future__ import annotations

import pytest

from medseg.data.importers.bids_names import name_parts, read_tsv
from medseg.data.manifest import read_manifest
from medseg.errors import ConfigError, ManifestError


def test_sessions_patients_columns_and_names(bids, run):
    summary = run(bids, suffixes=("T1w",))
    assert summary.kind == "bids"
    assert read_manifest(summary.manifest) == summary.cases
    assert [(c.case_id, c.patient_id) for c in summary.cases] == [
        ("sub-01_ses-1", "sub-01"),
        ("sub-01_ses-2", "sub-01"),
        ("sub-02_ses-1", "sub-02"),
    ]
    assert [c.columns for c in summary.cases[1:]] == [
        {"age": "41", "participant_split": "A"},
        {"age": "", "participant_split": "B"},
    ]
    text = summary.labels_file.read_text()
    assert 'Gray_Matter: {value: 1, color: "#ff0000"}  # Gray Matter' in text
    assert "white: {value: 2}" in text


def test_several_suffixes_are_channels_in_their_order(bids, run, refused):
    (bids / "sub-02" / "ses-1" / "anat" / "sub-02_ses-1_FLAIR.nii.gz").unlink()
    summary = run(bids, suffixes=("FLAIR", "T1w"), skip_broken=True)
    assert [[p.name for p in c.images] for c in summary.cases] == [
        [f"sub-01_ses-{n}_FLAIR.nii.gz", f"sub-01_ses-{n}_T1w.nii.gz"] for n in (1, 2)
    ]
    assert summary.problems == ("case sub-02_ses-1: expected one image sub-02_ses-1_FLAIR, found none",)


def test_a_suffix_is_needed(bids, run):
    with pytest.raises(ConfigError, match="needs --suffix"):
        run(bids)


def test_masks_of_another_space_or_contrast_are_left_out(bids, run, nifti):
    home = bids / "derivatives" / "prep" / "sub-01" / "ses-1" / "anat"
    nifti(home / "sub-01_ses-1_space-MNI152NLin2009cAsym_dseg.nii.gz", shape=(2, 2, 2))
    nifti(home / "sub-01_ses-1_T2w_label-lesion_mask.nii.gz")
    summary = run(bids, suffixes=("T1w",))
    assert len(summary.cases) == 3
    assert any("1 mask in another space" in note for note in summary.notes)


def test_several_masks_are_ambiguous_until_one_is_chosen(bids, run, refused, nifti):
    home = bids / "derivatives" / "prep" / "sub-01" / "ses-1" / "anat"
    mask = nifti(home / "sub-01_ses-1_desc-brain_mask.nii.gz")
    message = refused(bids, suffixes=("T1w",))
    assert "case sub-01_ses-1: several masks" in message
    assert "choose with --label-pattern" in message
    summary = run(bids, suffixes=("T1w",), label_pattern="prep/*", keep_unlabelled=True)
    assert [case.label for case in summary.cases] == [mask, None, None]
    assert "brain: {value: 1}" in summary.labels_file.read_text()


def test_a_mask_of_no_run_belongs_to_the_only_image_or_to_none(bids, run, refused, nifti):
    anat = bids / "sub-02" / "ses-1" / "anat"
    (anat / "sub-02_ses-1_T1w.nii.gz").rename(anat / "sub-02_ses-1_run-1_T1w.nii.gz")
    assert run(bids, suffixes=("T1w",), overwrite=True).cases[2].label is not None
    nifti(anat / "sub-02_ses-1_run-2_T1w.nii.gz")
    with pytest.raises(ManifestError, match="may belong to sub-02_ses-1_run-1, sub-02_ses-1_run-2"):
        run(bids, suffixes=("T1w",), overwrite=True)


def test_a_mask_belongs_to_the_image_of_its_very_entities(bids, run, nifti):
    nifti(bids / "sub-02" / "ses-1" / "anat" / "sub-02_ses-1_run-2_T1w.nii.gz")
    nifti(bids / "derivatives" / "manual" / "sub-02" / "sub-02_ses-1_run-2_dseg.nii.gz")
    summary = run(bids, suffixes=("T1w",))
    masks = {case.case_id: case.label.name for case in summary.cases}
    assert masks["sub-02_ses-1"] == "sub-02_ses-1_space-orig_dseg.nii.gz"
    assert masks["sub-02_ses-1_run-2"] == "sub-02_ses-1_run-2_dseg.nii.gz"


def test_missing_masks_and_masks_without_image_are_told(bids, refused, nifti):
    home = bids / "derivatives" / "manual"
    (home / "sub-02" / "ses-1" / "anat" / "sub-02_ses-1_space-orig_dseg.nii.gz").unlink()
    nifti(home / "sub-09" / "anat" / "sub-09_dseg.nii.gz")
    nifti(bids / "sub-01" / "ses-1" / "anat" / "sub-01_ses-1_T1w.nii")
    message = refused(bids, suffixes=("T1w",))
    assert "case sub-02_ses-1: the image has no mask" in message
    assert "sub-09_dseg.nii.gz has no image" in message
    assert "case sub-01_ses-1: expected one image sub-01_ses-1_T1w, found" in message
    assert "no image *_PD" in refused(bids, suffixes=("PD",))


def test_the_nearest_table_names_a_mask_and_contradictions_are_fatal(bids, run, refused):
    home = bids / "derivatives" / "manual" / "sub-02"
    (home / "dseg.tsv").write_text("index\tname\n1\twhite\n2\tgray\n")
    message = refused(bids, suffixes=("T1w",), skip_broken=True)
    assert "the value 1 is Gray Matter in" in message
    assert "sub-02" in message


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("participants.tsv", "id\nsub-01\n", "expected a column participant_id"),
        ("participants.tsv", "participant_id\tage\nsub-01\n", "row 1 has 1 cells, the header has 2"),
        ("participants.tsv", "participant_id\nsub-01\n01\n", "names a subject twice"),
        ("derivatives/manual/dseg.tsv", "index\tname\n1\ta\n1\tb\n", "the index 1 stands twice"),
        ("derivatives/manual/dseg.tsv", "index\tname\nx\ta\n", "needs an index"),
        ("derivatives/manual/dseg.tsv", "index\tindex\n1\t1\n", "name each column once"),
    ],
)
def test_bad_tables_are_problems(bids, refused, name, text, message):
    (bids / name).write_text(text)
    assert message in refused(bids, suffixes=("T1w",))


def test_parts_of_a_name():
    assert name_parts("sub-01_acq-x-y_T2w_seg-manual") == (
        {"sub": "01", "acq": "x-y", "seg": "manual"},
        ("T2w",),
    )


def test_a_table_keeps_quotes_and_drops_empty_lines(tmp_path):
    path = tmp_path / "t.tsv"
    path.write_text('a\tb\r\n\r\n"x\tn/a\r\n', newline="")
    assert read_tsv(path) == [{"a": '"x', "b": ""}]


def test_neuropoly_names_are_found_by_pattern(bids, run, nifti):
    for subject in ("sub-01_ses-1", "sub-01_ses-2", "sub-02_ses-1"):
        nifti(
            bids
            / "derivatives"
            / "labels"
            / subject.split("_")[0]
            / "anat"
            / f"{subject}_T1w_seg-manual.nii.gz"
        )
        nifti(
            bids
            / "derivatives"
            / "labels"
            / subject.split("_")[0]
            / "anat"
            / f"{subject}_FLAIR_seg-manual.nii.gz"
        )
    summary = run(
        bids, suffixes=("T1w",), label_pattern="labels/*_seg-manual.nii.gz", label_names={1: "cord"}
    )
    assert all(case.label.name == f"{case.case_id}_T1w_seg-manual.nii.gz" for case in summary.cases)
    assert "cord: {value: 1}" in summary.labels_file.read_text()
