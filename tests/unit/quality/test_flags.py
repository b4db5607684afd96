import json
from dataclasses import replace

import numpy as np
import pytest

from medseg.errors import ConfigError
from medseg.evaluation.cases import evaluate_case
from medseg.evaluation.measure import measure_case
from medseg.evaluation.options import EvaluationOptions
from medseg.labels import Label, LabelTable
from medseg.quality.finding import Finding
from medseg.quality.flag import CHECKS, ResultFacts
from medseg.quality.flags import judge_result
from medseg.quality.options import FlagOptions
from medseg.quality.ranges import plausibility_record


def lungs() -> LabelTable:
    return LabelTable(
        labels=(
            Label(name="lung_right", value=1, colour="#3aa0ff", side="right", pair="lung_left"),
            Label(name="lung_left", value=2, colour="#b684f5", side="left", pair="lung_right"),
        )
    )


def film() -> np.ndarray:
    label_map = np.zeros((60, 50), dtype=np.uint8)
    label_map[8:24, 8:42] = 1
    label_map[34:50, 8:42] = 2
    return label_map


def range_of(low, median, high):
    return {"low": low, "median": median, "high": high, "count": 100.0}


RANGES = {
    "fraction lung_right": range_of(0.1, 0.18, 0.25),
    "fraction lung_left": range_of(0.1, 0.18, 0.25),
    "ratio lung_left/lung_right": range_of(np.log(0.7), np.log(0.95), np.log(1.3)),
}


def facts(label_map, *, orientation=("L", "F"), spacing=(0.5, 0.5), **more) -> ResultFacts:
    table = lungs()
    measures = measure_case(
        label_map,
        table=table,
        measures=("area",),
        case_id="c1",
        spacing_mm=spacing,
        patient_orientation=orientation,
    )
    given = {
        "ranges": RANGES,
        "gate": (),
        "confidence": {n: {"uncertain_core": 0.01} for n in ("lung_right", "lung_left")},
        "record": plausibility_record(label_map, table=table, patient_orientation=orientation),
    }
    return ResultFacts(label_map=label_map, table=table, measures=measures, **{**given, **more})


def codes(found) -> list[tuple[str, str, str]]:
    return [(flag.code, flag.level, flag.structure) for flag in found.flags]


def outcome(found, code, structure=""):
    return next(c for c in found.checks if c.code == code and c.structure == structure)


def test_good_result_has_no_flag():
    found = judge_result(facts(film()))
    assert (found.verdict, found.flags) == ("pass", ())
    assert {c.code for c in found.checks} == set(CHECKS)
    assert outcome(found, "Q601").outcome == "not judged"
    assert outcome(found, "Q601").reason == "no reference"


def test_cut_off_names_the_edge():
    label_map = film()
    label_map[8:24, 0:8] = 1
    found = judge_result(facts(label_map))
    assert codes(found) == [("Q101", "note", "lung_right")]
    assert found.verdict == "note"
    assert "reaches the upper edge of the image" in found.flags[0].text
    assert outcome(found, "Q302", "lung_left/lung_right").reason == "cut off"


def test_parts_and_holes():
    label_map = film()
    label_map[52:55, 2:5] = 2
    label_map[12:15, 20:23] = 0
    found = judge_result(facts(label_map))
    assert codes(found) == [("Q202", "review", "lung_right"), ("Q201", "review", "lung_left")]
    assert found.flags[1].measured == pytest.approx(9 / (544 + 9))
    assert found.flags[0].measured == pytest.approx(9 / (544 - 9))
    assert judge_result(facts(label_map), FlagOptions(stray_share=0.02, hole_share=0.02)).flags == ()


