"""What all layouts share: options, checks, files written."""

from __future__ import annotations

import gzip
import json

import pytest

from medseg.config.load import load_run_config
from medseg.data.importers.front import import_dataset
from medseg.data.importers.records import ImportOptions
from medseg.data.manifest import read_manifest
from medseg.errors import ConfigError, ManifestError


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"suffixes": ("T1w",)}, "--suffix is for bids, this data set is read as msd"),
        ({"strip": ("x",)}, "--strip is for folders"),
        ({"label_names": {1: "a"}}, "--label-name is for bids and folders"),
        ({"patient_pattern": "x"}, "needs one group"),
        ({"patient_pattern": "("}, "no regular expression"),
    ],
)
def test_options_that_cannot_be_honoured_are_refused(msd, run, tmp_path, options, text):
    with pytest.raises(ConfigError, match=text):
        run(msd(), **options)
    assert not (tmp_path / "out").exists()


def test_existing_files_are_kept_unless_overwritten(msd, run):
    summary = run(msd())
    summary.manifest.unlink()
    with pytest.raises(ConfigError, match=r"m\.labels\.yaml exists"):
        run(msd())
    assert run(msd(), overwrite=True).manifest.exists()


def test_the_manifest_is_a_csv(msd, tmp_path):
    with pytest.raises(ConfigError, match=r"is a \.csv file"):
        import_dataset(msd(), tmp_path / "m.txt", ImportOptions())


def test_an_unknown_layout_names_those_that_are_known(tmp_path, refused):
    assert "no layout that is known" in refused(tmp_path)
    assert "no such folder" in refused(tmp_path / "gone")


def test_patient_ids_come_from_the_pattern(msd, run):
    summary = run(msd(), patient_pattern=r"^(x)_", test=False)
    assert {case.patient_id for case in summary.cases} == {"x"}
    assert not any("patient of its own" in note for note in summary.notes)


def test_a_pattern_that_finds_nothing_is_told_per_case(msd, refused):
    message = refused(msd(), patient_pattern=r"_([12])")
    assert "1 problem\n" in message
    assert "case x_3: --patient-pattern" in message


def test_a_patient_may_not_be_in_training_and_test(msd, refused):
    assert "one patient is in several splits: x_1 (train), x_2 (train), x_3 (test)" in refused(
        msd(), patient_pattern="(x)"
    )


def test_a_patient_may_not_be_in_two_folds(msd, refused, tmp_path):
    splits = [{"train": ["x_2"], "val": ["x_1"]}, {"train": ["x_1"], "val": ["x_2"]}]
    (tmp_path / "s.json").write_text(json.dumps(splits))
    message = refused(msd(), splits=tmp_path / "s.json", patient_pattern="(x)", test=False)
    assert "one patient is in several folds: x_1 (0), x_2 (1)" in message


def test_root_must_hold_all_files(msd, run, refused, tmp_path):
    assert "is not inside --root" in refused(msd(), root=tmp_path / "other")
    summary = run(msd(), root=tmp_path)
    assert "Task99_Toy/imagesTr/x_1.nii.gz" in summary.manifest.read_text()
    assert f'root: "{tmp_path}"' in summary.labels_file.read_text()
    assert read_manifest(summary.manifest, root=tmp_path) == summary.cases


def test_grids_are_compared_by_header_alone(msd, refused, run):
    folder = msd()
    path = folder / "labelsTr" / "x_1.nii.gz"
    whole = gzip.decompress(path.read_bytes())
    path.write_bytes(gzip.compress(whole[:400]))  # the voxels are cut off, the header is whole
    assert len(run(folder, overwrite=True).cases) == 3
    path.write_bytes(gzip.compress(whole[:300]))
    with pytest.raises(ManifestError, match=r"case x_1: .*x_1\.nii\.gz: expected a NIfTI header"):
        run(folder, overwrite=True)
    path.write_bytes(b"")
    assert len(run(folder, overwrite=True, check=False).cases) == 3


def test_a_shape_and_a_shift_are_named_with_both_files(msd, refused, nifti):
    folder = msd()
    nifti(folder / "labelsTr" / "x_1.nii.gz", shape=(5, 4, 3))
    nifti(folder / "labelsTr" / "x_2.nii.gz", shift=0.02)
    message = refused(folder)
    assert "imagesTr/x_1.nii.gz has 4 x 5 x 3 voxels" in message
    assert "labelsTr/x_1.nii.gz has 5 x 4 x 3 voxels" in message
    assert "case x_2: image and label do not share a grid" in message


def test_a_shift_within_the_tolerance_and_a_last_axis_of_one_pass(msd, run, nifti):
    folder = msd()
    nifti(folder / "labelsTr" / "x_1.nii.gz", shift=0.005)
    nifti(folder / "labelsTr" / "x_2.nii.gz", shape=(4, 5, 3, 1))
    assert len(run(folder).cases) == 3


def test_nothing_is_left_when_every_case_is_broken(msd, refused):
    folder = msd(training=[], numTraining=0, test=["./imagesTs/gone.nii.gz"])
    message = refused(folder, skip_broken=True)
    assert "gone.nii.gz does not exist" in message
    assert "no case is left to write" in message


def test_terminal_codes_in_names_are_not_passed_on(nnunet, refused):
    message = refused(nnunet(dataset={"a\x1b[2J\nb": {"images": []}}, numTraining=1))
    assert "case a?[2J?b" in message


def test_progress_is_told_for_headers_and_checksums(msd, tmp_path):
    seen = []
    import_dataset(
        msd(), tmp_path / "m.csv", ImportOptions(sha256=True), progress=lambda *step: seen.append(step)
    )
    assert seen[0] == (0, 3, "x_1")
    assert len(seen) == 6


def test_the_labels_file_may_be_pasted_into_a_pipeline(nnunet, run):
    labels = {"background": 0, "Left kidney": 1, "tumour": 2, "both": [1, 2], "ignore": 3}
    summary = run(nnunet(labels=labels))
    text = summary.labels_file.read_text()
    (data,) = (line.removeprefix("# ") for line in text.splitlines() if line.startswith("# data:"))
    pipeline = summary.manifest.with_name("toy.yaml")
    pipeline.write_text(f"medseg: 1\nname: toy\n{data}\nmodel: small_unet\ntraining: {{}}\n{text}")
    config = load_run_config(pipeline).config
    table = config.label_table()
    assert table.names == ("background", "Left_kidney", "tumour")
    assert (dict(table.regions), table.ignore) == ({"both": ("Left_kidney", "tumour")}, 3)
    source = config.data.source
    assert read_manifest(source.path, root=source.root) == summary.cases
