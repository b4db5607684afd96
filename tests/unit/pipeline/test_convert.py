"""medseg convert: round trips through files, judged by other readers, and directions that do not exist."""

from __future__ import annotations

import json

import highdicom as hd
import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk

from medseg.data.dicom_phantoms import asymmetric_phantom, write_series
from medseg.errors import ConfigError, GeometryError, InputError, LabelError
from medseg.pipeline.convert import ConvertOptions, checked_choices, convert

SHAPE = (13, 11, 10)
TURN = np.array([[0.36, 0.48, -0.8], [-0.8, 0.6, 0.0], [0.48, 0.64, 0.6]])
OBLIQUE = np.eye(4)
OBLIQUE[:3, :3] = TURN @ np.diag([0.8, 1.1, 2.5])
OBLIQUE[:3, 3] = (-12.0, 31.0, 100.0)
SHEARED = OBLIQUE.copy()
SHEARED[:3, 2] += 0.5 * OBLIQUE[:3, 1]
LABELS = """labels:
  liver: {value: 1, code: {scheme: SCT, value: "10200004", meaning: Liver}}
  spleen: {value: 2, code: {scheme: SCT, value: "78961009", meaning: Spleen}}
  aorta: {value: 3, code: {scheme: SCT, value: "15825003", meaning: Aorta}}
"""


@pytest.fixture
def study(tmp_path):
    """A series, its mask as NIfTI on the volume's own grid, and a label file."""
    values, labels = asymmetric_phantom(SHAPE)
    write_series(tmp_path / "ct", values, OBLIQUE, order="shuffled")
    convert(tmp_path / "ct", tmp_path / "ct.nii.gz", ConvertOptions())
    image = nib.load(tmp_path / "ct.nii.gz")
    found = np.asarray(image.dataobj)
    mask = np.select([found == 300, found == 600, found == 900], [1, 2, 3]).astype(np.uint8)
    assert np.bincount(mask.ravel()).tolist() == np.bincount(labels.ravel()).tolist()
    nib.save(nib.Nifti1Image(mask, image.affine), tmp_path / "mask.nii.gz")
    (tmp_path / "labels.yaml").write_text(LABELS)
    return tmp_path


def with_reference(study, **options):
    return ConvertOptions(reference=study / "ct", labels=study / "labels.yaml", **options)


@pytest.mark.parametrize("ending", [".nii", ".nii.gz", ".nrrd", ".mha"])
def test_a_series_becomes_an_image_that_others_place_alike(study, ending):
    convert(study / "ct", study / f"out{ending}", ConvertOptions())
    ours = sitk.ReadImage(str(study / f"out{ending}"))
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(study / "ct")))
    theirs = reader.Execute()
    np.testing.assert_array_equal(sitk.GetArrayFromImage(ours), sitk.GetArrayFromImage(theirs))
    np.testing.assert_allclose(ours.GetOrigin(), theirs.GetOrigin(), atol=1e-3)
    np.testing.assert_allclose(ours.GetDirection(), theirs.GetDirection(), atol=1e-5)
    np.testing.assert_allclose(ours.GetSpacing(), theirs.GetSpacing(), rtol=1e-5)


@pytest.mark.parametrize("kind", ["dicom-seg", "dicom-seg-labelmap", "dicom-seg-fractional", "rtstruct"])
def test_a_mask_goes_to_dicom_and_back(study, kind):
    convert(study / "mask.nii.gz", study / "out.dcm", with_reference(study, to=kind))
    convert(study / "out.dcm", study / "back.nii.gz", ConvertOptions(reference=study / "ct"))
    before, after = nib.load(study / "mask.nii.gz"), nib.load(study / "back.nii.gz")
    np.testing.assert_array_equal(np.asarray(after.dataobj), np.asarray(before.dataobj))
    np.testing.assert_allclose(after.affine, before.affine, atol=1e-3)
    sidecar = json.loads((study / "back.json").read_text())
    assert [item["name"] for item in sidecar["labels"]] == ["liver", "spleen", "aorta"]
    assert [item["code"]["value"] for item in sidecar["labels"]] == ["10200004", "78961009", "15825003"]


def test_a_mask_in_another_axis_order_gives_the_same_seg(study):
    image = nib.load(study / "mask.nii.gz")
    nib.save(nib.as_closest_canonical(image), study / "ras.nii.gz")
    for name in ("mask", "ras"):
        convert(study / f"{name}.nii.gz", study / f"{name}.dcm", with_reference(study))
    first, second = (hd.seg.segread(study / f"{name}.dcm") for name in ("mask", "ras"))
    np.testing.assert_array_equal(first.pixel_array, second.pixel_array)