def test_holes_of_a_volume_in_ml():
    table = LabelTable(labels=(Label(name="liver", value=1, colour="#ffffff"),))
    label_map = np.zeros((20, 20, 20), dtype=np.uint8)
    label_map[2:18, 2:18, 2:18] = 1
    label_map[8:12, 8:12, 8:12] = 0
    for spacing, share, flagged in (
        ((3.0, 3.0, 3.0), 1.0, True),
        ((1.0, 1.0, 1.0), 1.0, False),
        ((1.0, 1.0, 1.0), 0.01, True),
    ):
        measures = measure_case(label_map, table=table, measures=("volume",), case_id="c", spacing_mm=spacing)
        found = judge_result(
            ResultFacts(label_map=label_map, table=table, measures=measures), FlagOptions(hole_share=share)
        )
        assert [f.code for f in found.flags] == (["Q202"] if flagged else [])
    assert outcome(found, "Q402").reason == "the model has no statistics of its training images"
    assert outcome(found, "Q401", "liver").reason == "the model gives no confidence"


def test_unlikely_size_and_ratio():
    label_map = film()
    label_map[34:50, 8:30] = 0
    found = judge_result(facts(label_map))
    assert codes(found) == [
        ("Q301", "review", "lung_left"),
        ("Q302", "review", "lung_left/lung_right"),
    ]
    assert found.flags[0].limit == pytest.approx(0.1 - 0.1 * 0.08)
    assert found.flags[1].measured == pytest.approx(12 / 34)


def test_small_because_cut_off_is_not_judged():
    label_map = np.zeros((60, 50), dtype=np.uint8)
    label_map[8:24, 8:42] = 1
    label_map[55:60, 8:42] = 2
    found = judge_result(facts(label_map))
    assert outcome(found, "Q301", "lung_left").reason == "cut off: its size is a lower bound"


def test_swapped_sides_fail():
    found = judge_result(facts(np.array([0, 2, 1], dtype=np.uint8)[film()]))
    assert codes(found) == [("Q303", "fail", "lung_left/lung_right")]
    assert found.verdict == "fail"
    assert found.flags[0].text == "lung_left lies on the right of lung_right"
    assert judge_result(facts(film(), orientation=("R", "F"))).verdict == "fail"
    assumed = judge_result(facts(film()[::-1], orientation=None))
    assert "if the image is displayed in the usual way" in assumed.flags[0].text


def test_sides_on_a_turned_film():
    found = judge_result(facts(film().T, orientation=("F", "L")))
    assert found.flags == ()
    lateral = judge_result(facts(film(), orientation=("A", "F")))
    assert outcome(lateral, "Q303", "lung_left/lung_right").reason.startswith("no axis")


def test_piece_of_one_lung_on_the_other_side():
    label_map = film()
    label_map[8:14, 8:20] = 2
    found = judge_result(facts(label_map), FlagOptions(stray_share=1, off=("Q302",)))
    assert codes(found) == [("Q303", "review", "lung_left/lung_right")]
    assert "of lung_left lies beyond the centre of the other side" in found.flags[0].text
    mirrored = judge_result(
        facts(np.array([0, 2, 1], dtype=np.uint8)[label_map[::-1]]), FlagOptions(stray_share=1)
    )
    assert "of lung_right lies beyond" in mirrored.flags[0].text


def test_low_confidence():
    unsure = {"lung_right": {"uncertain_core": 0.3}, "lung_left": {"mean_probability": 0.7}}
    found = judge_result(facts(film(), confidence=unsure))
    assert codes(found) == [("Q401", "review", "lung_right"), ("Q401", "review", "lung_left")]
    assert "30% of the core of lung_right is undecided" in found.flags[0].text
    sure = {"lung_right": {"uncertain_core": 0.1}, "lung_left": {"mean_probability": 0.97}}
    assert judge_result(facts(film(), confidence=sure)).flags == ()


