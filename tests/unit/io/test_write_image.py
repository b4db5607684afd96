"""Images out: other programs read the same voxels in the same place, and the same volume is the same bytes."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk

from medseg.errors import GeometryError, ImageReadError, StorageError
from medseg.io.itk_image import read_itk
from medseg.io.nifti import read_nifti
from medseg.io.read import read_image
from medseg.io.write_image import ENDINGS, write_image
from medseg.volume import Volume

DIRECTION = np.array([[0.36, 0.48, -0.8], [-0.8, 0.6, 0.0], [0.48, 0.64, 0.6]])
OBLIQUE = np.eye(4)
OBLIQUE[:3, :3], OBLIQUE[:3, 3] = DIRECTION * (0.5, 0.75, 2.5), (12.5, -7.25, 90)
SHEARED = OBLIQUE @ np.array([[1, 0, 0, 0], [0, 1, 0.9, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]])
LPS = np.diag([-1.0, -1, 1, 1])


def ramp(*shape: int, dtype: object = np.int16) -> np.ndarray:
    return np.arange(np.prod(shape)).astype(dtype).reshape(shape)


def itk_affine(path) -> np.ndarray:
    image = sitk.ReadImage(str(path))
    affine = np.eye(4)
    affine[:3, :3] = np.array(image.GetDirection()).reshape(3, 3) * np.array(image.GetSpacing())
    affine[:3, 3] = image.GetOrigin()
    return LPS @ affine


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("order", ["C", "F"])
def test_simpleitk_reads_the_same_voxels_in_the_same_place(tmp_path, ending, order):
    volume = Volume(array=np.asarray(ramp(1, 5, 4, 3), order=order), affine=OBLIQUE)
    write_image(tmp_path / f"a{ending}", volume)
    image = sitk.ReadImage(str(tmp_path / f"a{ending}"))
    np.testing.assert_array_equal(sitk.GetArrayFromImage(image).T, volume.array[0])
    np.testing.assert_allclose(itk_affine(tmp_path / f"a{ending}"), OBLIQUE, atol=1e-5)
    back = read_image([tmp_path / f"a{ending}"])
    np.testing.assert_array_equal(back.array, volume.array)
    np.testing.assert_allclose(back.affine, OBLIQUE, atol=1e-6)


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_shear_survives(tmp_path, ending):
    write_image(tmp_path / f"a{ending}", Volume(array=ramp(1, 5, 4, 3), affine=SHEARED))
    np.testing.assert_allclose(read_image([tmp_path / f"a{ending}"]).affine, SHEARED, atol=1e-6)
    if ".nii" in ending:
        header = nib.load(tmp_path / f"a{ending}").header
        assert (int(header["sform_code"]), int(header["qform_code"])) == (1, 0)
    else:
        np.testing.assert_allclose(itk_affine(tmp_path / f"a{ending}"), SHEARED, atol=1e-12)


def test_right_angled_nifti_has_both_forms(tmp_path):
    for flip in (1, -1):
        affine = OBLIQUE * np.array([1, flip, 1, 1])
        write_image(tmp_path / "a.nii", Volume(array=ramp(1, 5, 4, 3), affine=affine))
        header = nib.load(tmp_path / "a.nii").header
        np.testing.assert_allclose(header.get_qform(), affine, atol=1e-5)
        np.testing.assert_allclose(header.get_sform(), affine, atol=1e-6)
        assert float(header["pixdim"][0]) == np.sign(np.linalg.det(affine[:3, :3]))


@pytest.mark.parametrize("kind", ["u1", "i1", "i2", "u2", "i4", "u4", "i8", "u8", "f4", "f8", "?", ">i2"])
@pytest.mark.parametrize("ending", ENDINGS)
def test_values_keep_their_type(tmp_path, kind, ending):
    array = ramp(1, 4, 3, 2, dtype=kind)
    write_image(tmp_path / f"a{ending}", Volume(array=array, affine=OBLIQUE))
    back = (read_nifti if ".nii" in ending else read_itk)(tmp_path / f"a{ending}")
    assert back.array.dtype == (np.uint8 if kind == "?" else np.dtype(kind).newbyteorder("="))
    np.testing.assert_array_equal(back.array, array)


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("spacing", [None, (0.15, 0.2)])
def test_unknown_place_stays_unknown(tmp_path, ending, spacing):
    write_image(tmp_path / f"a{ending}", Volume(array=ramp(1, 5, 4), spacing_mm=spacing))
    back = read_image([tmp_path / f"a{ending}"])
    assert back.affine is None
    assert back.spacing_mm == (None if spacing is None else pytest.approx(spacing))
    np.testing.assert_array_equal(back.array, ramp(1, 5, 4))


@pytest.mark.parametrize("ending", ENDINGS)
def test_one_slice_keeps_its_place(tmp_path, ending):
    write_image(tmp_path / f"a{ending}", Volume(array=ramp(1, 5, 4), affine=OBLIQUE))
    back = read_image([tmp_path / f"a{ending}"])
    assert back.array.shape == (1, 5, 4)
    np.testing.assert_allclose(back.affine[:, [0, 1, 3]], OBLIQUE[:, [0, 1, 3]], atol=1e-6)


def test_channels_are_components(tmp_path):
    for ending in (".nrrd", ".mha"):
        for shape in ((3, 5, 4), (2, 5, 4, 3)):
            write_image(tmp_path / f"a{ending}", Volume(array=ramp(*shape), affine=OBLIQUE))
            np.testing.assert_array_equal(read_itk(tmp_path / f"a{ending}").array, ramp(*shape))
            assert sitk.ReadImage(str(tmp_path / f"a{ending}")).GetNumberOfComponentsPerPixel() == shape[0]
    with pytest.raises(ImageReadError, match="one channel, found 3"):
        write_image(tmp_path / "a.nii", Volume(array=ramp(3, 5, 4)))


@pytest.mark.parametrize("ending", ENDINGS)
def test_same_volume_same_bytes_whatever_the_order_in_memory(tmp_path, ending):
    for name, order in (("one", "C"), ("two", "F")):
        (tmp_path / name).mkdir()
        array = np.asarray(ramp(1, 65, 40, 33, dtype=np.float32), order=order)
        write_image(tmp_path / name / f"a{ending}", Volume(array=array, affine=OBLIQUE))
    for path in (tmp_path / "one").iterdir():
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes()


def test_label_maps_say_so(tmp_path):
    for label_map, code in ((True, 1002), (False, 0)):
        write_image(tmp_path / "a.nii", Volume(array=ramp(1, 5, 4, 3)), label_map=label_map)
        assert int(nib.load(tmp_path / "a.nii").header["intent_code"]) == code
        assert read_nifti(tmp_path / "a.nii").header["nifti_intent_code"] == str(code)


def test_what_cannot_be_written(tmp_path):
    volume = Volume(array=ramp(1, 5, 4, 3))
    with pytest.raises(StorageError, match=r"\.nii, \.nii\.gz, \.nrrd"):
        write_image(tmp_path / "a.png", volume)
    with pytest.raises(ImageReadError, match="complex64 cannot be written"):
        write_image(tmp_path / "a.nii", Volume(array=ramp(1, 5, 4, dtype=np.complex64)))
    with pytest.raises(GeometryError, match=r"at most 32767 voxels.*write \.nrrd"):
        write_image(tmp_path / "a.nii", Volume(array=np.zeros((1, 32768, 1, 2), np.uint8)))
    assert list(tmp_path.iterdir()) == []
