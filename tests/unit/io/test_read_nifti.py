"""NIfTI: the grid comes back exactly, and damaged files are refused before they cost memory."""

from __future__ import annotations

import gzip
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import given, settings
from hypothesis import strategies as st

from medseg.errors import GeometryError, ImageReadError, LabelError, StorageError
from medseg.io.content import pixel_digest
from medseg.io.limits import ReadLimits
from medseg.io.nifti import read_nifti, write_nifti
from medseg.io.read import read_image
from medseg.volume import Source, Volume

OBLIQUE = np.array(
    [[-0.49, 0.08, 0.3, 12.5], [0.07, 0.6, -0.2, -7.25], [-0.05, 0.11, 2.4, 90.0], [0, 0, 0, 1]]
)
ROTATION = np.array([[0, -2.0, 0, 5], [1.5, 0, 0, -6], [0, 0, 3.0, 7], [0, 0, 0, 1]])


def ramp(*shape: int) -> np.ndarray:
    return np.arange(np.prod(shape), dtype=np.int16).reshape(shape)


def save(
    path: Path,
    array: np.ndarray,
    affine: np.ndarray | None = None,
    *,
    codes: tuple[int, int] = (1, 0),
    units: int = 2,
    **fields: object,
) -> Path:
    image = nib.Nifti1Image(array, affine)
    if affine is not None:
        image.set_sform(affine, code=codes[0])
        image.set_qform(affine, code=codes[1])
    image.header["xyzt_units"] = units
    for name, value in fields.items():
        image.header[name] = value
    nib.save(image, path)
    return path


def test_volume_keeps_axes_affine_and_type(tmp_path):
    volume = read_nifti(save(tmp_path / "a.nii.gz", ramp(4, 3, 2), OBLIQUE))
    np.testing.assert_array_equal(volume.array, ramp(4, 3, 2)[np.newaxis])
    assert volume.array.dtype == np.int16
    np.testing.assert_allclose(volume.affine, OBLIQUE, rtol=1e-6)
    np.testing.assert_allclose(volume.spacing_mm, np.linalg.norm(OBLIQUE[:3, :3], axis=0), rtol=1e-6)
    assert (volume.spacing_origin, volume.patient_orientation) == ("affine", None)


@pytest.mark.parametrize("shape", [(5, 4), (5, 4, 1), (5, 4, 1, 1)])
def test_flat_files_are_two_dimensional(tmp_path, shape):
    affine = np.diag([-0.2, -0.3, 1, 1])
    volume = read_nifti(save(tmp_path / "a.nii", ramp(*shape), affine))
    assert volume.array.shape == (1, 5, 4)
    assert volume.patient_orientation == ("L", "P")
    np.testing.assert_allclose(volume.spacing_mm, (0.2, 0.3), rtol=1e-6)


def test_spacing_that_only_a_converter_wrote_is_unknown(tmp_path):
    sitk.WriteImage(sitk.GetImageFromArray(ramp(4, 5)), str(tmp_path / "a.nii.gz"))
    volume = read_nifti(tmp_path / "a.nii.gz")
    np.testing.assert_array_equal(volume.array[0], ramp(4, 5).T)
    assert (volume.spacing_mm, volume.spacing_origin) == (None, "unknown")
    assert any("converters" in note for note in volume.notes)
    np.testing.assert_array_equal(volume.affine, np.diag([-1, -1, 1, 1]))


@pytest.mark.parametrize(("units", "spacing"), [(2, (0.5, 0.25)), (0, None), (3, (0.0005, 0.00025))])
def test_without_codes_spacing_counts_only_with_a_unit(tmp_path, units, spacing):
    path = save(tmp_path / "a.nii", ramp(5, 4), units=units, pixdim=[1, 0.5, 0.25, 1, 1, 1, 1, 1])
    volume = read_nifti(path)
    assert volume.affine is None
    assert volume.spacing_mm == (spacing if spacing is None else pytest.approx(spacing))


