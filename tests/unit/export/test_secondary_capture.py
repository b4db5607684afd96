"""Secondary captures: key slices, banner, contours, references."""

from __future__ import annotations

from datetime import datetime

import dicom_results as made_up
import numpy as np
import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from medseg.errors import GeometryError, InputError
from medseg.export.key_slices import key_slices, result_picture
from medseg.export.result_object import ModelFacts
from medseg.export.secondary_capture import write_secondary_capture
from medseg.labels import Label, LabelTable
from medseg.volume import Volume

MODEL = ModelFacts(name="abdomen", version="1.2", weights_sha256="ab" * 32)
BANNER_RGB = (122, 38, 20)


def write(made, path, **options):
    label_map = options.pop("label_map", made.label_map)
    return write_secondary_capture(path, made.volume, label_map, table=made_up.TABLE, model=MODEL, **options)


def test_one_slice_may_show_two_structures_and_others_fill_up():
    areas = np.zeros((40, 4), dtype=np.int64)
    areas[10:20, 1] = [1, 2, 5, 9, 10, 9, 5, 2, 1, 1]
    areas[8:17, 2] = [1, 2, 3, 4, 5, 7, 7, 6, 1]
    areas[30:33, 3] = [1, 5, 1]
    assert key_slices(areas, fewest=0) == (14, 31)
    filled = key_slices(areas)
    assert len(filled) == 6
    assert {14, 31} <= set(filled)
    assert areas[list(filled)].any(axis=1).all()
    assert key_slices(np.zeros((9, 3), dtype=np.int64)) == (4,)


@settings(max_examples=60, deadline=None)
@given(arrays(np.int64, st.tuples(st.integers(1, 30), st.integers(2, 40)), elements=st.integers(0, 9)))
def test_never_more_than_allowed_and_every_structure_when_they_fit(areas):
    areas[:, 0] = 0
    chosen = key_slices(areas, most=12)
    assert 1 <= len(chosen) <= 12
    assert list(chosen) == sorted(set(chosen))
    if len(chosen) < 12:
        assert (areas[list(chosen)].max(axis=0) >= 0.9 * areas.max(axis=0)).all()


@pytest.fixture(scope="module")
def ct(tmp_path_factory):
    return made_up.write_series(tmp_path_factory.mktemp("ct"), shape=(60, 50, 16))


def test_a_volume_becomes_a_sheet_of_slices(ct, tmp_path):
    written = write(ct, tmp_path / "sc.dcm", captions={"liver": "1510 ml"})
    capture = pydicom.dcmread(tmp_path / "sc.dcm")
    pixels = capture.pixel_array
    assert (capture.PhotometricInterpretation, pixels.dtype, pixels.shape[2]) == ("RGB", np.uint8, 3)
    assert tuple(pixels[2, 2]) == BANNER_RGB
    assert capture.BurnedInAnnotation == "YES"
    assert list(capture.ImageType) == ["DERIVED", "SECONDARY"]
    assert (capture.Modality, capture.SeriesNumber) == ("OT", 931)
    assert capture.SeriesDescription == "medseg abdomen 1.2 [SC]"
    assert (capture.PatientName, capture.StudyInstanceUID) == ("Ph\xe4ntom^Eins", "2.25.30")
    assert (capture.ContentDate, capture.PatientOrientation) == ("20240229", "")
    shown = {item.ReferencedSOPInstanceUID for item in capture.SourceImageSequence}
    assert len(shown) == 6
    assert shown < {f"2.25.{1000 + k}" for k in range(16)}
    for label in made_up.TABLE.labels:
        colour = [int(label.colour[k : k + 2], 16) for k in (1, 3, 5)]
        assert (pixels.reshape(-1, 3) == colour).all(axis=1).any(), label.name
    assert written.notes == ()


