"""Any file by its content, channels and masks on one grid."""

from __future__ import annotations

import os
import shutil
import tracemalloc

import nibabel as nib
import numpy as np
import pytest
from image_files import png_bytes, radiograph, ramp, save
from PIL import Image

from medseg.errors import GeometryError, ImageReadError, InputRefusedError, LabelError, StorageError
from medseg.io.limits import ReadLimits, read_bytes
from medseg.io.read import read_image, read_label
from medseg.volume import Volume

AFFINE = np.array([[0, -2.0, 0, 5], [1.5, 0, 0, -6], [0, 0, 3.0, 7], [0, 0, 0, 1]])


def gray_png(path, array=None):
    path.write_bytes(png_bytes(ramp() if array is None else array, depth=16, colour=0))
    return path


def nifti(path, array, affine=AFFINE):
    nib.save(nib.Nifti1Image(array, affine), path)
    return path


def test_one_picture_in_three_formats_has_one_hash(tmp_path):
    files = [
        save(radiograph(), tmp_path / "no_ending"),
        gray_png(tmp_path / "wrong.dcm"),
        nifti(tmp_path / "a.nii", ramp().T.astype(np.int16)).rename(tmp_path / "a.png"),
    ]
    volumes = [read_image([path]) for path in files]
    assert [volume.source.format for volume in volumes] == ["dicom", "picture", "nifti"]
    assert len({volume.pixel_sha256 for volume in volumes}) == 1
    assert all(volume.array.dtype == np.float32 for volume in volumes)
    np.testing.assert_array_equal(volumes[1].array[0], ramp().T)


def test_several_files_are_channels(tmp_path):
    first, second = gray_png(tmp_path / "a.png"), gray_png(tmp_path / "b.png", ramp() * 2)
    volume = read_image([first, second])
    np.testing.assert_array_equal(volume.array, [ramp().T, ramp().T * 2])
    assert volume.source.paths == (first, second)
    other = nifti(tmp_path / "c.nii", ramp(6, 5))
    with pytest.raises(GeometryError, match=r"a\.png has 5 x 6 voxels and no affine, but .*c\.nii has 6 x 5"):
        read_image([first, other])
    with pytest.raises(ImageReadError, match="found none"):
        read_image([])


def test_colour_where_gray_is_expected(tmp_path):
    rgb = np.arange(90, dtype=np.uint8).reshape(6, 5, 3)
    Image.fromarray(rgb).save(tmp_path / "a.png")
    assert read_image([tmp_path / "a.png"]).array.shape == (3, 5, 6)
    with pytest.raises(ImageReadError, match=r"expected a gray image, found RGB.*add a `gray` step"):
        read_image([tmp_path / "a.png"], gray_only=True)
    Image.fromarray(np.repeat(rgb[..., :1], 3, axis=2)).save(tmp_path / "b.png")
    assert read_image([tmp_path / "b.png"], gray_only=True).array.shape == (1, 5, 6)


def test_pictures_have_no_modality_and_pass(tmp_path):
    path = gray_png(tmp_path / "a.png")
    assert read_image([path], modality=frozenset({"CR", "DX"})).modality == ""


def test_dicom_of_another_modality_is_refused(tmp_path):
    path = save(radiograph(), tmp_path / "a.dcm")
    with pytest.raises(InputRefusedError, match=r"the modality is .*, allowed are: MR; leave it out"):
        read_image([path], modality=frozenset({"MR"}))


def test_empty_pictures_are_refused(tmp_path):
    with pytest.raises(ImageReadError, match="all pixels have the value 0: no image content"):
        read_image([gray_png(tmp_path / "a.png", np.zeros((4, 4), np.uint16))])


def test_masks_of_all_formats(tmp_path):
    image = read_image([save(radiograph(), tmp_path / "a.dcm")])
    labels = (ramp() % 3).astype(np.uint8)
    Image.fromarray(labels).save(tmp_path / "m.png")
    for path in (
        tmp_path / "m.png",
        nifti(tmp_path / "m.nii.gz", labels.T[..., np.newaxis]),
        nifti(tmp_path / "f.nii", labels.T.astype(np.float32)),
    ):
        label = read_label(path, image)
        assert label.dtype.kind in "iu"
        np.testing.assert_array_equal(label, labels.T[np.newaxis])