def test_metres_become_millimetres(tmp_path):
    affine = np.diag([0.002, 0.003, 0.004, 1])
    volume = read_nifti(save(tmp_path / "a.nii", ramp(3, 4, 5), affine, units=1))
    np.testing.assert_allclose(volume.spacing_mm, (2, 3, 4), rtol=1e-6)


def test_scaling_is_applied_and_slope_zero_is_none(tmp_path):
    image = nib.Nifti1Image(ramp(3, 2), np.diag([2, 2, 2, 1]))
    image.header.set_slope_inter(0.5, -10)
    nib.save(image, tmp_path / "a.nii")
    raw = bytearray((tmp_path / "a.nii").read_bytes())
    raw[112:120] = np.array([0.5, -10], dtype="<f4").tobytes()
    raw[352:] = ramp(3, 2).tobytes(order="F")
    (tmp_path / "a.nii").write_bytes(raw)
    np.testing.assert_allclose(read_nifti(tmp_path / "a.nii").array[0], ramp(3, 2) * 0.5 - 10)
    raw[112:120] = bytes(8)
    (tmp_path / "a.nii").write_bytes(raw)
    np.testing.assert_array_equal(read_nifti(tmp_path / "a.nii").array[0], ramp(3, 2))


def test_big_endian_and_nifti2(tmp_path):
    big = nib.Nifti1Image(ramp(3, 4, 2).astype(">i2"), ROTATION, nib.Nifti1Header(endianness=">"))
    nib.save(big, tmp_path / "big.nii")
    nib.save(nib.Nifti2Image(ramp(3, 4, 2), ROTATION), tmp_path / "two.nii.gz")
    for name in ("big.nii", "two.nii.gz"):
        volume = read_nifti(tmp_path / name)
        np.testing.assert_array_equal(volume.array[0], ramp(3, 4, 2))
        np.testing.assert_allclose(volume.affine, ROTATION)


def test_rgb_pictures_of_nibabel_and_itk(tmp_path):
    rgb = np.arange(5 * 4 * 3, dtype=np.uint8).reshape(5, 4, 3)
    voxels = rgb.view([("R", "u1"), ("G", "u1"), ("B", "u1")])[..., 0]
    nib.save(nib.Nifti1Image(voxels, np.diag([2, 2, 2, 1])), tmp_path / "a.nii")
    sitk.WriteImage(sitk.GetImageFromArray(rgb.transpose(1, 0, 2), isVector=True), str(tmp_path / "b.nii"))
    for name in ("a.nii", "b.nii"):
        np.testing.assert_array_equal(read_nifti(tmp_path / name).array, rgb.transpose(2, 0, 1))


@pytest.mark.parametrize(("codes", "affine"), [((1, 0), OBLIQUE), ((0, 2), ROTATION), ((4, 1), ROTATION)])
def test_label_map_is_written_on_exactly_the_same_grid(tmp_path, codes, affine):
    source = save(tmp_path / "image.nii.gz", ramp(4, 3, 2), affine, codes=codes, units=10)
    like = read_nifti(source)
    write_nifti(tmp_path / "mask.nii.gz", (ramp(4, 3, 2) % 3).astype(np.int64), like)
    ours, theirs = nib.load(tmp_path / "mask.nii.gz"), nib.load(source)
    np.testing.assert_array_equal(ours.affine, theirs.affine)
    for name in ("sform_code", "qform_code"):
        assert ours.header[name] == theirs.header[name]
    np.testing.assert_array_equal(ours.header["pixdim"][:4], theirs.header["pixdim"][:4])
    assert ours.header.get_xyzt_units()[0] == "mm"
    assert ours.get_data_dtype() == np.uint8
    np.testing.assert_array_equal(np.asarray(ours.dataobj), ramp(4, 3, 2) % 3)


