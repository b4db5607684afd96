"""Pictures: exact values, honest about alpha, palettes and damage."""

from __future__ import annotations

import io
import zlib

import numpy as np
import pytest
import SimpleITK as sitk
from image_files import png_bytes, png_chunk, tiff_bytes
from PIL import Image

from medseg.errors import ImageReadError, LabelError
from medseg.io.limits import ReadLimits
from medseg.io.picture import read_picture, read_picture_labels

RNG = np.random.default_rng(5)
GRAY8 = RNG.integers(0, 256, (7, 11), dtype=np.uint8)
GRAY16 = RNG.integers(0, 65536, (7, 11), dtype=np.uint16)
RGB8 = RNG.integers(0, 256, (7, 11, 3), dtype=np.uint8)
RGB16 = RNG.integers(0, 65536, (7, 11, 3), dtype=np.uint16)


def channels_first(array: np.ndarray) -> np.ndarray:
    return array.T[np.newaxis] if array.ndim == 2 else array.transpose(2, 1, 0)


@pytest.mark.parametrize("array", [GRAY8, GRAY16, RGB8, RGB16], ids=["gray8", "gray16", "rgb8", "rgb16"])
def test_png_values_are_exact(tmp_path, array):
    depth, colour = array.dtype.itemsize * 8, 0 if array.ndim == 2 else 2
    path = tmp_path / "a.png"
    path.write_bytes(png_bytes(array, depth=depth, colour=colour))
    volume = read_picture(path)
    np.testing.assert_array_equal(volume.array, channels_first(array))
    assert volume.array.dtype == array.dtype
    assert (volume.spacing_mm, volume.affine, volume.modality) == (None, None, "")
    assert volume.header["bits_stored"] == str(depth)


@pytest.mark.parametrize("name", ["a.tif", "a.bmp", "a.png"])
@pytest.mark.parametrize("array", [GRAY8, RGB8], ids=["gray", "rgb"])
def test_other_formats_by_pillow(tmp_path, name, array):
    Image.fromarray(array).save(tmp_path / name)
    np.testing.assert_array_equal(read_picture(tmp_path / name).array, channels_first(array))


@pytest.mark.parametrize("array", [GRAY16, GRAY8.astype(np.float32) / 3, GRAY16.astype(np.int16), RGB16])
def test_deep_tiff_by_itk(tmp_path, array):
    path = tmp_path / "a.tif"
    sitk.WriteImage(sitk.GetImageFromArray(array, isVector=array.ndim == 3), str(path))
    np.testing.assert_array_equal(read_picture(path).array, channels_first(array))


def test_white_is_zero(tmp_path):
    path = tmp_path / "a.tif"
    path.write_bytes(tiff_bytes(GRAY16, photometric=0))
    volume = read_picture(path)
    np.testing.assert_array_equal(volume.array[0], 65535 - GRAY16.T)
    assert "white is zero, inverted" in volume.notes


def test_print_resolution_is_no_spacing(tmp_path):
    Image.fromarray(GRAY8).save(tmp_path / "a.png", dpi=(96, 96))
    Image.fromarray(GRAY8).save(tmp_path / "a.tif", dpi=(96, 96))
    assert read_picture(tmp_path / "a.png").spacing_mm is None
    assert read_picture(tmp_path / "a.tif").spacing_mm is None


def test_equal_channels_become_one(tmp_path):
    Image.fromarray(np.stack([GRAY8] * 3, axis=-1)).save(tmp_path / "a.png")
    volume = read_picture(tmp_path / "a.png")
    np.testing.assert_array_equal(volume.array[0], GRAY8.T)
    assert any("three equal channels" in note for note in volume.notes)


