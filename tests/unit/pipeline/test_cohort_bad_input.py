"""Images and bundles that do not fit: a sentence each, no file, and the case beside them is done."""

from __future__ import annotations

import json
import os

import nibabel
import numpy as np
import pytest
import small_cohorts as small

from medseg.data.phantoms import make_chest_phantom
from medseg.errors import BundleError, ConfigError, StorageError
from medseg.pipeline.predict_folder import predict_folder

GOOD = "good"


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return small.write_small_bundle(tmp_path_factory.mktemp("model") / "bundle", ranges=small.RANGES)


@pytest.fixture
def inputs(tmp_path):
    small.write_nifti(tmp_path / "in" / f"{GOOD}.nii", small.small_image(0))
    return tmp_path / "in"


def predict(inputs, bundle, **arguments):
    arguments = {"formats": "nifti,dicom-seg"} | arguments
    return predict_folder([inputs], model=str(bundle.folder), output=inputs.parent / "out", **arguments)


def refused(inputs, bundle, name="bad", **arguments):
    """The error of the one bad case, once all around it was looked at."""
    result = predict(inputs, bundle, **arguments)
    assert result.exit_code == 1
    cases = {case["case_id"]: case for case in result.facts["cases"]}
    out = inputs.parent / "out"
    assert cases[GOOD].get("error", "") == ""
    assert (out / GOOD / "segmentation.nii.gz").is_file()
    assert sorted(path.name for path in out.iterdir() if path.is_dir()) == [GOOD]
    assert small.leftovers(out) == []
    assert cases[name]["exit_code"] == 3
    assert result.lines[-2:] == ("1 of 2 images failed:", f"  {name}: {cases[name]['error']}")
    return cases[name]["error"]


def verdict(inputs, bundle, name="bad", **arguments):
    """Flags of a case that is done."""
    assert predict(inputs, bundle, **arguments).exit_code == 0
    return json.loads((inputs.parent / "out" / name / "measurements.json").read_text())


def test_nan_is_counted(inputs, bundle):
    array = small.small_image(1).astype(np.float32)
    array[2:4, 3, 4] = np.nan
    small.write_nifti(inputs / "bad.nii", array)
    assert "NaN or infinity in 2 of 4320" in refused(inputs, bundle)


def test_four_axes_are_refused_by_a_model_of_one_channel(inputs, bundle):
    small.write_nifti(inputs / "bad.nii", np.stack([small.small_image(n) for n in (1, 2)], axis=-1))
    assert "expected 2 or 3 axes, found shape (20, 18, 12, 2)" in refused(inputs, bundle)


def test_a_single_slice_is_not_a_volume(inputs, bundle):
    small.write_nifti(inputs / "bad.nii", small.small_image(1, (20, 18, 1)))
    error = refused(inputs, bundle)
    assert "a single slice, of 20 x 18 voxels, model test-organ is for volumes" in error


def test_a_volume_is_not_a_film(inputs, tmp_path):
    film = np.round(255 * make_chest_phantom(5).image).astype(np.uint8)
    nibabel.save(nibabel.Nifti1Image(film[..., None], np.eye(4)), inputs / f"{GOOD}.nii")
    small.write_nifti(inputs / "bad.nii", small.small_image(1, (80, 70, 12)))
    result = predict_folder([inputs], model="chest-xray-lungs", output=tmp_path / "out", formats="png")
    errors = {case["case_id"]: case.get("error", "") for case in result.facts["cases"]}
    assert "a volume of 80 x 70 x 12 voxels, model chest-xray-lungs is for pictures" in errors["bad"]
    assert errors[GOOD] == ""


@pytest.mark.parametrize("accept", [False, True])
def test_another_number_of_channels_is_refused_whatever_is_accepted(tmp_path, accept):
    two = small.write_small_bundle(tmp_path / "bundle", in_channels=2)
    stack = [small.small_image(n) for n in (1, 2)]
    small.write_nifti(tmp_path / "in" / f"{GOOD}.nii", np.stack(stack, axis=-1))
    small.write_nifti(tmp_path / "in" / "bad.nii", small.small_image(1))
    error = refused(tmp_path / "in", two, accept_unlike=accept)
    assert "the image has 1 channel, model test-organ takes 2 channels" in error


def test_a_volume_smaller_than_a_window_is_segmented(inputs, bundle):
    small.write_nifti(inputs / "bad.nii", small.small_image(1, (12, 11, 4)))
    record = verdict(inputs, bundle)
    assert record["image"]["shape"] == [12, 11, 4]
    mask = nibabel.load(inputs.parent / "out" / "bad" / "segmentation.nii.gz")
    assert mask.shape == (12, 11, 4)


def test_a_spacing_of_ten_to_one_is_flagged(inputs, bundle):
    small.write_nifti(inputs / "bad.nii", small.small_image(1), (1.0, 1.0, 10.0))
    record = verdict(inputs, bundle)
    (flag,) = [flag for flag in record["flags"] if flag["code"] == "Q402"]
    assert flag["level"] == "review"
    assert flag["text"] == ("the coarsest spacing of the image is 10 mm, that of training images 1.5 to 3 mm")
    assert (flag["measured"], flag["limit"]) == (10.0, 3.0)
    good = json.loads((inputs.parent / "out" / GOOD / "measurements.json").read_text())
    assert not [flag for flag in good["flags"] if flag["code"] == "Q402"]


