"""Presentation states: contours hold the very pixels of the mask, in DICOM's coordinates."""

from __future__ import annotations

import itertools
from datetime import datetime

import dicom_results as made_up
import numpy as np
import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from medseg.errors import GeometryError, InputError
from medseg.export.outlines import outlines, pieces
from medseg.export.presentation_state import write_presentation_state
from medseg.export.result_object import ModelFacts

MODEL = ModelFacts(name="abdomen", version="1.2", weights_sha256="ab" * 32)


def inside(lines: list[np.ndarray], shape: tuple[int, int]) -> np.ndarray:
    """Pixels whose centres lie inside an odd number of outlines, by crossings of a ray along the row."""
    columns, rows = np.meshgrid(np.arange(shape[0]) + 0.5, np.arange(shape[1]) + 0.5, indexing="ij")
    odd = np.zeros(shape, dtype=bool)
    for line in lines:
        for (x0, y0), (x1, y1) in itertools.pairwise(line):
            if y0 != y1:
                spans = (y0 <= rows) != (y1 <= rows)
                odd ^= spans & (columns < x0 + (rows - y0) * (x1 - x0) / (y1 - y0))
    return odd


@settings(max_examples=60, deadline=None)
@given(mask=arrays(bool, st.tuples(st.integers(1, 9), st.integers(1, 9)), elements=st.booleans()))
def test_outlines_hold_exactly_the_mask(mask):
    lines = outlines(mask)
    assert all((line[0] == line[-1]).all() for line in lines)
    np.testing.assert_array_equal(inside(lines, mask.shape), mask)


def test_one_pixel_by_hand():
    mask = np.zeros((5, 4), dtype=bool)
    mask[3, 1] = True
    (line,) = outlines(mask)
    assert {tuple(p) for p in line} == {(3.0, 1.5), (4.0, 1.5), (3.5, 1.0), (3.5, 2.0)}


def test_pieces_join():
    line = np.arange(46.0).reshape(23, 2)
    parts = pieces(line, 10)
    assert [len(p) for p in parts] == [10, 10, 5]
    assert all((a[-1] == b[0]).all() for a, b in itertools.pairwise(parts))
    assert len(pieces(line[:10], 10)) == 1


@pytest.fixture
def film(tmp_path):
    return made_up.write_radiograph(
        tmp_path / "source",
        PhotometricInterpretation="MONOCHROME1",
        WindowCenter=1200,
        WindowWidth=2400,
        ImagerPixelSpacing=[0.4, 0.3],
    )


def write(made, path, **options):
    label_map = options.pop("label_map", made.label_map)
    return write_presentation_state(
        path, label_map, grid=made.volume.grid, table=made_up.TABLE, model=MODEL, **options
    )


def test_layers_contours_colours_and_references(film, tmp_path):
    film.label_map[film.label_map == 2] = 0
    write(film, tmp_path / "pr.dcm")
    state = pydicom.dcmread(tmp_path / "pr.dcm")
    assert [layer.GraphicLayerDescription for layer in state.GraphicLayerSequence] == [
        "kidney_right",
        "liver",
    ]
    assert [layer.GraphicLayer for layer in state.GraphicLayerSequence] == ["S1 KIDNEY_RIGHT", "S3 LIVER"]
    assert len({tuple(x.GraphicLayerRecommendedDisplayCIELabValue) for x in state.GraphicLayerSequence}) == 2
    for item, index in zip(state.GraphicAnnotationSequence, (1, 3), strict=True):
        assert item.ReferencedImageSequence[0].ReferencedSOPInstanceUID == "2.25.100"
        objects = item.GraphicObjectSequence
        assert {(o.GraphicType, o.GraphicAnnotationUnits, o.GraphicFilled) for o in objects} == {
            ("POLYLINE", "PIXEL", "N")
        }
        lines = [np.reshape(o.GraphicData, (-1, 2)) for o in objects]
        np.testing.assert_array_equal(inside(lines, film.label_map.shape), film.label_map == index)
    assert state.GraphicAnnotationSequence[1].TextObjectSequence[0].UnformattedTextValue == "liver"


def test_shown_as_the_film_is(film, tmp_path):
    write(film, tmp_path / "pr.dcm")
    state = pydicom.dcmread(tmp_path / "pr.dcm")
    assert state.PresentationLUTShape == "INVERSE"
    voi = state.SoftcopyVOILUTSequence[0]
    assert (voi.WindowCenter, voi.WindowWidth) == (1200, 2400)
    area = state.DisplayedAreaSelectionSequence[0]
    assert list(area.DisplayedAreaTopLeftHandCorner) == [1, 1]
    assert list(area.DisplayedAreaBottomRightHandCorner) == [107, 121]
    assert list(area.PresentationPixelSpacing) == [0.4, 0.3]
    assert "PresentationPixelAspectRatio" not in area
    assert (state.BodyPartExamined, state.Modality, state.SeriesNumber) == ("ABDOMEN", "PR", 921)
    assert (state.PresentationCreationDate, state.get("ContentDate")) == ("20240229", None)
    assert (state.PatientName, state.StudyInstanceUID) == ("Ph\xe4ntom^Eins", "2.25.30")


def test_the_same_state_is_the_same_instance(film, tmp_path):
    first, second = write(film, tmp_path / "a.dcm"), write(film, tmp_path / "b.dcm")
    assert (tmp_path / "a.dcm").read_bytes() == (tmp_path / "b.dcm").read_bytes()
    moved = write(film, tmp_path / "c.dcm", label_map=np.roll(film.label_map, 1, axis=0))
    dated = write(film, tmp_path / "d.dcm", created=datetime(2026, 1, 2, 3, 4, 5))
    assert first.sop_instance_uid == second.sop_instance_uid
    assert len({w.sop_instance_uid for w in (first, moved, dated)}) == 3


def test_outlines_longer_than_dicom_holds_are_split(tmp_path, monkeypatch):
    monkeypatch.setattr("medseg.export.presentation_state._MOST_POINTS", 50)
    made = made_up.write_radiograph(tmp_path / "source")
    comb = np.zeros_like(made.label_map)
    comb[5:100, 3] = 1
    comb[5:100:2, 3:118] = 1
    write(made, tmp_path / "pr.dcm", label_map=comb)
    (item,) = pydicom.dcmread(tmp_path / "pr.dcm").GraphicAnnotationSequence
    lines = [np.reshape(o.GraphicData, (-1, 2)) for o in item.GraphicObjectSequence]
    assert len(lines) > 2
    assert max(len(line) for line in lines) == 50
    np.testing.assert_array_equal(inside(lines, comb.shape), comb == 1)


def test_refusals(film, tmp_path):
    with pytest.raises(GeometryError, match="107 columns"):
        write(film, tmp_path / "pr.dcm", label_map=film.label_map[:, :-1])
    series = made_up.write_series(tmp_path / "ct", shape=(9, 8, 3))
    with pytest.raises(InputError, match="a label map of 3 axes"):
        write(series, tmp_path / "pr.dcm")
    nothing = write(film, tmp_path / "pr.dcm", label_map=np.zeros_like(film.label_map))
    assert nothing.path is None
    assert not (tmp_path / "pr.dcm").exists()