def test_alpha_is_dropped_where_opaque_and_laid_over_black_where_not(tmp_path):
    alpha = np.full(GRAY8.shape, 255, np.uint8)
    Image.fromarray(np.dstack([RGB8, alpha])).save(tmp_path / "a.png")
    volume = read_picture(tmp_path / "a.png")
    np.testing.assert_array_equal(volume.array, channels_first(RGB8))
    assert volume.notes == ()
    alpha[0, :4] = 0
    Image.fromarray(np.dstack([GRAY8, alpha])).save(tmp_path / "b.png")
    volume = read_picture(tmp_path / "b.png")
    assert (volume.array[0, :4, 0] == 0).all()
    assert volume.notes == ("4 transparent pixels were laid over black",)


def test_palette_and_one_bit(tmp_path):
    indexed = Image.fromarray(RGB8).quantize(16)
    indexed.save(tmp_path / "a.png")
    np.testing.assert_array_equal(
        read_picture(tmp_path / "a.png").array, channels_first(np.asarray(indexed.convert("RGB")))
    )
    Image.fromarray(GRAY8 > 99).save(tmp_path / "b.png")
    np.testing.assert_array_equal(read_picture(tmp_path / "b.png").array[0] > 0, (GRAY8 > 99).T)


def test_jpeg_is_turned_upright(tmp_path):
    gray = np.zeros((16, 32), np.uint8)
    gray[:8, :8] = 250
    image = Image.fromarray(gray)
    exif = image.getexif()
    exif[0x0112] = 6
    image.save(tmp_path / "a.jpg", quality=95, exif=exif)
    volume = read_picture(tmp_path / "a.jpg")
    assert volume.array.shape == (1, 16, 32)
    assert volume.array[0, 12, 3] > 200 > 50 > volume.array[0, 3, 3]
    assert any("orientation (6)" in note for note in volume.notes)


