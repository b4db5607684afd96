"""Mutated and real odd files: every reader gives a Volume or says what is wrong, in bounded time."""

from __future__ import annotations

import csv
import hashlib
import io
import time
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from image_files import png_bytes, radiograph, ramp, save, tiff_bytes
from PIL import Image

from medseg.errors import ImageReadError, MedsegError
from medseg.io.dicom import read_radiograph
from medseg.io.dicom_file import parse_file
from medseg.io.dicom_format import pixel_format
from medseg.io.dicom_header import DicomHeader
from medseg.io.dicom_pixels import decode
from medseg.io.discover import discover
from medseg.io.limits import DEFAULT_LIMITS
from medseg.io.read import read_image
from medseg.volume import Volume

_SECONDS = 20
_SMALL = 300_000


@pytest.fixture(scope="module")
def good_files(tmp_path_factory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("good")
    item = radiograph(PatientName="A^B", PixelSpacing=[0.2, 0.2], RescaleSlope="1", RescaleIntercept="0")
    nib.save(nib.Nifti1Image(ramp().astype(np.float32), np.diag([2, 3, 4, 1])), folder / "a.nii")
    nib.save(nib.Nifti1Image(ramp().astype(np.int16), np.diag([2, 3, 4, 1])), folder / "a.nii.gz")
    jpeg = io.BytesIO()
    Image.fromarray((ramp(24, 16) % 251).astype(np.uint8)).save(jpeg, "JPEG")
    return {
        "a.dcm": save(item, folder / "a.dcm").read_bytes(),
        "a.png": png_bytes(ramp(), depth=16, colour=0),
        "rgb.png": png_bytes(np.arange(90).reshape(6, 5, 3) * 700, depth=16, colour=2),
        "a.tif": tiff_bytes(ramp()),
        "a.jpg": jpeg.getvalue(),
        "a.nii": (folder / "a.nii").read_bytes(),
        "a.nii.gz": (folder / "a.nii.gz").read_bytes(),
    }


@st.composite
def mutations(draw: st.DrawFn) -> list[tuple[str, float, float, int]]:
    kinds = st.sampled_from(["flip", "set", "cut", "remove", "repeat", "length"])
    places = st.floats(0, 1, exclude_max=True)
    return draw(st.lists(st.tuples(kinds, places, places, st.integers(0, 255)), min_size=1, max_size=3))


def read_or_refuse(read: Callable[[], Volume]) -> Volume | MedsegError:
    try:
        return read()
    except MedsegError as err:
        return err


def mutated(data: bytes, steps: list[tuple[str, float, float, int]]) -> bytes:
    changed = bytearray(data)
    for kind, first, second, byte in steps:
        at, other = int(first * len(changed)), int(second * len(changed))
        if kind == "flip" and changed:
            changed[at] ^= 1 << byte % 8
        elif kind == "set":
            changed[at : at + 2] = bytes([byte, byte])
        elif kind == "cut":
            del changed[at:]
        elif kind == "remove":
            del changed[at : at + byte]
        elif kind == "repeat":
            changed[at:at] = changed[other : other + byte]
        elif kind == "length":
            changed[at : at + 4] = b"\xff\xff\xff\x7f"
    return bytes(changed)


@pytest.mark.parametrize("name", ["a.dcm", "a.png", "rgb.png", "a.tif", "a.jpg", "a.nii", "a.nii.gz"])
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=mutations())
def test_mutated_files_are_read_or_refused(name, good_files, tmp_path, steps):
    path = tmp_path / name
    path.write_bytes(mutated(good_files[name], steps))
    outcome = read_or_refuse(lambda: read_image([path]))
    if isinstance(outcome, Volume):
        assert np.isfinite(outcome.array).all()
    else:
        assert "\n" not in str(outcome)
    discover([path])


@pytest.mark.parametrize("vr", [b"UL", b"FL"])
def test_values_shorter_than_their_kind_are_refused_with_a_sentence(good_files, tmp_path, vr):
    path = tmp_path / "rows.dcm"
    path.write_bytes(good_files["a.dcm"].replace(b"\x28\0\x10\0US", b"\x28\0\x10\0" + vr))
    with pytest.raises(ImageReadError, match="Rows is not a number"):
        read_radiograph(path)