def test_masks_that_do_not_fit(tmp_path):
    image = read_image([save(radiograph(), tmp_path / "a.dcm")])
    with pytest.raises(GeometryError, match="rows and columns were swapped"):
        read_label(nifti(tmp_path / "m.nii", ramp(6, 5)), image)
    values = np.ones((5, 6), np.float32)
    values[1, 1] = 0.5
    fractions = nifti(tmp_path / "f.nii", values)
    with pytest.raises(LabelError, match=r"fractions in 1 of 30 voxels, such as 0\.5"):
        read_label(fractions, image)
    with pytest.raises(ImageReadError, match="NaN"):
        read_label(nifti(tmp_path / "n.nii", np.full((5, 6), np.nan, np.float32)), image)
    with pytest.raises(LabelError, match=r"expected a mask \(SEG or RTSTRUCT\)"):
        read_label(tmp_path / "a.dcm", image)


def test_mask_with_another_affine_names_both(tmp_path):
    image = read_image([nifti(tmp_path / "i.nii", ramp(6, 5).astype(np.int16))])
    moved = AFFINE.copy()
    moved[0, 3] += 0.5
    path = nifti(tmp_path / "m.nii", np.ones((6, 5), np.uint8), moved)
    with pytest.raises(GeometryError, match=r"0 -2 0 5; .*0 -2 0 5\.5;"):
        read_label(path, image)


def test_label_beyond_float_precision(tmp_path):
    like = Volume(array=np.zeros((1, 2, 3), np.float32))
    with pytest.raises(LabelError, match="do not fit 32 bits"):
        read_label(nifti(tmp_path / "m.nii", np.full((2, 3), 1e12)), like)


def test_image_beyond_float32_is_refused(tmp_path):
    values = np.ones((5, 6, 4))
    values[1, 1, 1] = 1e300
    with pytest.raises(ImageReadError, match=r"from 1 to 1e\+300 do not fit 32-bit"):
        read_image([nifti(tmp_path / "a.nii", values)])


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "an empty file"),
        (bytes(3000), "only zero bytes"),
        (b"PK\x03\x04rest", "zip archive"),
        (b"<!DOCTYPE html><p>", "HTML"),
        (b"case_id,image\n1,a.png\n", "text"),
        (b'{"a": 1}', "JSON"),
        (b"\x1f\x8b\x08\0garbage", "gzip"),
        (bytes(range(7, 250)) * 9, "unknown content"),
    ],
)
def test_other_content_is_named(tmp_path, content, words):
    path = tmp_path / "a.dcm"
    path.write_bytes(content)
    with pytest.raises(ImageReadError, match=f"expected DICOM, NIfTI.*found .*{words}"):
        read_image([path])


def test_paths_that_are_no_files(tmp_path):
    with pytest.raises(ImageReadError, match="no such file"):
        read_image([tmp_path / "missing.png"])
    with pytest.raises(ImageReadError, match="no DICOM image in it"):
        read_image([tmp_path])
    os.mkfifo(tmp_path / "pipe.dcm")
    with pytest.raises(ImageReadError, match="found a folder, pipe or device"):
        read_image([tmp_path / "pipe.dcm"])


def test_file_that_may_not_be_read(tmp_path, monkeypatch):
    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("medseg.io.limits.os.open", refuse)
    with pytest.raises(StorageError, match=r"a\.png cannot be read: permission denied"):
        read_image([tmp_path / "a.png"])


def test_large_file_is_refused_by_its_size(tmp_path):
    with (tmp_path / "a").open("wb") as stream:
        stream.truncate(3 << 20)
    with pytest.raises(ImageReadError, match=r"has 3 MiB, the limit is 2 MiB .option max_file_mb"):
        read_bytes(tmp_path / "a", ReadLimits(max_file_mb=2))


def test_a_small_file_takes_little_memory(tmp_path):
    (tmp_path / "a").write_bytes(b"x" * 1000)
    tracemalloc.start()
    try:
        assert read_bytes(tmp_path / "a", ReadLimits()) == b"x" * 1000
        assert tracemalloc.get_traced_memory()[1] < 2_000_000
    finally:
        tracemalloc.stop()


def test_dicom_whose_preamble_looks_like_a_tiff(tmp_path):
    path = save(radiograph(), tmp_path / "a.dcm")
    data = bytearray(path.read_bytes())
    data[:4] = b"II*\0"
    path.write_bytes(data)
    assert read_image([path]).source.format == "dicom"
    shutil.copy(path, tmp_path / "b.tif")
    assert read_image([tmp_path / "b.tif"]).source.format == "dicom"
