"""Flags of volumes with known faults: code, number, place."""

import json

import numpy as np
import pytest

from medseg.evaluation.measure import measure_case
from medseg.labels import Label, LabelTable
from medseg.quality.cohort import cohort_record
from medseg.quality.finding import Finding, GateCheck
from medseg.quality.flag import ResultFacts
from medseg.quality.flags import judge_result
from medseg.quality.options import FlagOptions
from medseg.quality.ranges import fit_ranges

TABLE = LabelTable(
    labels=(Label(name="front", value=1, colour="#ffffff"), Label(name="back", value=2, colour="#00ff00"))
)
AFFINE = np.array([[-1.0, 0, 0, 40], [0, 1.5, 0, -10], [0, 0, 2.0, 5], [0, 0, 0, 1]])
SPACING = (1.0, 1.5, 2.0)


def organ(grow: int = 0) -> np.ndarray:
    label_map = np.zeros((40, 36, 30), np.uint8)
    label_map[10 - grow : 24, 18:28, 6:24] = 1
    label_map[10 - grow : 24, 6:17, 6:24] = 2
    return label_map


def measured(label_map):
    return measure_case(label_map, table=TABLE, measures=(), case_id="c", spacing_mm=SPACING, affine=AFFINE)


RANGES = fit_ranges(
    [
        cohort_record(organ(g), table=TABLE, measures=measured(organ(g)), affine=AFFINE)
        for g in np.arange(40) % 4
    ]
)


def judge(label_map, options=None, **more):
    given = {"ranges": RANGES, "doubled": (), "affine": AFFINE, **more}
    facts = ResultFacts(label_map=label_map, table=TABLE, measures=measured(label_map), **given)
    return judge_result(facts, options)


def codes(found):
    return sorted((f.code, f.structure) for f in found.flags)


def row(found, code, structure="", part=""):
    return next(c for c in found.checks if (c.code, c.structure, c.part) == (code, structure, part))


def test_a_right_mask_passes_and_says_what_was_looked_at():
    found = judge(organ(1), even_slices=True)
    assert found.flags == ()
    size = row(found, "Q301", "front")
    assert (size.outcome, size.unit) == ("passed", "ml")
    assert size.measured == pytest.approx(15 * 10 * 18 * 3 / 1000)
    assert row(found, "Q102").outcome == "passed"
    assert row(found, "Q403", "front").reason == "the model is a single network"


def test_size_outside_the_cohort_in_ml():
    label_map = organ()
    label_map[16:24, 18:28] = 0
    found = judge(label_map)
    assert ("Q301", "front") in codes(found)
    flag = next(f for f in found.flags if f.code == "Q301")
    assert flag.measured == pytest.approx(6 * 10 * 18 * 3 / 1000)
    assert flag.unit == "ml"
    assert flag.limit < 14 * 10 * 18 * 3 / 1000
    assert "40 training results" in flag.text


def test_percentiles_and_margin_come_from_the_settings():
    label_map = organ(3)
    assert codes(judge(label_map)) == []
    options = FlagOptions(percentiles=(5, 60), cohort_margin=0)
    assert ("Q301", "front") in codes(judge(label_map, options))


def test_lost_and_moved_slices():
    label_map = organ()
    label_map[:, :, 14:16] = 0
    found = judge(label_map)
    lost = next(f for f in found.flags if (f.code, f.structure) == ("Q203", "front"))
    assert "missing in 2 slices after k = 13" in lost.text
    assert lost.place.box[2] == (13, 16)
    label_map = organ()
    label_map[:, :, 15:] = np.roll(label_map[:, :, 15:], 7, axis=0)
    moved = next(f for f in judge(label_map).flags if (f.code, f.structure) == ("Q203", "back"))
    assert moved.measured == pytest.approx(0.5)
    assert moved.place.voxel[2] == 14.5


def test_exchanged_labels_lie_wrong_to_each_other():
    exchanged = np.array([0, 2, 1], np.uint8)[organ()]
    found = judge(exchanged)
    flag = next(f for f in found.flags if f.code == "Q304")
    assert flag.structure == "front/back"
    assert flag.measured < 0
    assert "towards anterior" in flag.text
    assert row(judge(organ()), "Q304", "front/back").outcome == "passed"


