"""Clean-up tuned on predictions: what helps is kept, what harms is not, interactions are checked."""

import numpy as np
import pytest

from medseg.inference.options import DropSmall, FillHoles, KeepLargest
from medseg.labels import Label, LabelTable
from medseg.pipeline.tuning import Masks, candidates, tune

TABLE = LabelTable(
    labels=(Label(name="a", value=1, colour="#3aa0ff"), Label(name="b", value=2, colour="#b684f5")),
    regions={"both": ("a", "b")},
)
SHAPE = (20, 18, 16)
SPACING = (1.0, 1.5, 2.0)


def box(array, low, high, value):
    array[tuple(slice(a, b) for a, b in zip(low, high, strict=True))] = value


def case(*, islands=(), holes=(), two_parts=False, empty=False):
    reference = np.zeros(SHAPE, np.int16)
    if not empty:
        box(reference, (2, 2, 2), (9, 9, 9), 1)
        box(reference, (11, 2, 2), (18, 9, 9), 2)
        if two_parts:
            box(reference, (2, 11, 2), (8, 16, 8), 1)
    found = reference.astype(np.uint8)
    for low, high, value in (*islands, *holes):
        box(found, low, high, value)
    return Masks(label_map=found, reference=reference, spacing_mm=SPACING)


def tuned(*cases, sizes=None):
    tries = candidates(TABLE, sizes or {}, unit="ml" if sizes else None)
    return tune([lambda c=c: c for c in cases], tries, table=TABLE)


ISLAND = ((2, 12, 12), (5, 15, 15), 1)
CRUMB = ((15, 15, 13), (16, 16, 14), 2)
HOLE = ((4, 4, 4), (6, 6, 6), 0)


def test_islands_are_removed_and_holes_filled_where_it_helps():
    found = tuned(case(islands=[ISLAND], holes=[HOLE]), case())
    assert found.steps == (KeepLargest(labels=("a",)), FillHoles(labels=("a",)))
    assert found.before["a"] < found.after["a"] == 1.0
    assert found.before["b"] == found.after["b"] == 1.0
    assert found.cases == {"a": 2, "b": 2, "both": 2}


def test_a_structure_of_two_parts_keeps_both():
    found = tuned(case(two_parts=True, islands=[CRUMB]), case(two_parts=True))
    assert [c.step for c in found.tried if c.harms] == [
        KeepLargest(labels=("both",)),
        KeepLargest(labels=("a",)),
    ]
    assert found.steps == (KeepLargest(labels=("b",)),)


def test_small_parts_are_dropped_where_large_ones_must_stay():
    island = ((15, 13, 12), (17, 15, 14), 1)
    found = tuned(
        case(two_parts=True, islands=[island]), case(two_parts=True), sizes={"a": [1.5, 1.6], "b": [0.0]}
    )
    (step,) = found.steps
    assert isinstance(step, DropSmall)
    assert step.labels == ("a",)
    assert 0.024 < step.min_ml < 0.54, "above the island, below the smaller part"


def test_nothing_is_chosen_where_nothing_helps_or_the_gain_is_too_small():
    assert tuned(case(), case()).steps == ()
    crumb = tuned(case(islands=[CRUMB]), *[case()] * 30)
    assert 0 < next(c.gain for c in crumb.tried if c.step == KeepLargest(labels=("b",))) < 1e-4
    assert crumb.steps == ()


def test_a_structure_that_no_case_has_is_said_by_its_count_and_crashes_nothing():
    blank = case(empty=True)
    found = tuned(blank, blank)
    assert found.steps == ()
    assert found.before == {"a": 1.0, "b": 1.0, "both": 1.0}
    ghost = tuned(case(empty=True, islands=[ISLAND]))
    assert ghost.before["a"] == 0.0
    assert ghost.steps == (), "keep_largest keeps the largest part, here the only one"


def test_unknown_references_are_left_out_of_the_mean():
    table = LabelTable(labels=TABLE.labels, regions={}, ignore=9)
    reference = table.encode(np.full(SHAPE, 9, np.int32))
    masks = Masks(label_map=case().label_map, reference=reference, spacing_mm=SPACING)
    found = tune([lambda: masks, case], candidates(table, {}, unit=None), table=table)
    assert found.cases == {"a": 1, "b": 1}


def test_the_record_is_json_and_says_what_was_tried():
    import json

    value = json.loads(json.dumps(tuned(case(islands=[ISLAND])).to_json(), allow_nan=False))
    assert value["steps"][0]["use"] == "keep_largest"
    assert len(value["tried"]) == 5
    assert set(value["structures"]["a"]) == {"cases", "before", "after"}


@pytest.mark.parametrize(("unit", "key"), [("ml", "min_ml"), ("mm2", "min_mm2"), ("pixels", "min_pixels")])
def test_limits_come_from_the_sizes_of_the_references(unit, key):
    steps = [c.step for c in candidates(TABLE, {"a": [10.0, 30.0, 20.0, 0.0]}, unit=unit)]
    limits = [getattr(step, key) for step in steps if isinstance(step, DropSmall)]
    assert limits == ([1, 2, 6] if unit == "pixels" else [0.4, 2.0, 6.0])


def test_a_step_that_helps_its_structure_and_harms_another_is_not_chosen():
    reference = np.zeros(SHAPE, np.int16)
    box(reference, (2, 2, 2), (9, 9, 9), 1)
    box(reference, (15, 2, 2), (18, 5, 5), 2)
    label_map = reference.astype(np.uint8)
    box(label_map, (12, 12, 10), (17, 17, 14), 1)
    found = tuned(Masks(label_map=label_map, reference=reference, spacing_mm=SPACING))
    region = next(c for c in found.tried if c.structure == "both")
    assert region.gain > 0.01
    assert region.harms == ("b",)
    assert found.steps == (KeepLargest(labels=("a",)),)