@pytest.mark.parametrize(("spacing", "unit"), [((0.15, 0.2), "mm"), (None, "unknown")])
def test_radiograph_mask_has_no_codes(tmp_path, spacing, unit):
    like = Volume(array=np.zeros((1, 5, 4), np.float32), spacing_mm=spacing)
    write_nifti(tmp_path / "m.nii.gz", np.eye(5, 4, dtype=bool), like)
    image = nib.load(tmp_path / "m.nii.gz")
    assert image.shape == (5, 4, 1)
    assert (int(image.header["sform_code"]), int(image.header["qform_code"])) == (0, 0)
    assert image.header.get_xyzt_units()[0] == unit
    back = read_nifti(tmp_path / "m.nii.gz")
    assert back.spacing_mm == (None if spacing is None else pytest.approx(spacing))
    np.testing.assert_array_equal(
        sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "m.nii.gz")))[0].T, np.eye(5, 4)
    )


def test_same_label_map_same_bytes(tmp_path):
    like = Volume(
        array=np.zeros((1, 6, 4), np.float32), affine=ROTATION, source=Source(paths=(), format="dicom")
    )
    for name in ("a.nii.gz", "b.nii.gz"):
        write_nifti(tmp_path / name, ramp(6, 4), like)
    content = (tmp_path / "a.nii.gz").read_bytes()
    assert content == (tmp_path / "b.nii.gz").read_bytes()
    assert content[3:8] == bytes(5)  # gzip: no name, time 0
    np.testing.assert_allclose(read_nifti(tmp_path / "a.nii.gz").affine, ROTATION)


def test_writer_refuses_other_shapes_values_and_names(tmp_path):
    like = Volume(array=np.zeros((1, 5, 4), np.float32))
    with pytest.raises(GeometryError, match=r"shape \(5, 4\), found \(4, 5\)"):
        write_nifti(tmp_path / "m.nii", np.zeros((4, 5), int), like)
    with pytest.raises(LabelError, match="whole numbers"):
        write_nifti(tmp_path / "m.nii", np.zeros((5, 4)), like)
    with pytest.raises(LabelError, match="do not fit"):
        write_nifti(tmp_path / "m.nii", np.full((5, 4), 1 << 40), like)
    with pytest.raises(StorageError, match=r"ends in \.nii"):
        write_nifti(tmp_path / "m.png", np.zeros((5, 4), int), like)
    assert list(tmp_path.iterdir()) == []


def test_wrong_gzip_checksum_is_seen(tmp_path):
    path = save(tmp_path / "a.nii.gz", ramp(4, 3, 2), ROTATION)
    data = bytearray(path.read_bytes())
    data[-8] ^= 1
    path.write_bytes(data)
    with pytest.raises(ImageReadError, match="CRC"):
        read_nifti(path)


@pytest.mark.parametrize("compressed", [True, False])
def test_truncation_names_both_sizes(tmp_path, compressed):
    path = save(tmp_path / "a.nii", ramp(4, 3, 2), ROTATION)
    data = path.read_bytes()[:-8]
    path.write_bytes(gzip.compress(data) if compressed else data)
    with pytest.raises(ImageReadError, match="asks for 400 bytes, 392 are there"):
        read_nifti(path)


@pytest.mark.parametrize(
    ("offset", "value", "words"),
    [
        (42, 0, "no voxels"),
        (42, 30000, "the limit is 1000000 .option max_voxels"),
        (40, 9, r"\d axes, expected 2 or 3"),
        (72, 24, "24 bits for each voxel"),
        (70, 77, "voxel type 77 is not known"),
        (70, 32, "voxels of type complex64"),
        (345, ord("i"), r"must end in \.hdr to find the \.img"),
    ],
)
def test_lying_headers(tmp_path, offset, value, words):
    path = save(tmp_path / "a.nii", ramp(4, 30, 200), ROTATION)
    data = bytearray(path.read_bytes())
    if offset == 345:
        data[offset] = value
    else:
        data[offset : offset + 2] = value.to_bytes(2, "little")
    path.write_bytes(data)
    with pytest.raises(ImageReadError, match=words):
        read_nifti(path, limits=ReadLimits(max_voxels=1_000_000))


@pytest.mark.parametrize("bad", [np.nan, 0.0, 1e30])
def test_damaged_affine(tmp_path, bad):
    path = save(tmp_path / "a.nii", ramp(4, 3, 2), np.diag([2.0, 2, 2, 1]))
    data = bytearray(path.read_bytes())
    data[280:284] = np.float32(bad).tobytes()
    path.write_bytes(data)
    with pytest.raises(GeometryError, match="affine"):
        read_nifti(path)