def test_short_picture_data_are_refused_where_pillow_would_show_black(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(png_bytes(GRAY8, depth=8, colour=0, rows_written=5))
    with pytest.raises(ImageReadError, match="needs 84 bytes, found 60"):
        read_picture(path)


def test_png_damage(tmp_path):
    path = tmp_path / "a.png"
    good = png_bytes(GRAY8, depth=8, colour=0)
    path.write_bytes(good[:-6])
    with pytest.raises(ImageReadError, match="truncated"):
        read_picture(path)
    damaged = bytearray(good)
    damaged[60] ^= 4
    path.write_bytes(damaged)
    with pytest.raises(ImageReadError, match="wrong checksum"):
        read_picture(path)
    path.write_bytes(png_bytes(GRAY8, depth=8, colour=0, extra=png_chunk(b"acTL", bytes(8))))
    with pytest.raises(ImageReadError, match="animated"):
        read_picture(path)


def test_interlaced_png(tmp_path):
    # Adam7 of a 1 x 1 picture is its first pass alone: one filter byte and one sample
    header = png_chunk(b"IHDR", bytes([0, 0, 0, 1, 0, 0, 0, 1, 8, 0, 0, 0, 1]))
    data = png_chunk(b"IDAT", zlib.compress(b"\0\x7f")) + png_chunk(b"IEND", b"")
    path = tmp_path / "a.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + header + data)
    assert read_picture(path).array.tolist() == [[[0x7F]]]


def test_png_bomb_is_refused_from_its_header(tmp_path):
    header = png_chunk(b"IHDR", (60000).to_bytes(4, "big") * 2 + bytes([8, 0, 0, 0, 0]))
    path = tmp_path / "a.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + header + png_chunk(b"IEND", b""))
    with pytest.raises(ImageReadError, match=r"60000 x 60000 x 1 = 3600000000 values.*max_pixels"):
        read_picture(path)
    path.write_bytes(png_bytes(GRAY8, depth=8, colour=0))
    with pytest.raises(ImageReadError, match="max_pixels"):
        read_picture(path, limits=ReadLimits(max_pixels=70))


@pytest.mark.parametrize("name", ["a.jpg", "a.tif", "a.bmp"])
def test_truncated_pictures(tmp_path, name):
    Image.fromarray(RNG.integers(0, 256, (64, 64), dtype=np.uint8)).save(tmp_path / name)
    data = (tmp_path / name).read_bytes()
    for length in (len(data) // 2, len(data) - 20):
        (tmp_path / name).write_bytes(data[:length])
        with pytest.raises(ImageReadError, match=r"truncated|damaged"):
            read_picture(tmp_path / name)


def test_tiff_that_lies(tmp_path):
    path = tmp_path / "a.tif"
    for changes, words in (
        ({279: 100}, "needs? 154 bytes, it lists 100"),
        ({279: 9999}, "end at byte 10007"),
        ({256: 60000, 257: 60000}, "max_pixels"),
        ({274: 6}, "orientation 6"),
    ):
        path.write_bytes(tiff_bytes(GRAY16, changes=changes))
        with pytest.raises(ImageReadError, match=words):
            read_picture(path)


def test_pages_and_colour_models_that_are_not_read(tmp_path):
    first = Image.fromarray(GRAY8)
    first.save(tmp_path / "a.tif", save_all=True, append_images=[first])
    with pytest.raises(ImageReadError, match="several pages"):
        read_picture(tmp_path / "a.tif")
    Image.fromarray(np.dstack([RGB8, GRAY8])).convert("CMYK").save(tmp_path / "b.jpg")
    with pytest.raises(ImageReadError, match="found 4 channels"):
        read_picture(tmp_path / "b.jpg")
    (tmp_path / "c.png").write_bytes(png_bytes(RNG.integers(0, 99, (3, 3, 2)), depth=16, colour=4))
    with pytest.raises(ImageReadError, match="16-bit gray with transparency"):
        read_picture(tmp_path / "c.png")


def test_labels_are_the_stored_numbers(tmp_path):
    labels = (GRAY8 % 3).astype(np.uint8)
    Image.fromarray(labels).save(tmp_path / "a.png")
    Image.fromarray(labels > 1).save(tmp_path / "b.png")
    coloured = Image.fromarray(labels).convert("P")
    coloured.putpalette([0, 0, 0, 200, 0, 0, 0, 200, 0])
    coloured.save(tmp_path / "c.png", transparency=0)
    np.testing.assert_array_equal(read_picture_labels(tmp_path / "a.png")[0], labels.T)
    np.testing.assert_array_equal(read_picture_labels(tmp_path / "b.png")[0], labels.T > 1)
    np.testing.assert_array_equal(read_picture_labels(tmp_path / "c.png")[0], labels.T)


def test_gray_palette_of_a_shrunk_mask_gives_grays(tmp_path):
    mask = Image.fromarray((GRAY8 % 2).astype(np.uint8)).convert("P")
    mask.putpalette([0, 0, 0, 255, 255, 255])
    mask.save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_picture_labels(tmp_path / "a.png")[0], (GRAY8.T % 2) * 255)


def test_masks_whose_values_are_not_certain(tmp_path):
    Image.fromarray(GRAY8).save(tmp_path / "a.jpg")
    with pytest.raises(LabelError, match="JPEG"):
        read_picture_labels(tmp_path / "a.jpg")
    Image.fromarray(RGB8).save(tmp_path / "b.png")
    with pytest.raises(LabelError, match="one channel"):
        read_picture_labels(tmp_path / "b.png")
    header = png_chunk(b"IHDR", bytes([0, 0, 0, 2, 0, 0, 0, 1, 4, 0, 0, 0, 0]))
    data = png_chunk(b"IDAT", zlib.compress(b"\0\x12")) + png_chunk(b"IEND", b"")
    (tmp_path / "c.png").write_bytes(b"\x89PNG\r\n\x1a\n" + header + data)
    with pytest.raises(LabelError, match="4-bit"):
        read_picture_labels(tmp_path / "c.png")


def test_other_content_is_named(tmp_path):
    target = io.BytesIO()
    Image.fromarray(GRAY8).save(target, "GIF")
    (tmp_path / "a.png").write_bytes(target.getvalue())
    with pytest.raises(ImageReadError, match="found a GIF picture"):
        read_picture(tmp_path / "a.png")