def test_a_region_is_judged_by_its_own_confidence():
    table = LabelTable(labels=lungs().labels, regions={"lung": ("lung_right", "lung_left")})
    given = facts(film())
    measures = measure_case(
        given.label_map, table=table, measures=("area",), case_id="c1", spacing_mm=(0.5, 0.5)
    )

    def judged(**shares):
        known = {name: {"uncertain_core": share} for name, share in shares.items()}
        return judge_result(replace(given, table=table, measures=measures, confidence=known))

    torn = judged(lung_right=0.3, lung_left=0.3, lung=0.01)
    assert [code for code in codes(torn) if code[0] == "Q401"] == [
        ("Q401", "review", "lung_right"),
        ("Q401", "review", "lung_left"),
    ]
    assert outcome(torn, "Q401", "lung").outcome == "passed"
    vague = judged(lung_right=0.05, lung_left=0.05, lung=0.2)
    assert [code for code in codes(vague) if code[0] == "Q401"] == [("Q401", "review", "lung")]
    old = judged(lung_right=0.05, lung_left=0.05)
    assert not [check for check in old.checks if check.structure == "lung" and check.code == "Q401"]


def test_gate_findings_become_flags():
    gate = [
        Finding(check="distance", level="refuse", text="unlike", measured=9.0, limit=3.0),
        Finding(check="ratio", level="review", text="odd"),
    ]
    found = judge_result(facts(film(), gate=gate))
    assert codes(found) == [("Q402", "fail", ""), ("Q402", "review", "")]


def test_absent_structure_fails_unless_it_is_not_expected():
    label_map = film()
    label_map[label_map == 2] = 0
    found = judge_result(facts(label_map))
    assert codes(found) == [("Q501", "fail", "lung_left")]
    assert outcome(found, "Q301", "lung_left").reason == "absent"
    assert judge_result(facts(label_map), FlagOptions(expected=("lung_right",))).flags == ()
    with pytest.raises(
        ConfigError, match=r"flags\.expected names heart; known labels: lung_right, lung_left"
    ):
        judge_result(facts(label_map), FlagOptions(expected=("heart",)))


def agreement(prediction, reference, limits, spacing=(0.5, 0.5)):
    options = EvaluationOptions.model_validate({"metrics": [{"use": "dice"}, {"use": "hd95"}]})
    evaluation = evaluate_case(
        prediction,
        reference.astype(np.int16),
        table=lungs(),
        case_id="c",
        spacing_mm=spacing,
        options=options,
    )
    return judge_result(
        facts(prediction, spacing=spacing, evaluation=evaluation), FlagOptions(agreement=limits)
    )


def test_agreement_below_the_limit():
    reference = film()
    reference[8:24, 30:42] = 0
    found = agreement(film(), reference, {"dice": 0.9, "hd95": 3.0})
    assert codes(found) == [("Q601", "review", "lung_right")] * 2
    assert found.flags[0].text == "Dice of lung_right is 0.786 (limit 0.9)"
    assert agreement(film(), film(), {"dice": 0.9, "hd95": 3.0}).flags == ()


def test_agreement_that_cannot_be_judged():
    nothing = film()
    nothing[nothing == 2] = 0
    found = agreement(nothing, nothing, {"dice": 0.9, "hd95": 3.0}, spacing=None)
    reasons = {c.reason for c in found.checks if c.code == "Q601" and c.reason}
    assert reasons == {
        "HD95 is in pixels, the limit in mm",
        "Dice: empty in the prediction and in the reference",
        "HD95: empty in the prediction and in the reference",
    }


def test_checks_can_be_turned_off():
    label_map = film()
    label_map[label_map == 2] = 0
    found = judge_result(facts(label_map), FlagOptions(off=("Q501",)))
    assert found.flags == ()
    assert "Q501" not in {c.code for c in found.checks}


def test_worst_flag_comes_first_and_json_has_titles():
    label_map = np.array([0, 2, 1], dtype=np.uint8)[film()]
    label_map[8:24, 0:8] = 2
    found = judge_result(facts(label_map))
    assert [flag.level for flag in found.flags] == ["fail", "note"]
    value = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert value["flags"][0]["title"] == "left and right swapped"