def test_the_same_mask_is_the_same_instance_and_another_one_is_not(study):
    convert(study / "mask.nii.gz", study / "a.dcm", with_reference(study))
    convert(study / "mask.nii.gz", study / "b.dcm", with_reference(study))
    assert (study / "a.dcm").read_bytes() == (study / "b.dcm").read_bytes()
    image = nib.load(study / "mask.nii.gz")
    changed = np.asarray(image.dataobj).copy()
    changed[0, 0, 0] = 1
    nib.save(nib.Nifti1Image(changed, image.affine), study / "c.nii.gz")
    convert(study / "c.nii.gz", study / "c.dcm", with_reference(study))
    uids = {hd.seg.segread(study / f"{name}.dcm").SOPInstanceUID for name in "abc"}
    assert len(uids) == 2


def test_a_shifted_mask_is_refused_and_resampled_on_request(study):
    image = nib.load(study / "mask.nii.gz")
    shifted = image.affine.copy()
    shifted[:3, 3] += 0.3
    nib.save(nib.Nifti1Image(np.asarray(image.dataobj), shifted), study / "shifted.nii.gz")
    with pytest.raises(GeometryError, match="affine"):
        convert(study / "shifted.nii.gz", study / "x.dcm", with_reference(study))
    assert not (study / "x.dcm").exists()
    convert(study / "shifted.nii.gz", study / "x.dcm", with_reference(study, resample="nearest"))
    assert (study / "x.dcm").exists()


def test_a_tilted_series_is_sheared_or_straightened(tmp_path):
    values, _ = asymmetric_phantom(SHAPE)
    write_series(tmp_path / "ct", values, SHEARED)
    result = convert(tmp_path / "ct", tmp_path / "sheared.nii.gz", ConvertOptions())
    assert any("sheared" in line for line in result.lines)
    affine = nib.load(tmp_path / "sheared.nii.gz").affine
    assert abs(affine[:3, 1] @ affine[:3, 2]) > 0.1
    convert(tmp_path / "ct", tmp_path / "straight.nii.gz", ConvertOptions(straighten=True))
    straight = nib.load(tmp_path / "straight.nii.gz").affine
    assert abs(straight[:3, 1] @ straight[:3, 2]) < 1e-6
    sitk.ReadImage(str(tmp_path / "straight.nii.gz"))


def test_a_folder_of_all_volumes_goes_on_after_one_that_fails(tmp_path):
    values, _ = asymmetric_phantom(SHAPE)
    write_series(tmp_path / "in" / "good", values, OBLIQUE, uid_root="a")
    paths = write_series(tmp_path / "in" / "gap", values, OBLIQUE, uid_root="b")
    paths[4].unlink()
    result = convert(tmp_path / "in", tmp_path / "out", ConvertOptions())
    assert result.exit_code == 1
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["good.nii.gz"]
    assert any("1 slice is missing" in line for line in result.lines)


@pytest.mark.parametrize(
    ("source", "output", "options", "error", "words"),
    [
        ("mask.nii.gz", "x.dcm", {}, ConfigError, "--reference"),
        ("mask.nii.gz", "x.dcm", {"reference": "ct"}, ConfigError, "--labels"),
        ("mask.nii.gz", "x.dcm", {"reference": "ct.nii.gz", "labels": "labels.yaml"}, InputError, "DICOM"),
        ("ct.nii.gz", "x.dcm", {"reference": "ct", "labels": "labels.yaml"}, LabelError, "mask values"),
        ("ct", "x.tiff", {}, ConfigError, "expected a file that ends in"),
        ("ct", "x.nii.gz", {"to": "rtstruct"}, ConfigError, "ending .dcm"),
        ("ct", "x.dcm", {"to": "nifti"}, ConfigError, "does not go with the ending"),
    ],
)
def test_what_cannot_be_done_is_told_and_nothing_is_written(study, source, output, options, error, words):
    places = {key: study / value for key, value in options.items() if key != "to"}
    rest = {key: value for key, value in options.items() if key == "to"}
    with pytest.raises(error, match=words):
        convert(study / source, study / output, ConvertOptions(**places, **rest))
    assert not (study / output).exists()


def test_words_of_the_command_line_are_checked():
    assert checked_choices("rtstruct", "nearest") == ("rtstruct", "nearest")
    with pytest.raises(ConfigError, match="--to 'seg'"):
        checked_choices("seg", "never")
    with pytest.raises(ConfigError, match="--resample 'linear'"):
        checked_choices(None, "linear")
