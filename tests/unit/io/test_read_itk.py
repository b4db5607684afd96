"""NRRD, MetaImage and the rest of ITK's formats: the grid comes back exactly, hostile headers are refused."""

from __future__ import annotations

import csv
import gzip
import os
import subprocess
import sys
import textwrap
import zlib

import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from medseg.errors import GeometryError, ImageReadError, MedsegError
from medseg.io.itk_image import read_itk
from medseg.io.limits import ReadLimits
from medseg.io.read import read_image, read_label
from medseg.io.sniff import sniff
from medseg.volume import Volume

LPS = np.diag([-1.0, -1, 1, 1])
DIRECTION = np.array([[0.36, 0.48, -0.8], [-0.8, 0.6, 0.0], [0.48, 0.64, 0.6]])
SHEARED = DIRECTION @ np.array([[1, 0, 0], [0, 1, np.sin(0.3)], [0, 0, np.cos(0.3)]])
LEFT_HANDED = DIRECTION * [1, -1, 1]
HEAD = "NRRD0004\ntype: short\ndimension: 3\nsizes: 4 3 2\nendian: little\nencoding: raw\n"
PLACED = "space: RAS\nspace directions: (1,0,0) (0,2,0) (0,0,3)\nspace origin: (5,6,7)\n"
META = "ObjectType = Image\nNDims = 3\nDimSize = 4 3 2\nElementType = MET_SHORT\n"


def ramp(*shape: int, dtype: object = np.int16) -> np.ndarray:
    return np.arange(np.prod(shape)).astype(dtype).reshape(shape)


def itk_image(array: np.ndarray, direction: np.ndarray = DIRECTION) -> sitk.Image:
    """(I, J, K) array as an ITK image with a position of its own."""
    image = sitk.GetImageFromArray(np.ascontiguousarray(array.T))
    image.SetSpacing((0.5, 0.75, 2.5))
    image.SetOrigin((-12.5, 7.25, 90))
    image.SetDirection(direction.ravel().tolist())
    return image


def affine_of(image: sitk.Image) -> np.ndarray:
    """RAS+ affine as ITK gives it."""
    affine = np.eye(4)
    affine[:3, :3] = np.array(image.GetDirection()).reshape(3, 3) * np.array(image.GetSpacing())
    affine[:3, 3] = image.GetOrigin()
    return LPS @ affine


def nrrd(path, header: str, data: bytes | None = None):
    path.write_bytes(header.encode() + b"\n" + (ramp(4, 3, 2).tobytes(order="F") if data is None else data))
    return path


def meta(path, header: str, data: bytes | None = None):
    body = ramp(4, 3, 2).tobytes(order="F") if data is None else data
    path.write_bytes(header.encode() + b"ElementDataFile = LOCAL\n" + body)
    return path


@pytest.mark.parametrize("ending", ["nrrd", "nhdr", "mha", "mhd", "mnc", "h5"])
@pytest.mark.parametrize("direction", [DIRECTION, LEFT_HANDED, SHEARED], ids=["oblique", "left", "sheared"])
def test_grid_and_voxels_are_those_that_itk_wrote(tmp_path, ending, direction):
    if ending in ("mnc", "h5") and direction is LEFT_HANDED:
        pytest.skip("one direction through the child process is enough")
    image = itk_image(ramp(5, 4, 3), direction)
    sitk.WriteImage(image, str(tmp_path / f"a.{ending}"), useCompression=ending in ("nrrd", "mha"))
    volume = read_itk(tmp_path / f"a.{ending}")
    np.testing.assert_array_equal(volume.array, ramp(5, 4, 3)[np.newaxis])
    assert (volume.array.dtype, volume.source.format) == (np.int16, "itk")
    np.testing.assert_allclose(volume.affine, affine_of(image), atol=1e-9)
    np.testing.assert_allclose(volume.spacing_mm, (0.5, 0.75, 2.5))


