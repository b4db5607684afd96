"""Label tables: class indices, set indices, partial masks, mirrors."""

import numpy as np
import pytest

from medseg.errors import LabelError
from medseg.labels import Code, Label, LabelScheme, LabelTable


def lungs(**extra: object) -> LabelTable:
    labels = (
        Label(
            name="lung_right",
            value=1,
            colour="#3aa0ff",
            side="right",
            pair="lung_left",
            code=Code(scheme="SCT", value="3341006", meaning="Right lung"),
        ),
        Label(name="lung_left", value=4, colour="#b684f5", side="left", pair="lung_right"),
    )
    return LabelTable(labels=labels, regions={"lung": ("lung_right", "lung_left")}, **extra)  # type: ignore[arg-type]


LUNG = LabelScheme(name="lung", values={1: ("lung_right", "lung_left")})


def test_values_become_class_indices_and_back():
    table = lungs()
    mask = np.array([[0, 1, 4]])
    classes = table.encode(mask)
    np.testing.assert_array_equal(classes, [[0, 1, 2]])
    np.testing.assert_array_equal(table.decode(classes), mask)


def test_a_scheme_that_only_says_lung_gives_the_set_of_both_lungs():
    table = lungs(schemes={"lung": LUNG})
    sets = table.encode(np.array([0, 1]), "lung")
    assert table.sets[sets[1]] == frozenset({1, 2})
    np.testing.assert_array_equal(table.set_matrix[sets[1]], [False, True, True])


def test_ignored_voxels_admit_every_class():
    table = lungs(ignore=255)
    assert table.sets[table.encode(np.array([255]))[0]] == frozenset({0, 1, 2})


def test_mirroring_swaps_sides_and_keeps_unions():
    table = lungs(schemes={"lung": LUNG})
    np.testing.assert_array_equal(table.mirror_classes, [0, 2, 1])
    for index, mirrored in enumerate(table.mirror_sets):
        assert table.sets[mirrored] == frozenset(int(table.mirror_classes[c]) for c in table.sets[index])


def test_medial_open_adds_the_union_with_background():
    scheme = LabelScheme(name="heart", values={1: ("lung_right",)}, medial_open={"lung_right": 0.25})
    table = lungs(schemes={"heart": scheme})
    assert frozenset({0, 1}) in table.sets
    assert frozenset({0, 2}) in table.sets, "its mirror image is there for flips"


def test_json_round_trip_keeps_everything():
    table = lungs(ignore=9, schemes={"lung": LUNG})
    assert LabelTable.from_json(table.to_json()).to_json() == table.to_json()


@pytest.mark.parametrize("mask", [np.array([7]), np.array([0.5]), np.array([np.nan])])
def test_undeclared_values_are_refused(mask):
    with pytest.raises(LabelError, match=r"not named by the label table|whole numbers"):
        lungs().encode(mask)


def test_a_pair_must_be_mutual():
    labels = (
        Label(name="a", value=1, colour="#000000", pair="b"),
        Label(name="b", value=2, colour="#000000"),
    )
    with pytest.raises(LabelError, match="does not name it back"):
        LabelTable(labels=labels)


def test_unknown_names_in_regions_are_refused():
    with pytest.raises(LabelError, match="region both names"):
        LabelTable(labels=(Label(name="a", value=1, colour="#000000"),), regions={"both": ("a", "x")})
