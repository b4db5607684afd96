"""DICOM series on disk -> volumes: values, places and refusals, against numbers known beforehand."""

from __future__ import annotations

import json

import numpy as np
import pydicom
import pytest

from medseg.data.dicom_phantoms import asymmetric_phantom, write_series
from medseg.errors import ConfigError, GeometryError, ImageReadError, InputRefusedError, MedsegError
from medseg.io.dicom_series import read_series
from medseg.io.discover import discover
from medseg.io.read import read_image
from medseg.io.select import choose_per_study
from medseg.io.series_rule import SeriesRule
from medseg.pipeline.inspect_folder import inspect_folder

SHAPE = (13, 11, 10)
TURN = np.array([[0.36, 0.48, -0.8], [-0.8, 0.6, 0.0], [0.48, 0.64, 0.6]])
OBLIQUE = np.eye(4)
OBLIQUE[:3, :3] = TURN @ np.diag([0.8, 1.1, 2.5])
OBLIQUE[:3, 3] = (-12.0, 31.0, 100.0)


@pytest.fixture
def voxels():
    return asymmetric_phantom(SHAPE)[0]


def world_values(volume, count=40):
    """(world position, value) of some voxels, whatever the order of the axes."""
    rng = np.random.default_rng(1)
    index = np.stack([rng.integers(0, n, count) for n in volume.spatial_shape])
    places = volume.affine @ np.vstack([index, np.ones(count)])
    return places[:3].T, volume.array[0][tuple(index)]


def value_at(voxels, affine, place):
    index = np.rint(np.linalg.inv(affine) @ [*place, 1.0])[:3].astype(int)
    return voxels[tuple(index)]


@pytest.mark.parametrize("order", ["ascending", "reversed", "shuffled"])
@pytest.mark.parametrize("multiframe", ["no", "enhanced", "legacy"])
def test_every_voxel_is_where_it_was_put(tmp_path, voxels, order, multiframe):
    write_series(tmp_path, voxels, OBLIQUE, order=order, multiframe=multiframe)
    volume = read_image([tmp_path])
    assert volume.array.dtype == np.int16
    for place, value in zip(*world_values(volume), strict=True):
        assert value == value_at(voxels, OBLIQUE, place)
    assert len(volume.source.sop_instance_uids) == SHAPE[2]
    assert len(volume.source.frame_numbers) == (0 if multiframe == "no" else SHAPE[2])


def test_slices_refer_to_the_instances_they_came_from(tmp_path, voxels):
    paths = write_series(tmp_path, voxels, OBLIQUE, order="shuffled")
    volume = read_image([tmp_path])
    for path, uid, k in zip(
        volume.source.paths, volume.source.sop_instance_uids, range(SHAPE[2]), strict=True
    ):
        dataset = pydicom.dcmread(path)
        assert dataset.SOPInstanceUID == uid
        corner = np.array([-1, -1, 1]) * [float(v) for v in dataset.ImagePositionPatient]
        np.testing.assert_allclose(volume.affine @ [0, 0, k, 1], [*corner, 1], atol=1e-3)
        np.testing.assert_array_equal(dataset.pixel_array.astype(int) - 1024, volume.array[0, :, :, k].T)
    assert set(paths) == set(volume.source.paths)


def test_tilt_is_kept_as_shear(tmp_path, voxels):
    sheared = OBLIQUE.copy()
    sheared[:3, 2] += OBLIQUE[:3, 1] * 0.6
    write_series(tmp_path, voxels, sheared)
    volume = read_image([tmp_path])
    assert "gantry was tilted" in volume.notes[0]
    for place, value in zip(*world_values(volume), strict=True):
        assert value == value_at(voxels, sheared, place)


def test_rescale_per_slice_and_fractions(tmp_path, voxels):
    write_series(tmp_path, voxels, OBLIQUE, slope=0.25, rescale_per_slice=True)
    volume = read_image([tmp_path])
    assert volume.array.dtype == np.float32
    for place, value in zip(*world_values(volume), strict=True):
        assert value == pytest.approx(value_at(voxels, OBLIQUE, place), abs=0.5)