@pytest.mark.parametrize("kind", ["i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "f4", "f8"])
@pytest.mark.parametrize("ending", ["nrrd", "mha"])
def test_every_type_survives(tmp_path, kind, ending):
    info = np.finfo(kind) if kind[0] == "f" else np.iinfo(kind)
    values = ramp(4, 3, 2, dtype=kind)
    values[0, 0, 0], values[3, 2, 1] = info.min, info.max
    sitk.WriteImage(itk_image(values), str(tmp_path / f"a.{ending}"))
    volume = read_itk(tmp_path / f"a.{ending}")
    assert volume.array.dtype == np.dtype(kind)
    np.testing.assert_array_equal(volume.array[0], values)


@pytest.mark.parametrize(
    ("space", "signs"), [("RAS", (1, 1)), ("left-anterior-superior", (-1, 1)), ("LPS", (-1, -1))]
)
def test_patient_spaces_of_nrrd(tmp_path, space, signs):
    path = nrrd(tmp_path / "a.nrrd", HEAD + PLACED.replace("RAS", space))
    expected = np.diag([*signs, 1, 1.0]) @ np.array([[1, 0, 0, 5], [0, 2, 0, 6], [0, 0, 3, 7], [0, 0, 0, 1]])
    np.testing.assert_array_equal(read_itk(path).affine, expected)


@pytest.mark.parametrize("space", ["scanner-xyz", "3D-right-handed"])
def test_other_spaces_have_no_patient_axes(tmp_path, space):
    volume = read_itk(nrrd(tmp_path / "a.nrrd", HEAD + PLACED.replace("RAS", space)))
    assert (volume.affine, volume.spacing_mm) == (None, (1, 2, 3))
    assert any("orientation is unknown" in note for note in volume.notes)


@pytest.mark.parametrize(
    ("line", "spacing"),
    [
        ("", None),
        ("spacings: 1 1 1\n", None),
        ("spacings: 0.5 0.75 3\n", (0.5, 0.75, 3)),
        ('spacings: 1 1 3\nunits: "cm" "cm" "mm"\n', (10, 10, 3)),
        ("spacings: nan 1 3\n", None),
    ],
)
def test_spacing_without_directions(tmp_path, line, spacing):
    volume = read_itk(nrrd(tmp_path / "a.nrrd", HEAD + line))
    assert (volume.affine, volume.spacing_mm) == (None, spacing)


def test_units_of_nrrd(tmp_path):
    micro = PLACED + 'space units: "um" "um" "um"\n'
    np.testing.assert_allclose(
        read_itk(nrrd(tmp_path / "a.nrrd", HEAD + micro)).affine[0], [0.001, 0, 0, 0.005]
    )
    with pytest.raises(GeometryError, match="units of length"):
        read_itk(nrrd(tmp_path / "b.nrrd", HEAD + micro.replace("um", "furlong")))


def test_components_become_channels_and_lists_are_chosen_from(tmp_path):
    vector = ramp(3, 4, 5, 2)
    common = HEAD.replace("dimension: 3\nsizes: 4 3 2", "dimension: 4\nsizes: {}")
    first = (
        common.format("3 4 5 2")
        + PLACED.replace("(1,0,0)", "none (1,0,0)")
        + "kinds: {} domain domain domain\n"
    )
    path = nrrd(tmp_path / "v.nrrd", first.format("vector"), vector.tobytes(order="F"))
    np.testing.assert_array_equal(read_itk(path).array, vector)
    path = nrrd(tmp_path / "l.nrrd", first.format("list"), vector.tobytes(order="F"))
    with pytest.raises(ImageReadError, match=r"found shape \(3, 4, 5, 2\).*choose one, from 0 to 2"):
        read_itk(path)
    np.testing.assert_array_equal(read_itk(path, volume=2).array[0], vector[2])
    with pytest.raises(ImageReadError, match="no volume 3: the file holds volumes 0 to 2"):
        read_itk(path, volume=3)
    path = nrrd(tmp_path / "t.nrrd", first.format("3D-symmetric-matrix"), vector.tobytes(order="F"))
    with pytest.raises(ImageReadError, match="kind '3d-symmetric-matrix' are not read"):
        read_itk(path)
    path = nrrd(tmp_path / "u.nrrd", common.format("3 4 5 2"), vector.tobytes(order="F"))
    with pytest.raises(ImageReadError, match="neither 'kinds' nor 'space directions'"):
        read_itk(path)


def test_rgb_and_flat_files(tmp_path):
    rgb = np.arange(5 * 4 * 3, dtype=np.uint8).reshape(4, 5, 3)
    for ending in ("nrrd", "mha"):
        image = sitk.GetImageFromArray(rgb, isVector=True)
        image.SetSpacing((0.2, 0.3))
        sitk.WriteImage(image, str(tmp_path / f"a.{ending}"))
        volume = read_itk(tmp_path / f"a.{ending}")
        np.testing.assert_array_equal(volume.array, rgb.T)
        assert (volume.affine, volume.spacing_mm) == (None, (0.2, 0.3))
        sitk.WriteImage(itk_image(ramp(5, 4, 1)), str(tmp_path / f"b.{ending}"))
        flat = read_itk(tmp_path / f"b.{ending}")
        assert flat.array.shape == (1, 5, 4)
        np.testing.assert_allclose(flat.affine, affine_of(itk_image(ramp(5, 4, 1))))


def test_big_endian_text_and_skips(tmp_path):
    big = ramp(4, 3, 2).astype(">i2").tobytes(order="F")
    words = " ".join(str(v) for v in ramp(4, 3, 2).ravel(order="F")).encode()
    paths = [
        nrrd(tmp_path / "a.nrrd", HEAD.replace("little", "big"), big),
        nrrd(tmp_path / "b.nrrd", HEAD.replace("raw", "ascii"), words),
        nrrd(tmp_path / "c.nrrd", HEAD + "byte skip: -1\n", b"junk" + ramp(4, 3, 2).tobytes(order="F")),
        nrrd(tmp_path / "d.nrrd", HEAD + "byte skip: 4\n", b"junk" + ramp(4, 3, 2).tobytes(order="F")),
        meta(tmp_path / "a.mha", META + "BinaryDataByteOrderMSB = True\n", big),
        meta(tmp_path / "b.mha", META + "BinaryData = False\n", words),
        meta(
            tmp_path / "c.mha",
            META + "CompressedData = True\n",
            zlib.compress(ramp(4, 3, 2).tobytes(order="F")),
        ),
    ]
    for path in paths:
        np.testing.assert_array_equal(read_itk(path).array[0], ramp(4, 3, 2), err_msg=path.name)
        assert read_itk(path).array.dtype == np.int16


def test_metaimage_without_a_place(tmp_path):
    nothing = read_itk(meta(tmp_path / "a.mha", META + "ElementSpacing = 1 2 3\n"))
    assert (nothing.affine, nothing.spacing_mm) == (None, (1, 2, 3))
    assert read_itk(meta(tmp_path / "b.mha", META)).spacing_mm is None
    default = read_itk(meta(tmp_path / "c.mha", META + "ElementSpacing = 1 2 3\nPosition = 4 5 6\n"))
    np.testing.assert_array_equal(
        default.affine, LPS @ [[1, 0, 0, 4], [0, 2, 0, 5], [0, 0, 3, 6], [0, 0, 0, 1]]
    )
    assert any("no TransformMatrix" in note for note in default.notes)


def test_vtk_has_spacing_but_no_patient_axes(tmp_path):
    sitk.WriteImage(itk_image(ramp(5, 4, 3), np.eye(3)), str(tmp_path / "a.vtk"))
    volume = read_itk(tmp_path / "a.vtk")
    np.testing.assert_array_equal(volume.array[0], ramp(5, 4, 3))
    assert (volume.affine, volume.spacing_mm) == (None, (0.5, 0.75, 2.5))
    (tmp_path / "b.vtk").write_text("# vtk DataFile Version 3.0\nx\nASCII\nDATASET POLYDATA\nSCALARS a int\n")
    with pytest.raises(ImageReadError, match="structured points, found 'POLYDATA'"):
        read_itk(tmp_path / "b.vtk")


@pytest.mark.parametrize(
    "name", ["../out.raw", "/etc/passwd", "sub/../../out.raw", "..\\out.raw", "C:\\a.raw", "~/a"]
)
@pytest.mark.parametrize("ending", ["nhdr", "mhd"])
def test_no_header_names_a_file_outside_of_its_folder(tmp_path, name, ending):
    (tmp_path / "out.raw").write_bytes(bytes(48))
    folder = tmp_path / "in"
    (folder / "sub").mkdir(parents=True)
    text = HEAD + f"data file: {name}\n" if ending == "nhdr" else META + f"ElementDataFile = {name}\n"
    (folder / f"a.{ending}").write_text(text)
    with pytest.raises(ImageReadError, match="expected a file in the folder of the header"):
        read_itk(folder / f"a.{ending}")


@pytest.mark.parametrize("ending", ["nhdr", "mhd"])
def test_other_voxel_files_that_are_refused(tmp_path, ending):
    def header(name: str):
        text = HEAD + f"data file: {name}\n" if ending == "nhdr" else META + f"ElementDataFile = {name}\n"
        (tmp_path / f"a.{ending}").write_text(text)
        return tmp_path / f"a.{ending}"

    for name in ("LIST", "LIST 2\na.raw\nb.raw", "slice%03d.raw 1 9 1"):
        with pytest.raises(ImageReadError, match="several files"):
            read_itk(header(name))
    with pytest.raises(ImageReadError, match=r"'a\.raw' that the header names is not there"):
        read_itk(header("a.raw"))
    os.symlink("/etc/hostname", tmp_path / "link.raw")
    with pytest.raises(ImageReadError, match="a link that leaves the folder"):
        read_itk(header("link.raw"))
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "a.raw").write_bytes(ramp(4, 3, 2).tobytes(order="F"))
    np.testing.assert_array_equal(read_itk(header("d/a.raw")).array[0], ramp(4, 3, 2))


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("sizes: 4 3 2", "sizes: 4 3 3", "asks for .* bytes, .* are there"),
        ("sizes: 4 3 2", "sizes: 4 0 2", "no voxels"),
        ("sizes: 4 3 2", "sizes: 4 -3 2", "no voxels"),
        ("sizes: 4 3 2", "sizes: 4 3 99999999999999999999", "whole numbers"),
        ("sizes: 4 3 2", "sizes: 40000 30000 20000", r"the limit is \d+ .option max_voxels"),
        ("sizes: 4 3 2\n", "", "no field 'sizes'"),
        ("dimension: 3", "dimension: 3\ndimension: 3", "'dimension' twice"),
        ("dimension: 3", "dimension: 17", "17 axes"),
        ("type: short", "type: block", "real numbers, found type 'block'"),
        ("encoding: raw", "encoding: hex", "'hex' is not read"),
        ("endian: little", "endian: middle", "little or big"),
        ("encoding: raw", "encoding: raw\nline skip: 3", "line skip 3"),
        ("encoding: raw", "encoding: raw\nspace directions: (1,0,0) (0,1,0)", "expected 3 vectors"),
        ("encoding: raw", "encoding: gzip", "damaged"),
    ],
)
def test_lying_nrrd_headers(tmp_path, old, new, words):
    assert old in HEAD
    with pytest.raises(ImageReadError, match=words):
        read_itk(nrrd(tmp_path / "a.nrrd", HEAD.replace(old, new)))


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("DimSize = 4 3 2", "DimSize = 4 3 3", "asks for .* bytes, .* are there"),
        ("DimSize = 4 3 2", "DimSize = 4 3", "3 whole numbers"),
        ("DimSize = 4 3 2", "DimSize = 40000 30000 20000", "option max_voxels"),
        ("NDims = 3", "NDims = 9", "9 axes"),
        ("ObjectType = Image", "ObjectType = Tube", "type Image, found 'Tube'"),
        ("MET_SHORT", "MET_OTHER", "found type 'MET_OTHER'"),
        ("NDims = 3", "NDims = 3\nNDims = 3", "'NDims' twice"),
        ("NDims = 3", "NDims = 3\nElementSpacing = 1 nan 1", "spacings in mm"),
        ("NDims = 3", "NDims = 3\nBinaryData = maybe", "True or False"),
        ("NDims = 3", "NDims = 3\nCompressedData = True", "damaged"),
    ],
)
def test_lying_metaimage_headers(tmp_path, old, new, words):
    assert old in META
    with pytest.raises(ImageReadError, match=words):
        read_itk(meta(tmp_path / "a.mha", META.replace(old, new)))