def test_nan_and_channels(tmp_path):
    values = ramp(4, 3, 2).astype(np.float32)
    values[0, 0, 0], values[1, 1, 1] = np.nan, np.inf
    with pytest.raises(ImageReadError, match="NaN or infinity in 2 of 24"):
        read_nifti(save(tmp_path / "a.nii", values, ROTATION))
    with pytest.raises(ImageReadError, match=r"found shape \(4, 3, 2, 3\); where its volumes are channels"):
        read_nifti(save(tmp_path / "b.nii", ramp(4, 3, 2, 3), ROTATION))


@pytest.mark.parametrize("shape", [(4, 3, 2, 5), (4, 3, 2, 1, 5)])
def test_volumes_as_channels_lie_on_the_grid_of_the_file(tmp_path, shape):
    values = ramp(*shape)
    path = save(tmp_path / "a.nii.gz", values, OBLIQUE)
    volume = read_image([path], fourth_axis="channels")
    np.testing.assert_array_equal(volume.array, np.moveaxis(values.reshape(4, 3, 2, 5), -1, 0))
    np.testing.assert_allclose(volume.affine, OBLIQUE, rtol=1e-6)
    files = [save(tmp_path / f"{n}.nii", values.reshape(4, 3, 2, 5)[..., n], OBLIQUE) for n in range(5)]
    together = read_image(files)
    assert together.same_grid(volume)
    assert together.pixel_sha256 == volume.pixel_sha256
    np.testing.assert_array_equal(together.array, volume.array)


def test_channels_are_scaled_and_flat_ones_are_pictures(tmp_path):
    path = save(tmp_path / "a.nii", ramp(4, 3, 1, 2), OBLIQUE, scl_slope=0.5, scl_inter=-3)
    volume = read_nifti(path, channels=True)
    assert volume.array.shape == (2, 4, 3)
    np.testing.assert_allclose(volume.array, np.moveaxis(ramp(4, 3, 2), -1, 0) * 0.5 - 3)
    with pytest.raises(ImageReadError, match="expected one axis of channels after three"):
        read_nifti(save(tmp_path / "b.nii", ramp(4, 3, 2, 2, 3), OBLIQUE), channels=True)
    assert read_nifti(save(tmp_path / "c.nii", ramp(4, 3, 2), OBLIQUE), channels=True).array.shape == (
        1,
        4,
        3,
        2,
    )


@pytest.mark.parametrize("kind", [nib.Nifti1Pair, nib.Nifti2Pair])
@pytest.mark.parametrize("ending", [".img", ".img.gz"])
def test_pairs_are_read_by_either_name(tmp_path, kind, ending):
    image = kind(ramp(4, 3, 2), OBLIQUE)
    image.set_sform(OBLIQUE, code=1)
    nib.save(image, tmp_path / f"a{ending}")
    header = next(tmp_path.glob("a.hdr*"))
    for path in (header, tmp_path / f"a{ending}"):
        volume = read_image([path])
        np.testing.assert_array_equal(volume.array[0], ramp(4, 3, 2))
        np.testing.assert_allclose(volume.affine, OBLIQUE, rtol=1e-6)
    assert volume.source.sha256 == read_nifti(header).source.sha256
    (tmp_path / f"a{ending}").unlink()
    with pytest.raises(ImageReadError, match=r"no a\.img beside it"):
        read_nifti(header)