def test_contours_lie_where_the_structure_is(tmp_path):
    label_map = np.zeros((100, 80, 3), dtype=np.uint8)
    label_map[20:50, 10:30, 1] = 3
    volume = Volume(array=np.zeros((1, 100, 80, 3), np.float32), affine=np.eye(4), spacing_mm=(1.0, 1.0, 5.0))
    picture = result_picture(volume, label_map, made_up.TABLE, banner="RESEARCH")
    assert picture.slices == (1,)
    pixels = np.asarray(picture.image).astype(int)
    scale, top = 1400 / 100, len(pixels) - 1400 * 80 // 100
    orange = np.abs(pixels - [0xFF, 0xB0, 0x3A]).sum(axis=2) < 12
    rows, columns = np.nonzero(orange[: len(pixels) - top // 2])
    banner = next(k for k in range(len(pixels)) if tuple(pixels[k, 0]) != BANNER_RGB)
    assert abs(columns.min() - 20 * scale) < 4
    assert abs(columns.max() - 50 * scale) < 4
    assert abs(rows.min() - banner - 10 * scale) < 4
    assert abs(rows.max() - banner - 30 * scale) < 4


def test_a_radiograph_keeps_its_orientation(tmp_path):
    made = made_up.write_radiograph(tmp_path / "source")
    write(made, tmp_path / "sc.dcm")
    capture = pydicom.dcmread(tmp_path / "sc.dcm")
    assert list(capture.PatientOrientation) == ["L", "F"]
    assert (capture.BodyPartExamined, "Laterality" in capture) == ("ABDOMEN", False)
    (item,) = capture.SourceImageSequence
    assert item.ReferencedSOPInstanceUID == "2.25.100"


@pytest.mark.parametrize(("found", "kept"), [("R", "R"), ("L", "L"), ("JANE", None)])
def test_a_side_is_a_letter_or_left_out(tmp_path, found: str, kept: str | None):
    made = made_up.write_radiograph(tmp_path / "source", Laterality=found)
    write(made, tmp_path / "sc.dcm")
    assert pydicom.dcmread(tmp_path / "sc.dcm").get("Laterality") == kept


def test_the_same_picture_is_the_same_instance(ct, tmp_path):
    first, second = write(ct, tmp_path / "a.dcm"), write(ct, tmp_path / "b.dcm")
    assert (tmp_path / "a.dcm").read_bytes() == (tmp_path / "b.dcm").read_bytes()
    assert first == type(first)(
        path=tmp_path / "a.dcm",
        sop_instance_uid=second.sop_instance_uid,
        series_instance_uid=second.series_instance_uid,
    )
    other = write(ct, tmp_path / "c.dcm", captions={"liver": "3 ml"})
    dated = write(ct, tmp_path / "d.dcm", created=datetime(2026, 1, 2, 3, 4, 5))
    assert len({w.sop_instance_uid for w in (first, other, dated)}) == 3


def test_many_structures_are_named_where_found_and_told_where_not_shown():
    labels = tuple(Label(name=f"part_{n}", value=n, colour="#40c0ff") for n in range(1, 31))
    label_map = np.zeros((40, 8, 30), dtype=np.uint8)
    for n in range(1, 26):
        label_map[n : n + 2, 2:5, n] = n
    volume = Volume(array=np.zeros((1, 40, 8, 30), np.float32), affine=np.eye(4), spacing_mm=(1.0, 1.0, 1.0))
    picture = result_picture(volume, label_map, LabelTable(labels=labels), banner="RESEARCH")
    assert len(picture.slices) == 12
    (note,) = picture.notes
    assert note.count("part_") == 13


def test_refusals(ct, tmp_path):
    with pytest.raises(GeometryError, match="share a grid"):
        write(ct, tmp_path / "sc.dcm", label_map=ct.label_map[:-1])
    plain = Volume(array=np.zeros((1, 9, 8, 4), np.float32))
    with pytest.raises(InputError, match="not a DICOM file"):
        write_secondary_capture(
            tmp_path / "sc.dcm", plain, np.ones((9, 8, 4), np.uint8), table=made_up.TABLE, model=MODEL
        )