@pytest.mark.parametrize("direction", ["(0,0,0)", "(1e30,0,0)", "(inf,0,0)", "(0,2,0)"])
def test_damaged_directions(tmp_path, direction):
    with pytest.raises(GeometryError, match="affine is not finite, flat or absurd"):
        read_itk(nrrd(tmp_path / "a.nrrd", HEAD + PLACED.replace("(1,0,0)", direction)))


def test_gzip_checksum_and_short_gzip(tmp_path):
    header, data = HEAD.replace("raw", "gzip"), bytearray(gzip.compress(ramp(4, 3, 2).tobytes(order="F")))
    np.testing.assert_array_equal(
        read_itk(nrrd(tmp_path / "a.nrrd", header, bytes(data))).array[0], ramp(4, 3, 2)
    )
    data[-8] ^= 1
    with pytest.raises(ImageReadError, match="CRC"):
        read_itk(nrrd(tmp_path / "b.nrrd", header, bytes(data)))
    big = header.replace("4 3 2", "400 300 200")
    with pytest.raises(ImageReadError, match="compressed bytes cannot hold the 48000000 bytes"):
        read_itk(nrrd(tmp_path / "c.nrrd", big, bytes(data)))


BOMB = """
    import resource, sys, time
    from pathlib import Path
    import medseg.io.itk_image, medseg.io.nifti
    from medseg.errors import MedsegError
    from medseg.io.read import read_image
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.monotonic()
    try:
        read_image([Path(sys.argv[1])])
    except MedsegError as err:
        print(type(err).__name__, err)
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024
    assert grown < 512 and time.monotonic() - start < 30, (grown, time.monotonic() - start)
"""