def test_analyze_has_spacing_but_no_sides(tmp_path):
    image = nib.AnalyzeImage(ramp(4, 3, 2), np.diag([0.5, 0.75, 2.5, 1]))
    nib.save(image, tmp_path / "a.img")
    volume = read_image([tmp_path / "a.hdr"])
    np.testing.assert_array_equal(volume.array[0], ramp(4, 3, 2))
    assert (volume.affine, volume.spacing_mm) == (None, (0.5, 0.75, 2.5))
    assert any("which side is left" in note for note in volume.notes)


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
def test_one_volume_of_many(tmp_path, name):
    path = save(tmp_path / name, ramp(4, 3, 2, 5), ROTATION)
    for index in (0, 3, 4):
        volume = read_nifti(path, volume=index)
        np.testing.assert_array_equal(volume.array[0], ramp(4, 3, 2, 5)[..., index])
        np.testing.assert_allclose(volume.affine, ROTATION)
    for index in (-1, 5):
        with pytest.raises(ImageReadError, match=rf"no volume {index}: the file holds volumes 0 to 4"):
            read_nifti(path, volume=index)
    np.testing.assert_array_equal(
        read_nifti(save(tmp_path / "b.nii", ramp(4, 3, 2)), volume=0).array[0], ramp(4, 3, 2)
    )
    data = path.read_bytes() if name == "a.nii" else gzip.decompress(path.read_bytes())
    path.write_bytes(data[:-9] if name == "a.nii" else gzip.compress(data[:-9]))
    with pytest.raises(ImageReadError, match="truncated"):
        read_nifti(path, volume=1)


@pytest.mark.parametrize("kind", ["i1", "u2", "u4", "i8", "u8", "f8", ">f4", ">u8"])
def test_stored_types_are_kept(tmp_path, kind):
    header = nib.Nifti1Header(endianness=">" if kind[0] == ">" else "<")
    header.set_data_dtype(np.dtype(kind))
    nib.save(nib.Nifti1Image(ramp(4, 3, 2).astype(kind), ROTATION, header), tmp_path / "a.nii")
    volume = read_nifti(tmp_path / "a.nii")
    assert volume.array.dtype == np.dtype(kind).newbyteorder("=")
    np.testing.assert_array_equal(volume.array[0], ramp(4, 3, 2))


def test_voxels_stay_as_they_lie_in_the_file(tmp_path):
    volume = read_nifti(save(tmp_path / "a.nii.gz", ramp(40, 30, 20), OBLIQUE))
    assert volume.array[0].flags.f_contiguous
    assert volume.pixel_sha256 == pixel_digest(np.ascontiguousarray(volume.array))


@pytest.mark.parametrize("qfac", [1, -1])
def test_qform_alone_and_disagreement_of_the_forms(tmp_path, qfac):
    affine = np.diag([1.5, 2, 2.5 * qfac, 1])
    affine[:3, 3] = (5, -6, 7)
    volume = read_nifti(save(tmp_path / "a.nii", ramp(4, 3, 2), affine, codes=(0, 1)))
    np.testing.assert_allclose(volume.affine, affine, atol=1e-5)
    image = nib.Nifti1Image(ramp(4, 3, 2), None)
    image.set_sform(affine, code=1)
    image.set_qform(np.diag([1.5, 2, 2.5, 1]), code=1)
    nib.save(image, tmp_path / "b.nii")
    both = read_nifti(tmp_path / "b.nii")
    np.testing.assert_allclose(both.affine, affine, atol=1e-5)
    assert any("sform and qform of the file differ" in note for note in both.notes)


def test_label_maps_carry_the_intent_of_labels(tmp_path):
    write_nifti(tmp_path / "m.nii", ramp(4, 3, 2) % 3, Volume(array=np.zeros((1, 4, 3, 2), np.float32)))
    assert nib.load(tmp_path / "m.nii").header.get_intent()[0] == "label"


@settings(max_examples=30, deadline=None)
@given(shape=st.lists(st.integers(1, 6), min_size=2, max_size=3).map(tuple), top=st.integers(1, 70000))
def test_label_maps_survive_the_round_trip(tmp_path_factory, shape, top):
    folder = tmp_path_factory.mktemp("nifti")
    label_map = (np.arange(np.prod(shape)).reshape(shape) * 977) % (top + 1)
    like = Volume(array=np.zeros((1, *shape), np.float32), affine=OBLIQUE)
    write_nifti(folder / "m.nii", label_map, like)
    back = read_nifti(folder / "m.nii")
    np.testing.assert_array_equal(back.array.reshape(shape), label_map)
    np.testing.assert_allclose(back.affine, OBLIQUE, rtol=1e-6)