def test_the_place_of_a_stray_part_and_of_a_hole():
    label_map = organ()
    label_map[33:36, 30:33, 25:28] = 1
    label_map[14:17, 21:24, 10:14] = 0
    found = judge(label_map)
    stray = next(f for f in found.flags if f.code == "Q201")
    assert stray.place.box == ((33, 35), (30, 32), (25, 27))
    assert stray.place.voxel == (34.0, 31.0, 26.0)
    assert stray.place.mm == pytest.approx((40 - 34, 1.5 * 31 - 10, 2 * 26 + 5))
    hole = next(f for f in found.flags if f.code == "Q202")
    assert hole.place.box == ((14, 16), (21, 23), (10, 13))
    assert hole.measured == pytest.approx(36 / (14 * 10 * 18 + 27 - 36))


def test_the_place_of_a_cut():
    label_map = organ()
    label_map[10:24, 28:36, 6:12] = 1
    flag = next(f for f in judge(label_map).flags if f.code == "Q101")
    assert flag.place.box == ((10, 23), (35, 35), (6, 11))
    assert flag.level == "note"


def test_doubled_slices_of_the_image():
    flag = next(f for f in judge(organ(), doubled=(7, 9)).flags if f.code == "Q102")
    assert (flag.measured, flag.unit) == (2.0, "slices")
    assert "first at k = 7" in flag.text
    assert flag.place.box == ((0, 39), (0, 35), (7, 8))
    assert row(judge(organ()), "Q102").outcome == "not judged"
    assert row(judge(organ(), doubled=None), "Q102").reason == "the image was not given"


def test_networks_that_disagree():
    confidence = {"front": {"disagreement": 0.3}, "back": {"disagreement": 0.05}}
    found = judge(organ(), confidence=confidence)
    assert codes(found) == [("Q403", "front")]
    assert row(found, "Q403", "back").measured == 0.05
    assert codes(judge(organ(), FlagOptions(disagreement=0.4), confidence=confidence)) == []


def test_each_check_of_the_gate_has_a_row():
    finding = Finding(check="modality", level="refuse", text="the modality of the image is CT")
    checks = [
        GateCheck(name="modality", finding=finding),
        GateCheck(name="histogram", measured=0.02, limit=0.05),
        GateCheck(name="values", reason="no common unit"),
    ]
    found = judge(organ(), gate_checks=checks)
    assert [(f.code, f.level) for f in found.flags] == [("Q402", "fail")]
    rows = {c.part: (c.outcome, c.reason, c.measured) for c in found.checks if c.code == "Q402"}
    assert rows == {
        "modality": ("flagged", "", None),
        "histogram": ("passed", "", 0.02),
        "values": ("not judged", "no common unit", None),
    }


def test_levels_come_from_the_settings():
    label_map = organ()
    label_map[33:36, 30:33, 25:28] = 1
    for level in ("note", "fail"):
        found = judge(label_map, FlagOptions(levels={"Q201": level}))
        assert next(f for f in found.flags if f.code == "Q201").level == level
    assert found.verdict == "fail"
    assert next(f for f in judge(label_map).flags if f.code == "Q201").level == "review"
    with pytest.raises(ValueError, match="percentiles must ascend"):
        FlagOptions(percentiles=(60, 40))


def test_json_holds_places_and_numbers():
    label_map = organ()
    label_map[33:36, 30:33, 25:28] = 1
    value = json.loads(json.dumps(judge(label_map).to_json(), allow_nan=False))
    assert set(value["flags"][0]) == {
        "code",
        "level",
        "structure",
        "text",
        "measured",
        "limit",
        "advice",
        "unit",
        "place",
        "title",
    }
    assert value["flags"][0]["place"]["box"] == [[33, 35], [30, 32], [25, 27]]
    assert set(value["checks"][0]) == {
        "code",
        "structure",
        "outcome",
        "reason",
        "part",
        "measured",
        "limit",
        "unit",
        "title",
    }


def test_the_room_beyond_a_cohort_is_the_bundles_unless_the_settings_say_otherwise():
    ranges = {name: dict(limits) for name, limits in RANGES.items()}
    size = ranges["volume_ml front"]
    size |= {"low": 0.5 * size["low"], "median": 0.6 * size["low"], "high": 0.8 * size["low"]}
    size |= {f"p{p:g}": size["low"] for p in (0, 0.5)} | {f"p{p:g}": size["high"] for p in (99.5, 100)}

    def sizes(options=None, **known):
        found = judge(organ(1), options, ranges=ranges, **known)
        return [flag for flag in found.flags if (flag.code, flag.structure) == ("Q301", "front")]

    assert sizes()
    assert not sizes(cohort_margin=9.0)
    assert sizes(FlagOptions(cohort_margin=0.1), cohort_margin=9.0)