@pytest.mark.parametrize("depth", [50, 400, 5000])
def test_deep_nesting_is_refused(tmp_path, depth):
    item = bytes.fromhex("feff00e0ffffffff")
    sequence = bytes.fromhex("40007502") + b"SQ\0\0\xff\xff\xff\xff"
    head = bytes(128) + b"DICM" + bytes.fromhex("02001000") + b"UI\x14\x001.2.840.10008.1.2.1\0"
    path = tmp_path / "deep.dcm"
    path.write_bytes(head + (sequence + item) * depth)
    with pytest.raises(ImageReadError):
        read_radiograph(path)


def dicom_files(folder: Path) -> Iterator[Path]:
    return (path for path in sorted(folder.rglob("*")) if path.is_file() and path.stat().st_size < _SMALL)


@pytest.mark.parametrize(
    "pattern",
    [
        "cr_*",
        "dx_*",
        "broken_and_hostile",
        "no_meta_header",
        "high_bits_garbage",
        "charsets*",
        "dicomdir_tree",
        "us_palette_and_ybr",
        "non_image_objects",
        "decimal_rescale",
        "seg_liver",
        "ct_localizer",
    ],
)
def test_real_odd_files_are_read_or_refused(shared_data, pattern):
    folders = sorted((shared_data / "dicom").glob(pattern))
    assert folders
    for path in (path for folder in folders for path in dicom_files(folder)):
        start = time.monotonic()
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            outcome = read_or_refuse(partial(read_radiograph, path))
        assert isinstance(outcome, Volume) or path.name in str(outcome)
        assert time.monotonic() - start < _SECONDS


def test_chest_films_have_dark_lungs(shared_data):
    for folder in ("cr_monochrome1_chest", "no_meta_header"):
        (path,) = (shared_data / "dicom" / folder).iterdir()
        volume = read_radiograph(path)
        assert volume.modality == "CR"
        assert "MONOCHROME1, inverted" in volume.notes
        columns, rows = volume.spatial_shape
        lung = np.median(volume.array[0, columns // 4 : columns // 3, rows // 3 : rows // 2])
        middle = np.median(volume.array[0, columns * 9 // 20 : columns * 11 // 20, rows // 2 : rows * 2 // 3])
        assert lung < middle


def test_stored_values_equal_those_of_two_other_decoders(shared_data):
    """`pixels.csv` of the DICOM collection: hashes that pydicom and GDCM agree on."""
    folder = shared_data / "dicom"
    compared = 0
    with (folder / "pixels.csv").open(newline="") as stream:
        for row in csv.DictReader(stream):
            path = folder / row["case"] / row["file"]
            exact = (
                row["sha256_int32"] and row["ts"] != "1.2.840.10008.1.2.4.50"
            )  # lossy decoders differ by one
            if not exact or not path.is_file() or path.stat().st_size > _SMALL // 8:
                continue
            dataset, _ = parse_file(path.read_bytes(), path, DEFAULT_LIMITS)
            header = DicomHeader.of(dataset, path)
            try:
                pixels = decode(header, pixel_format(header, DEFAULT_LIMITS)).array
            except MedsegError:
                continue
            if pixels.dtype.kind in "iu":
                digest = hashlib.sha256(np.ascontiguousarray(pixels, dtype="<i4").tobytes()).hexdigest()[:16]
                assert digest == row["sha256_int32"], path.name
                compared += 1
    assert compared > 20


def test_every_file_of_the_collection_is_found_or_explained(shared_data):
    folder = shared_data / "dicom"
    found = discover([folder])
    files = {path for path in folder.rglob("*") if path.is_file()}
    told = {path for image in found.images for path in image.paths}
    told |= {header.path for image in found.images if image.volume for header in image.volume.slices}
    assert told | {item.path for item in found.skipped} == files
    assert len({image.case_id for image in found.images}) == len(found.images)
    assert {image.modality for image in found.images} >= {"CR", "DX", "CT", "MR", "US"}
