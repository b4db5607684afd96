"""Longest diameter, volume and intensity against hand-computed and brute-force answers."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.spatial.distance import pdist

from medseg.evaluation.diameter import longest_diameter
from medseg.evaluation.intensity import intensities_of
from medseg.evaluation.measure import measure_case
from medseg.labels import Label, LabelTable
from medseg.volume import Volume

TABLE = LabelTable(
    labels=(Label(name="organ", value=1, colour="#00ff00"), Label(name="lesion", value=2, colour="#ff0000")),
    regions={"all": ("organ", "lesion")},
)
MEASURES = ("volume", "area", "long_axis", "intensity")


def rotation(*degrees: float) -> np.ndarray:
    matrix = np.eye(3)
    for axis, angle in enumerate(np.radians(degrees)):
        i, j = (a for a in range(3) if a != axis)
        turn = np.eye(3)
        turn[i, i] = turn[j, j] = np.cos(angle)
        turn[i, j], turn[j, i] = -np.sin(angle), np.sin(angle)
        matrix = turn @ matrix
    return matrix


def affine_of(steps: np.ndarray) -> np.ndarray:
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = steps, (-31.0, 17.0, 5.0)
    return affine


OBLIQUE = rotation(17, -11, 23) @ np.diag([0.65, 0.8, 2.5])
SHEARED = rotation(3, -2, 4) @ np.array([[0.7, 0, 0], [0, -0.7, 1.2], [0, 0, 2.0]])


def face_middles(mask: np.ndarray) -> np.ndarray:
    """Every face between a voxel inside and one outside, the slow way."""
    points = []
    padded = np.pad(mask, 1)
    for axis in range(mask.ndim):
        lines = np.moveaxis(padded, axis, -1)
        for place in np.argwhere(lines[..., 1:] != lines[..., :-1]):
            point = place.astype(float) - 1
            point[-1] += 0.5
            points.append(np.insert(point[:-1], axis, point[-1]))
    return np.array(points)


@pytest.mark.parametrize("steps", [OBLIQUE, SHEARED, np.diag([2.0, 0.5, 3.0])])
def test_a_box_on_any_grid(steps):
    mask = np.zeros((12, 9, 7), dtype=bool)
    mask[2:9, 1:7, 3:6] = True
    # The ends of the longest line are in the middle of faces: half a voxel in along the two other axes.
    spans = [(7, 5, 2), (6, 6, 2), (6, 5, 3)]
    signs = [(a, b, c) for a in (1, -1) for b in (1, -1) for c in (1, -1)]
    by_hand = max(np.linalg.norm(steps @ (np.array(span) * sign)) for span in spans for sign in signs)
    mixed = pdist(face_middles(mask) @ steps.T).max()
    assert longest_diameter(mask, steps) == pytest.approx(mixed, rel=1e-12)
    assert by_hand <= mixed + 1e-12


def test_one_voxel_a_row_and_nothing():
    mask = np.zeros((5, 6, 7), dtype=bool)
    assert longest_diameter(mask, OBLIQUE) == 0
    mask[2, 3, 4] = True
    assert longest_diameter(mask, OBLIQUE) == pytest.approx(2.5)
    mask[2, 3] = True
    assert longest_diameter(mask, np.diag([0.65, 0.8, 2.5])) == pytest.approx(7 * 2.5)


@settings(max_examples=60, deadline=None)
@given(
    mask=arrays(bool, st.tuples(*[st.integers(1, 5)] * 3), elements=st.booleans()),
    steps=st.sampled_from([OBLIQUE, SHEARED, np.diag([1.0, 1.0, 9.0])]),
)
def test_equals_the_largest_distance_of_all_faces(mask, steps):
    expected = pdist(face_middles(mask) @ steps.T).max() if mask.any() else 0.0
    assert longest_diameter(mask, steps) == pytest.approx(expected, rel=1e-9)


def test_flat_masks_and_their_pixels():
    mask = np.zeros((9, 8), dtype=bool)
    mask[1:8, 2:4] = True
    assert longest_diameter(mask, np.diag([0.5, 2.0])) == pytest.approx(
        pdist(face_middles(mask) * [0.5, 2.0]).max()
    )


def sphere(steps: np.ndarray, shape: tuple[int, int, int], radius: float) -> np.ndarray:
    index = np.indices(shape).reshape(3, -1).T - (np.array(shape) - 1) / 2
    return (np.linalg.norm(index @ steps.T, axis=1) <= radius).reshape(shape)


@pytest.mark.parametrize("steps", [OBLIQUE, SHEARED])
def test_a_sphere_on_an_oblique_and_a_sheared_grid(steps):
    shape, radius = (71, 81, 27), 19.0
    mask = sphere(steps, shape, radius)
    measures = measure_case(
        mask.astype(np.uint8),
        table=TABLE,
        measures=MEASURES,
        case_id="sphere",
        spacing_mm=tuple(np.linalg.norm(steps, axis=0)),
        affine=affine_of(steps),
    ).structures["organ"]
    volume, axis = measures.quantities["volume"], measures.quantities["long_axis"]
    assert not measures.cut_off
    assert volume.value == pytest.approx(4 / 3 * np.pi * radius**3 / 1000, rel=0.005)
    assert 2 * radius - 0.1 < axis.value < 2 * radius + 2.5
    assert (volume.unit, axis.unit) == ("ml", "mm")


def test_volume_follows_the_determinant_not_the_spacings():
    label_map = np.zeros((10, 11, 12), dtype=np.uint8)
    label_map[2:5, 3:7, 4:9] = 1
    spacing = tuple(np.linalg.norm(SHEARED, axis=0))
    quantity = (
        measure_case(
            label_map,
            table=TABLE,
            measures=("volume",),
            case_id="a",
            spacing_mm=spacing,
            affine=affine_of(SHEARED),
        )
        .structures["organ"]
        .quantities["volume"]
    )
    assert quantity.value == pytest.approx(60 * 0.7 * 0.7 * 2.0 / 1000)
    assert quantity.value < 0.9 * 60 * np.prod(spacing) / 1000


def test_intensity_of_a_ct_by_hand_and_a_cut_off_structure():
    array = np.zeros((1, 4, 5, 6), dtype=np.float32)
    label_map = np.zeros((4, 5, 6), dtype=np.uint8)
    label_map[1:3, 2, 3] = 1
    array[0, 1, 2, 3], array[0, 2, 2, 3] = 10, 30
    label_map[0, 0, 0], array[0, 0, 0, 0] = 2, -1000
    volume = Volume(array=array, affine=affine_of(OBLIQUE), spacing_mm=(0.65, 0.8, 2.5), modality="CT")
    measures = measure_case(
        label_map,
        table=TABLE,
        measures=MEASURES,
        case_id="ct",
        spacing_mm=volume.spacing_mm,
        affine=volume.affine,
        intensities=intensities_of(volume),
    )
    organ = measures.structures["organ"].quantities
    names = ("mean_intensity", "sd_intensity", "min_intensity", "max_intensity")
    assert [organ[name].value for name in names] == [20, 10, 10, 30]
    assert {organ[name].unit for name in names} == {"HU"}
    lesion = measures.structures["lesion"].quantities
    assert (lesion["mean_intensity"].bound, lesion["long_axis"].bound) == ("unknown", "lower")
    assert measures.structures["all"].quantities["min_intensity"].value == -1000
    assert measures.structures["all"].shape.box == ((0, 2), (0, 2), (0, 3))
    assert measures.structures["all"].shape.touches == ("i first", "j first", "k first")


@pytest.mark.parametrize(
    ("modality", "header", "unit"),
    [
        ("CT", {}, "HU"),
        ("CT", {"value_type": "HU"}, "HU"),
        ("CT", {"value_type": "US"}, "1"),
        ("MR", {}, "1"),
        ("PT", {"value_type": "SUVBW"}, "g/ml{SUVbw}"),
        ("PT", {"value_type": "SUVLBM"}, "g/ml{SUVlbm}"),
        ("PT", {"value_type": "BQML"}, "Bq/ml"),
        ("PT", {"value_type": "SUVBSA"}, "cm2/ml{SUVbsa}"),
        ("PT", {"value_type": "GML"}, "1"),
        ("PT", {}, "1"),
        ("", {}, "1"),
    ],
)
def test_units_of_intensities(modality, header, unit):
    volume = Volume(array=np.zeros((1, 2, 2, 2)), affine=np.eye(4), modality=modality, header=header)
    found = intensities_of(volume)
    assert (found.unit, found.reason) == (unit, "")
    assert (found.note == "") == (unit != "1")


def test_radiographs_and_colour_have_no_intensity():
    assert "no unit" in intensities_of(Volume(array=np.zeros((1, 2, 2)), modality="CR")).reason
    assert "3 channels" in intensities_of(Volume(array=np.zeros((3, 2, 2, 2)), affine=np.eye(4))).reason


def test_absent_structures_and_unknown_spacing():
    label_map = np.zeros((5, 6), dtype=np.uint8)
    label_map[1:4, 2] = 1
    measures = measure_case(label_map, table=TABLE, measures=MEASURES, case_id="x", spacing_mm=None)
    organ, lesion = (measures.structures[name].quantities for name in ("organ", "lesion"))
    assert (organ["long_axis"].value, organ["long_axis"].unit) == (3.0, "pixels")
    assert (lesion["long_axis"].value, lesion["long_axis"].reason) == (None, "absent")
    assert organ["mean_intensity"].reason == "the image was not given"


def test_longer_with_every_voxel_added():
    mask = np.zeros((6, 6, 6), dtype=bool)
    lengths = []
    for place in [(1, 1, 1), (2, 1, 1), (4, 4, 4), (5, 5, 5)]:
        mask[place] = True
        lengths.append(longest_diameter(mask, SHEARED))
    assert all(a <= b for a, b in pairwise(lengths))
