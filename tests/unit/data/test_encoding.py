"""Masks of sources that name things differently -> set indices."""

import numpy as np

from medseg.data.encoding import encode_mask
from medseg.labels import Label, LabelScheme, LabelTable
from medseg.volume import Volume

TABLE = LabelTable(
    labels=(
        Label(name="lung_right", value=1, colour="#3aa0ff", side="right", pair="lung_left"),
        Label(name="lung_left", value=2, colour="#b684f5", side="left", pair="lung_right"),
    ),
    schemes={
        "lung": LabelScheme(name="lung", values={1: ("lung_right", "lung_left")}, sides_by_position=True),
        "heart": LabelScheme(
            name="heart",
            values={1: ("lung_left",), 2: ("lung_right",)},
            medial_open={"lung_left": 0.5, "lung_right": 0.25},
        ),
    },
)
OPEN_LEFT = TABLE.sets.index(frozenset({0, 2}))
OPEN_RIGHT = TABLE.sets.index(frozenset({0, 1}))


def film(orientation: tuple[str, str] = ("L", "F")) -> Volume:
    return Volume(array=np.zeros((1, 20, 6)), patient_orientation=orientation)


def two_lungs(right: int, left: int) -> np.ndarray:
    mask = np.zeros((1, 20, 6), dtype=np.uint8)
    mask[0, 1:9, 1:5], mask[0, 11:19, 1:5] = right, left
    return mask


def test_components_get_the_side_they_lie_on():
    sets = encode_mask(two_lungs(1, 1), scheme="lung", like=film(), table=TABLE)
    assert set(np.unique(sets[0, :10])) == {0, 1}
    assert set(np.unique(sets[0, 10:])) == {0, 2}


def test_a_film_stored_mirrored_has_its_sides_the_other_way_round():
    sets = encode_mask(two_lungs(1, 1), scheme="lung", like=film(("R", "F")), table=TABLE)
    assert set(np.unique(sets[0, :10])) == {0, 2}


def test_the_part_next_to_the_midline_may_be_background():
    sets = encode_mask(two_lungs(2, 1), scheme="heart", like=film(), table=TABLE)
    np.testing.assert_array_equal(sets[0, 11:19, 2], [OPEN_LEFT] * 4 + [2] * 4)
    np.testing.assert_array_equal(sets[0, 1:9, 2], [1] * 6 + [OPEN_RIGHT] * 2)


def test_the_midline_is_on_the_other_end_of_a_mirrored_film():
    sets = encode_mask(two_lungs(1, 2), scheme="heart", like=film(("R", "F")), table=TABLE)
    np.testing.assert_array_equal(sets[0, 1:9, 2], [2] * 4 + [OPEN_LEFT] * 4)
    np.testing.assert_array_equal(sets[0, 11:19, 2], [OPEN_RIGHT] * 2 + [1] * 6)


def test_without_a_scheme_the_table_is_used():
    np.testing.assert_array_equal(
        encode_mask(two_lungs(1, 2), scheme=None, like=film(), table=TABLE), two_lungs(1, 2)
    )