def bomb_of(kind: str, folder):
    """A header within the limits, and as much compressed zeros behind it as 1 MiB can hold."""
    zeros = bytes(1 << 20)
    engine = zlib.compressobj(9, zlib.DEFLATED, 31 if kind == "nrrd" else 15)
    data = b"".join(engine.compress(zeros) for _ in range(80)) + engine.flush()
    if kind == "nrrd":
        return nrrd(folder / "a.nrrd", HEAD.replace("raw", "gzip"), data)
    return meta(folder / "a.mha", META + "CompressedData = True\n", data)


@pytest.mark.parametrize("kind", ["nrrd", "metaimage"])
def test_bombs_stay_within_the_budget(tmp_path, kind):
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(BOMB), str(bomb_of(kind, tmp_path))],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "bytes follow the voxels; the header is wrong" in done.stdout


def read_or_refuse(path) -> Volume | MedsegError:
    try:
        return read_image([path])
    except MedsegError as err:
        return err


@pytest.mark.parametrize("name", ["a.nrrd", "a.mha", "a.vtk"])
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    places=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), min_size=1, max_size=4)
)
def test_mutated_files_are_read_or_refused(tmp_path, name, places):
    path = tmp_path / name
    sitk.WriteImage(itk_image(ramp(5, 4, 3)), str(path), useCompression=True)
    data = bytearray(path.read_bytes())
    for place, byte in places:
        data[int(place * len(data))] = byte
    path.write_bytes(data)
    outcome = read_or_refuse(path)
    if isinstance(outcome, Volume):
        assert np.isfinite(outcome.array).all()
    else:
        assert "\n" not in str(outcome)