def test_a_series_with_most_slices_missing_is_refused_with_the_place(inputs, bundle):
    small.write_ct(inputs / "bad", 1, shape=(20, 18, 60))
    for number, path in enumerate(sorted((inputs / "bad").iterdir())):
        if 10 < number < 50:
            path.unlink()
    error = refused(inputs, bundle)
    assert "not evenly spaced" in error or "missing" in error
    assert " mm" in error


def test_a_study_that_does_not_say_which_volume_takes_no_other_along(inputs, bundle):
    small.write_ct(inputs / GOOD, 1)
    (inputs / f"{GOOD}.nii").unlink()
    small.write_ct(inputs / "bad" / "a", 2, study="1.2.3")
    small.write_ct(inputs / "bad" / "b", 3, study="1.2.3")
    result = predict(inputs, bundle)
    assert result.exit_code == 1, result.lines
    (error,) = [case["error"] for case in result.facts["cases"] if "error" in case]
    assert "choose with --series" in error
    assert (inputs.parent / "out" / GOOD / "segmentation.dcm").is_file()


@pytest.mark.parametrize("damage", ["flipped", "cut", "gone"])
def test_weights_are_checked_before_anything_is_written(inputs, tmp_path, damage):
    bundle = small.write_small_bundle(tmp_path / "bundle")
    path = bundle.folder / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[-5] ^= 0x10
    path.write_bytes(data if damage == "flipped" else data[:-7])
    if damage == "gone":
        path.unlink()
    expected = "cannot be read: No such file" if damage == "gone" else "model.safetensors has SHA-256"
    with pytest.raises(BundleError, match=expected):
        predict(inputs, bundle)
    assert not (tmp_path / "out").exists()


def test_a_ceiling_that_is_too_low_names_the_smallest_that_would_do(inputs, bundle):
    with pytest.raises(ConfigError, match="max_ram is 1 MB, but this image takes at least"):
        predict(inputs, bundle, max_ram="1MB")


def test_an_error_that_is_ours_fails_one_case_without_its_text(inputs, bundle, monkeypatch):
    from medseg.pipeline.model import LoadedModel

    plain = LoadedModel.answer

    def answer(self, volume):
        if volume.source.paths[0].stem == "bad":
            raise ZeroDivisionError("Doe^Jane")
        return plain(self, volume)

    monkeypatch.setattr(LoadedModel, "answer", answer)
    small.write_nifti(inputs / "bad.nii", small.small_image(1))
    result = predict(inputs, bundle)
    errors = {case["case_id"]: case.get("error", "") for case in result.facts["cases"]}
    assert errors["bad"].startswith(
        "internal error, please report it: ZeroDivisionError at test_cohort_bad_input.py:"
    )
    assert "Doe" not in errors["bad"]
    assert errors[GOOD] == ""


def test_wrong_numbers_of_workers_and_a_cluster_without_ray(inputs, bundle, monkeypatch):
    import sys

    with pytest.raises(ConfigError, match="--parallel 0: expected at least 1"):
        predict(inputs, bundle, parallel=0)
    monkeypatch.setitem(sys.modules, "ray", None)
    from medseg.errors import MissingPackageError

    with pytest.raises(MissingPackageError, match=r"pip install 'medseg\[cluster\]'"):
        predict(inputs, bundle, cluster="auto")


@pytest.mark.parametrize(
    "error", [MemoryError(), RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory")]
)
def test_memory_that_runs_out_is_said_and_fails_one_case(inputs, bundle, monkeypatch, error):
    from medseg.pipeline.model import LoadedModel

    plain = LoadedModel.answer

    def answer(self, volume):
        if volume.source.paths[0].stem == "bad":
            raise error
        return plain(self, volume)

    monkeypatch.setattr(LoadedModel, "answer", answer)
    small.write_nifti(inputs / "bad.nii", small.small_image(1))
    result = predict(inputs, bundle)
    cases = {case["case_id"]: case for case in result.facts["cases"]}
    assert cases["bad"]["error"].startswith("the memory of the machine ran out; set --max-ram")
    assert cases["bad"]["exit_code"] == 4
    assert "error" not in cases[GOOD]


def test_whichever_call_to_the_disk_fails_nothing_half_is_left(inputs, bundle, monkeypatch):
    out = inputs.parent / "out"
    calls = {"count": 0, "fail": 0}

    def failing(name):
        plain = getattr(os, name)

        def call(*arguments, **named):
            if name == "mkdir" and os.path.isdir(arguments[0]):
                # That a folder is there already is no failure.
                return plain(*arguments, **named)
            calls["count"] += 1
            if calls["count"] == calls["fail"]:
                raise OSError(28, "No space left on device")
            return plain(*arguments, **named)

        monkeypatch.setattr(os, name, call)

    for name in ("fsync", "rename", "replace", "mkdir"):
        failing(name)
    for number in range(1, 60):
        calls |= {"count": 0, "fail": number}
        result, said = attempt(inputs, bundle)
        if result is not None:
            assert result.exit_code == 0
            assert calls["count"] < number, "a failure was passed over"
            return
        assert "No space left on device" in said
        assert small.leftovers(out) == []
        record = out / GOOD / "measurements.json"
        if record.exists():
            names = {path.name for path in record.parent.iterdir()}
            assert set(json.loads(record.read_text())["files"]) <= names
    raise AssertionError("the calls do not end")


def attempt(inputs, bundle):
    """Result of a run, or what it ended with."""
    try:
        return predict(inputs, bundle, formats="nifti", overwrite=True), ""
    except StorageError as err:
        return None, str(err)