@pytest.mark.parametrize(
    ("values", "intercept", "signed", "kind"),
    [
        ((0, 4095), -1024, 0, np.int16),
        ((0, 65535), 0, 0, np.uint16),
        ((0, 65535), -1024, 0, np.int32),
        ((-32768, 32767), 0, 1, np.int16),
        ((-32768, 32767), -1024, 1, np.int32),
        ((-2000, 3000), 1000, 1, np.int16),
    ],
)
def test_the_smallest_whole_type_that_holds_the_values(tmp_path, values, intercept, signed, kind):
    stored = np.linspace(*values, 9 * 7).round().astype(np.int64).reshape(9, 7, 1).repeat(3, axis=2)
    paths = write_series(tmp_path, np.zeros((9, 7, 3), np.int16), OBLIQUE)
    for path in paths:
        dataset = pydicom.dcmread(path)
        dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 16, 15, signed
        dataset.RescaleIntercept = intercept
        dataset.PixelData = stored[:, :, 0].T.astype(np.int16 if signed else np.uint16).tobytes()
        dataset.save_as(path)
    volume = read_series(discover([tmp_path]).images[0].volume)
    assert volume.array.dtype == kind
    np.testing.assert_array_equal(volume.array[0], stored + intercept)


def test_a_gap_is_refused_with_its_place(tmp_path, voxels):
    paths = write_series(tmp_path, voxels, OBLIQUE)
    paths[3].unlink()
    with pytest.raises(GeometryError, match=r"1 slice is missing: 5\.000 mm between slices 3 and 4 of 9"):
        read_image([tmp_path])


def test_a_truncated_slice_is_refused_by_name(tmp_path, voxels):
    paths = write_series(tmp_path, voxels, OBLIQUE)
    paths[2].write_bytes(paths[2].read_bytes()[:-20])
    with pytest.raises(ImageReadError, match=f"{paths[2].name}: the file is truncated"):
        read_image([tmp_path])


def test_two_patients_under_one_series_uid_are_never_mixed(tmp_path, voxels):
    paths = write_series(tmp_path, voxels, OBLIQUE)
    for path in paths[3:]:
        dataset = pydicom.dcmread(path)
        dataset.PatientID = "SOMEBODY-ELSE"
        dataset.save_as(path)
    found = discover([tmp_path]).images
    assert [len(image.paths) for image in found] == [3, 7]
    assert len({image.patient_id for image in found}) == 2
    with pytest.raises(ConfigError, match="2 volumes, and nothing says which"):
        read_image([tmp_path])


def test_several_series_are_listed_and_one_is_chosen(tmp_path, voxels):
    write_series(tmp_path / "thick", voxels, OBLIQUE, uid_root="a", series_description="Thorax 5.0")
    thin = OBLIQUE.copy()
    thin[:3, 2] /= 2
    write_series(tmp_path / "thin", voxels, thin, uid_root="a2", series_description="Thorax 1.0")
    with pytest.raises(ConfigError) as caught:
        read_image([tmp_path])
    assert "s1, CT, 13 x 11 x 10, 0.8 x 1.1 x 2.5 mm" in str(caught.value)
    assert "s2, CT, 13 x 11 x 10, 0.8 x 1.1 x 1.25 mm" in str(caught.value)
    assert read_image([tmp_path], series="s2").spacing_mm[2] == pytest.approx(1.25)
    uid = discover([tmp_path]).images[0].series_instance_uid
    assert read_image([tmp_path], series=uid).spacing_mm[2] == pytest.approx(2.5)
    with pytest.raises(ConfigError, match="no volume fits the rule series s9"):
        read_image([tmp_path], series="s9")
    found = discover([tmp_path]).images
    chosen = choose_per_study(found, SeriesRule(max_spacing_mm=2))
    assert [image.volume.key for image in chosen] == ["s2"]
    assert [i.volume.key for i in choose_per_study(found, SeriesRule(description="*1.0"))] == ["s2"]
    assert choose_per_study(found, SeriesRule(min_slices=11)) == ()


def test_thinnest_is_preferred_where_the_rule_says_so(tmp_path, voxels):
    write_series(tmp_path / "a", voxels, OBLIQUE, uid_root="a")
    study = pydicom.dcmread(next((tmp_path / "a").iterdir())).StudyInstanceUID
    thin = OBLIQUE.copy()
    thin[:3, 2] /= 2
    for path in write_series(tmp_path / "b", voxels, thin, uid_root="b"):
        dataset = pydicom.dcmread(path)
        dataset.StudyInstanceUID = study
        dataset.PatientID = pydicom.dcmread(next((tmp_path / "a").iterdir())).PatientID
        dataset.save_as(path)
    found = discover([tmp_path]).images
    with pytest.raises(ConfigError, match="2 volumes"):
        choose_per_study(found, SeriesRule())
    (chosen,) = choose_per_study(found, SeriesRule(prefer="thinnest"))
    assert chosen.volume.grid.spacing_mm[2] == pytest.approx(1.25)