@pytest.mark.parametrize("ending", ["h5", "mnc"])
def test_damaged_hdf5_ends_in_a_sentence(tmp_path, ending):
    sitk.WriteImage(itk_image(ramp(5, 4, 3)), str(tmp_path / f"a.{ending}"))
    data = (tmp_path / f"a.{ending}").read_bytes()
    (tmp_path / f"b.{ending}").write_bytes(data[: len(data) // 3])
    with pytest.raises(ImageReadError, match="SimpleITK finds no image"):
        read_itk(tmp_path / f"b.{ending}")
    with pytest.raises(ImageReadError, match="option max_voxels"):
        read_itk(tmp_path / f"a.{ending}", limits=ReadLimits(max_voxels=10))


def test_masks_of_another_format(tmp_path):
    image = itk_image(ramp(5, 4, 3))
    sitk.WriteImage(image, str(tmp_path / "i.nrrd"))
    like = read_image([tmp_path / "i.nrrd"])
    mask = itk_image((ramp(5, 4, 3) % 3).astype(np.float32))
    sitk.WriteImage(mask, str(tmp_path / "m.mha"))
    label = read_label(tmp_path / "m.mha", like)
    assert label.dtype == np.int32
    np.testing.assert_array_equal(label[0], ramp(5, 4, 3) % 3)


def test_real_files_equal_simpleitk(shared_data):
    for folder, ending in (("mr_tumour_nrrd", "nrrd"), ("ct_small", "mha")):
        paths = sorted((shared_data / folder).rglob(f"*.{ending}"))
        assert paths
        for path in paths:
            volume, image = read_itk(path), sitk.ReadImage(str(path))
            np.testing.assert_array_equal(volume.array[0], sitk.GetArrayFromImage(image).T)
            np.testing.assert_allclose(volume.affine, affine_of(image), atol=1e-9)


def test_real_masks_share_the_grid_or_are_refused(shared_data):
    with (shared_data / "mr_tumour_nrrd" / "cases.csv").open(newline="") as stream:
        for row in csv.DictReader(stream):
            folder = shared_data / "mr_tumour_nrrd"
            label = read_label(folder / row["labels"], read_image([folder / row["images"]]))
            assert int(np.count_nonzero(label)) == int(row["label_voxels"])
    folder = shared_data / "ct_small"
    image = read_image([folder / "images" / "ct_lung_other_grid.mha"])
    mask = folder / "labels" / "ct_lung_other_grid.mha"
    with pytest.raises(GeometryError, match=r"57 x 78 x 64 voxels of 2\.732 x 2\.732 x 5 mm, axes LPS"):
        read_label(mask, image)
    label = read_label(mask, image, resample="nearest")
    resampled = sitk.Resample(
        sitk.ReadImage(str(mask)),
        sitk.ReadImage(str(folder / "images" / "ct_lung_other_grid.mha")),
        sitk.Transform(),
        sitk.sitkNearestNeighbor,
        0,
    )
    theirs = sitk.GetArrayFromImage(resampled).T
    assert 2 * np.sum((label[0] > 0) & (theirs > 0)) / (np.sum(label > 0) + np.sum(theirs > 0)) > 0.99


def test_kinds_are_told_by_content(tmp_path):
    path = nrrd(tmp_path / "a.dcm", HEAD)
    assert sniff(path) == "nrrd"
    assert isinstance(read_image([path]), Volume)


@pytest.mark.parametrize("number", ["1e999", "-1e999", "1e200"])
def test_directions_beyond_all_numbers_are_refused(tmp_path, number):
    path = meta(
        tmp_path / "a.mha",
        f"{META}ElementSpacing = 1 1 1\nOffset = 0 0 0\nTransformMatrix = 1 0 0 0 {number} 0 0 0 1\n",
    )
    with pytest.raises(GeometryError, match="not finite, flat or absurd"):
        read_image([path])
