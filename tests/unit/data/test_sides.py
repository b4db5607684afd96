"""Left and right by position."""

from __future__ import annotations

import numpy as np
import pytest

from medseg.data.sides import lateral_axis, sides_by_position
from medseg.labels import Label, LabelScheme, LabelTable
from medseg.volume import Volume

TABLE = LabelTable(
    labels=(
        Label(name="lung_right", value=1, colour="#3aa0ff", side="right", pair="lung_left"),
        Label(name="lung_left", value=2, colour="#b684f5", side="left", pair="lung_right"),
        Label(name="heart", value=3, colour="#ff0000"),
    ),
    schemes={
        "lung": LabelScheme(name="lung", values={1: ("lung_right", "lung_left")}, sides_by_position=True)
    },
)
RIGHT, LEFT, HEART = 1, 2, 3
LUNG = TABLE.sets.index(frozenset({1, 2}))


def picture(*boxes: tuple[int, int, int, int], value: int = LUNG) -> np.ndarray:
    """(1, 40, 30) background with boxes (i from, i to, j from, j to)."""
    sets = np.zeros((1, 40, 30), dtype=np.int16)
    for i0, i1, j0, j1 in boxes:
        sets[0, i0:i1, j0:j1] = value
    return sets


def test_the_component_towards_the_patients_left_gets_the_left_label():
    sets = picture((4, 16, 5, 25), (24, 36, 5, 20))
    found = sides_by_position(sets, table=TABLE)
    assert set(found[0, 4:16, 5:25].ravel()) == {RIGHT}
    assert set(found[0, 24:36, 5:20].ravel()) == {LEFT}
    assert (sets[sets > 0] == LUNG).all(), "the input is not changed"


def test_the_other_direction_and_the_other_axis_swap():
    sets = picture((4, 16, 5, 25), (24, 36, 5, 20))
    assert sides_by_position(sets, table=TABLE, left_is=-1)[0, 5, 6] == LEFT
    turned = np.ascontiguousarray(np.swapaxes(sets, 1, 2))
    found = sides_by_position(turned, table=TABLE, axis=1)
    assert found[0, 6, 5] == RIGHT
    assert found[0, 6, 30] == LEFT


def test_a_narrow_left_lung_beside_a_wide_right_one_is_told_apart():
    found = sides_by_position(picture((2, 24, 5, 25), (30, 36, 5, 20)), table=TABLE)
    assert found[0, 3, 6] == RIGHT
    assert found[0, 31, 6] == LEFT


def test_touching_lungs_and_a_single_lung_stay_undecided():
    for sets in (picture((4, 36, 5, 25)), picture((4, 16, 5, 25)), picture()):
        np.testing.assert_array_equal(sides_by_position(sets, table=TABLE), sets)


def test_one_lung_in_two_pieces_stays_undecided():
    sets = picture((4, 16, 3, 12), (5, 17, 15, 28))
    np.testing.assert_array_equal(sides_by_position(sets, table=TABLE), sets)


def test_a_speck_beside_one_lung_does_not_decide():
    sets = picture((4, 16, 5, 25), (30, 32, 5, 8))
    np.testing.assert_array_equal(sides_by_position(sets, table=TABLE), sets)


def test_a_speck_beside_two_lungs_gets_their_side_and_one_on_the_midline_none():
    found = sides_by_position(picture((4, 16, 5, 25), (24, 36, 5, 25), (34, 36, 27, 29)), table=TABLE)
    assert found[0, 35, 28] == LEFT
    found = sides_by_position(picture((4, 16, 5, 25), (24, 36, 5, 25), (18, 22, 27, 29)), table=TABLE)
    assert found[0, 19, 28] == LUNG


def test_certain_labels_and_other_structures_are_left_alone():
    sets = picture((4, 16, 5, 25), (24, 36, 5, 20)) + picture((18, 22, 5, 20), value=HEART)
    found = sides_by_position(sets, table=TABLE)
    assert (found[sets == HEART] == HEART).all()
    known = picture((4, 16, 5, 25), value=LEFT)
    np.testing.assert_array_equal(sides_by_position(known, table=TABLE), known)


def test_volumes_are_told_apart_as_well():
    sets = np.zeros((1, 20, 9, 7), dtype=np.int16)
    sets[0, 2:8], sets[0, 12:18] = LUNG, LUNG
    found = sides_by_position(sets, table=TABLE, left_is=-1)
    assert (found[0, 2:8] == LEFT).all()
    assert (found[0, 12:18] == RIGHT).all()


@pytest.mark.parametrize(
    ("orientation", "expected"),
    [
        (None, (0, 1)),
        (("L", "F"), (0, 1)),
        (("R", "F"), (0, -1)),
        (("F", "L"), (1, 1)),
        (("H", "RP"), (1, -1)),
    ],
)
def test_the_lateral_axis_follows_the_patient_orientation(orientation, expected):
    volume = Volume(array=np.zeros((1, 4, 5)), patient_orientation=orientation)
    assert lateral_axis(volume) == expected


def test_the_lateral_axis_follows_an_oblique_affine():
    affine = np.eye(4)
    affine[:3, :3] = [[0.1, -2.0, 0.2], [0.9, 0.1, 0.0], [0.0, 0.3, 3.0]]
    volume = Volume(array=np.zeros((1, 4, 5, 6)), affine=affine)
    # x grows to the patient's left in LPS and falls in RAS: the second axis runs to -x, that is left.
    assert lateral_axis(volume) == (1, 1)