def suv_series(folder, voxels, **overrides):
    paths = write_series(folder, np.abs(voxels), OBLIQUE, modality="PT")
    for path in paths:
        dataset = pydicom.dcmread(path)
        dataset.Units, dataset.DecayCorrection, dataset.PatientWeight = "BQML", "START", "80"
        dataset.CorrectedImage = ["ATTN", "DECY"]
        dataset.SeriesDate = dataset.AcquisitionDate = "20240102"
        dataset.SeriesTime, dataset.AcquisitionTime = "120000", "120100"
        dose = pydicom.Dataset()
        dose.RadionuclideTotalDose, dose.RadionuclideHalfLife = "4e8", "6586.2"
        dose.RadiopharmaceuticalStartTime = "110000"
        dataset.RadiopharmaceuticalInformationSequence = [dose]
        for keyword, value in overrides.items():
            if value is None:
                delattr(dataset, keyword)
            else:
                setattr(dataset, keyword, value)
        dataset.save_as(path)
    return discover([folder]).images[0].volume


def test_suv_by_weight_and_decay(tmp_path, voxels):
    volume = suv_series(tmp_path, voxels)
    plain, suv = read_series(volume), read_series(volume, suv=True)
    factor = 80000 / (4e8 * 2 ** (-3600 / 6586.2))
    np.testing.assert_allclose(suv.array, plain.array * factor, rtol=1e-5)
    assert suv.header["value_type"] == "SUVBW"


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ({"PatientWeight": None}, "PatientWeight"),
        ({"Units": "CNTS"}, "units are CNTS"),
        ({"DecayCorrection": "NONE"}, "DecayCorrection is NONE"),
        ({"CorrectedImage": ["ATTN"]}, "lacks DECY"),
        ({"SeriesTime": "130000"}, "later than the acquisition"),
        ({"RadiopharmaceuticalInformationSequence": None}, "no radiopharmaceutical"),
    ],
)
def test_suv_is_refused_rather_than_guessed(tmp_path, voxels, overrides, words):
    volume = suv_series(tmp_path, voxels, **overrides)
    with pytest.raises(InputRefusedError, match=words):
        read_series(volume, suv=True)


def test_padding_is_counted_not_removed(tmp_path, voxels):
    paths = write_series(tmp_path, voxels, OBLIQUE)
    for path in paths:
        dataset = pydicom.dcmread(path)
        dataset.add_new("PixelPaddingValue", "US", int(dataset.pixel_array.min()))
        dataset.save_as(path)
    volume = read_image([tmp_path])
    count = int((voxels == voxels.min()).sum())
    assert any(note.startswith(f"{count} voxels (") for note in volume.notes)


def test_inspect_tells_grid_problems_and_no_identity(tmp_path, voxels):
    write_series(tmp_path / "good", voxels, OBLIQUE, uid_root="a")
    paths = write_series(tmp_path / "gap", voxels, OBLIQUE, uid_root="b")
    paths[2].unlink()
    (tmp_path / "notes.txt").write_text("hello")
    result = inspect_folder([tmp_path])
    gap, good = result.facts["volumes"]
    assert (good["shape"], good["problems"], good["files"]) == ([13, 11, 10], [], 10)
    assert good["spacing_mm"] == pytest.approx([0.8, 1.1, 2.5])
    assert "missing" in gap["problems"][0]
    assert result.facts["skipped"][0]["file"].endswith("notes.txt")
    dataset = pydicom.dcmread(paths[0], stop_before_pixels=True)
    said = json.dumps(result.to_json())
    for secret in (dataset.PatientID, str(dataset.PatientName), dataset.SeriesInstanceUID):
        assert secret not in said
    assert dataset.SeriesInstanceUID in json.dumps(inspect_folder([tmp_path], identify=True).facts)


@pytest.mark.parametrize("seed", range(60))
def test_mutated_slices_give_a_volume_or_an_error_of_ours(tmp_path, voxels, seed):
    paths = write_series(tmp_path, voxels, OBLIQUE, multiframe="enhanced" if seed % 3 == 0 else "no")
    rng = np.random.default_rng(seed)
    path = paths[int(rng.integers(len(paths)))]
    data = bytearray(path.read_bytes())
    for _ in range(int(rng.integers(1, 12))):
        at = int(rng.integers(128, len(data)))
        choice = rng.integers(4)
        if choice == 0:
            data[at] ^= 1 << int(rng.integers(8))
        elif choice == 1:
            del data[at : at + int(rng.integers(1, 40))]
        elif choice == 2:
            data[at : at + 4] = rng.bytes(4)
        else:
            data[at : at + 2] = b"\xff\xff"
    path.write_bytes(data)
    try:
        volume = read_image([tmp_path])
    except MedsegError:
        return
    assert volume.affine is not None or volume.spatial_dims == 2
