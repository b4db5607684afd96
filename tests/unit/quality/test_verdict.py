import json

import numpy as np
import pytest

from medseg.labels import Label, LabelTable
from medseg.quality.finding import Finding, worst_level
from medseg.quality.gate import fit_gate
from medseg.quality.options import GateOptions
from medseg.quality.ranges import excess, fit_ranges, judge_ranges, plausibility_record
from medseg.quality.verdict import judge_input


def lungs() -> LabelTable:
    return LabelTable(
        labels=(
            Label(name="lung_right", value=1, colour="#3aa0ff", side="right", pair="lung_left"),
            Label(name="lung_left", value=2, colour="#b684f5", side="left", pair="lung_right"),
        )
    )


def chest(seed=0, shape=(120, 140)) -> np.ndarray:
    """Two ellipses with a little variation, patient's right at low i."""
    rng = np.random.default_rng(seed)
    label_map = np.zeros(shape, dtype=np.uint8)
    i, j = np.mgrid[: shape[0], : shape[1]] / np.array(shape)[:, None, None]
    for value, centre in ((1, 0.28), (2, 0.72)):
        ci, cj = centre + rng.normal(0, 0.01), 0.5 + rng.normal(0, 0.01)
        ri, rj = 0.15 + rng.normal(0, 0.005), 0.33 + rng.normal(0, 0.01)
        label_map[((i - ci) / ri) ** 2 + ((j - cj) / rj) ** 2 < 1] = value
    return label_map


def record(label_map, **facts):
    return plausibility_record(label_map, table=lungs(), patient_orientation=("L", "F"), **facts)


@pytest.fixture(scope="module")
def ranges():
    return fit_ranges([record(chest(seed)) for seed in range(60)])


@pytest.fixture(scope="module")
def gate():
    return fit_gate(np.random.default_rng(0).standard_normal((200, 10)))


def test_record_by_hand():
    label_map = np.zeros((100, 200), dtype=np.uint8)
    label_map[10:30, 50:150] = 1
    label_map[60:90, 60:160] = 2
    found = record(label_map, confidence={"lung_left": {"mean_probability": 0.9}})
    assert found["found"] == 1.0
    assert found["fraction lung_right"] == pytest.approx(0.1)
    assert found["ratio lung_left/lung_right"] == pytest.approx(np.log(1.5))
    assert found["apart lung_left/lung_right"] == pytest.approx(0.55)
    assert found["level lung_left/lung_right"] == pytest.approx(0.05)
    assert found["order lung_left/lung_right"] == 1.0
    assert found["place_i lung_right"] == pytest.approx(0.2)
    assert found["mean_probability lung_left"] == 0.9
    mirrored = plausibility_record(label_map, table=lungs(), patient_orientation=("R", "F"))
    assert mirrored["order lung_left/lung_right"] == 0.0


def test_record_depends_little_on_resolution():
    small, large = record(chest(1, (240, 280))), record(chest(1, (1200, 1400)))
    assert small.keys() == large.keys()
    for name, value in small.items():
        assert large[name] == pytest.approx(value, abs=0.05), name


def test_plausible_results_pass(ranges):
    outside = [len(judge_ranges(record(chest(seed)), ranges)) for seed in range(100, 150)]
    assert np.mean(np.array(outside) >= 4) < 0.05


def test_swapped_sides_are_far_outside(ranges):
    found = judge_ranges(record(np.array([0, 2, 1], dtype=np.uint8)[chest(3)]), ranges)
    assert found[0].level == "refuse"
    order = next(f for f in found if f.check == "order lung_left/lung_right")
    assert order.level == "refuse"
    assert "left-right order of lung_left/lung_right is 0, below the 1" in order.text


def test_nothing_found(ranges):
    empty = record(np.zeros((50, 60), dtype=np.uint8))
    found = judge_ranges(empty, ranges)
    assert [f.text for f in found] == ["none of the structures was found in the image"]
    # A model of lesions finds nothing in many healthy patients.
    lesions = fit_ranges([empty] * 10 + [record(chest(seed)) for seed in range(30)])
    assert judge_ranges(empty, lesions) == ()
    assert judge_ranges(empty, {}) == ()


def test_one_lung_only(ranges):
    label_map = chest(2)
    label_map[label_map == 2] = 0
    found = judge_ranges(record(label_map), ranges)
    assert found[0].check == "found"
    assert found[0].measured == 0.5


def test_ranges_are_json_and_need_enough_records():
    ranges = fit_ranges([record(chest(seed)) for seed in range(25)])
    assert json.loads(json.dumps(ranges, allow_nan=False)) == ranges
    assert fit_ranges([record(chest(seed)) for seed in range(19)]) == {}


def test_excess_is_one_at_the_end_of_the_range():
    limits = {"low": 0.2, "median": 0.5, "high": 0.6, "count": 100.0}
    assert excess(0.6, limits) == pytest.approx(1.0)
    assert excess(0.2, limits) == pytest.approx(1.0)
    assert excess(0.8, limits) == pytest.approx(3.0)
    fixed = {"low": 1.0, "median": 1.0, "high": 1.0, "count": 100.0}
    assert excess(1.0, fixed) == 0.0
    assert excess(0.5, fixed) > 2


def test_image_that_looks_usual_passes(gate, ranges):
    verdict = judge_input(distance=1.0, statistics=gate, record=record(chest(200)), ranges=ranges)
    assert (verdict.level, verdict.sentence) == ("pass", "")
    assert 0 < verdict.percentile < 100


def test_doubts_of_the_network_alone_make_no_result_implausible(gate):
    def unsure(probability, seed):
        confidence = {
            name: {
                "mean_probability": probability,
                "uncertain_share": 1 - probability,
                "entropy": 1 - probability,
            }
            for name in ("lung_right", "lung_left")
        }
        return record(chest(seed), confidence=confidence)

    ranges = fit_ranges([unsure(0.98 - 0.0005 * seed, seed) for seed in range(60)])
    odd = unsure(0.6, 7)
    assert sum(f.level == "refuse" for f in judge_ranges(odd, ranges)) == 6
    doubtful = 0.5 * (gate.doubt + gate.refuse)
    assert judge_input(distance=doubtful, statistics=gate, record=odd, ranges=ranges).level == "review"
    assert judge_input(distance=1.0, statistics=gate, record=odd, ranges=ranges).level == "pass"


def test_unusual_look_alone_asks_for_a_person(gate):
    verdict = judge_input(distance=0.5 * (gate.review + gate.doubt), statistics=gate)
    assert verdict.level == "review"
    assert "looks unusual for the model" in verdict.sentence


def test_implausible_result_alone_asks_for_a_person(gate, ranges):
    swapped = record(np.array([0, 2, 1], dtype=np.uint8)[chest(3)])
    verdict = judge_input(distance=1.0, statistics=gate, record=swapped, ranges=ranges)
    assert verdict.level == "review"
    assert [f.check for f in verdict.findings] == ["result"]
    assert verdict.sentence.startswith("the result is unlike those of training images: ")


def test_one_number_a_little_outside_is_no_reason(gate, ranges):
    odd = record(chest(7))
    odd["fraction lung_left"] = ranges["fraction lung_left"]["high"] * 1.05
    assert len(judge_ranges(odd, ranges)) == 1
    assert judge_input(distance=1.0, statistics=gate, record=odd, ranges=ranges).level == "pass"


def test_both_together_are_refused(gate, ranges):
    swapped = record(np.array([0, 2, 1], dtype=np.uint8)[chest(3)])
    doubtful = 0.5 * (gate.doubt + gate.refuse)
    assert judge_input(distance=doubtful, statistics=gate).level == "review"
    verdict = judge_input(distance=doubtful, statistics=gate, record=swapped, ranges=ranges)
    assert verdict.level == "refuse"
    assert "the result is implausible" in verdict.sentence
    plausible = judge_input(distance=doubtful, statistics=gate, record=record(chest(7)), ranges=ranges)
    assert plausible.level == "review"


def test_very_far_is_refused_whatever_the_result(gate, ranges):
    for distance in (1.1 * gate.refuse, float("inf")):
        verdict = judge_input(distance=distance, statistics=gate, record=record(chest(7)), ranges=ranges)
        assert verdict.level == "refuse"
        json.dumps(verdict.to_json(), allow_nan=False)


def test_nothing_found_is_refused(gate, ranges):
    empty = record(np.zeros((50, 60), dtype=np.uint8))
    verdict = judge_input(distance=1.0, statistics=gate, record=empty, ranges=ranges)
    assert (verdict.level, verdict.sentence) == ("refuse", "none of the structures was found in the image")


def test_image_check_comes_first(gate):
    blank = Finding(check="contrast", level="refuse", text="the image is blank")
    verdict = judge_input(image=[blank], distance=1.2 * gate.review, statistics=gate)
    assert (verdict.level, verdict.sentence) == ("refuse", "the image is blank")
    assert len(verdict.findings) == 2


def test_settings_override_the_limits_of_the_model(gate):
    options = GateOptions(review_distance=50, doubt_distance=60, refuse_distance=70)
    assert judge_input(distance=40, statistics=gate, options=options).level == "pass"
    assert judge_input(distance=80, statistics=gate, options=options).level == "refuse"


def test_distance_needs_statistics():
    with pytest.raises(ValueError, match="only with the statistics"):
        judge_input(distance=1.0)
    assert judge_input().level == "pass"


def test_worst_level():
    assert worst_level([]) == "pass"
    assert worst_level(["review", "pass", "refuse"]) == "refuse"


def test_the_room_of_the_bundle_lets_more_results_pass(ranges):
    odd = record(chest(3)) | {"extent lung_left": 0.2, "extent lung_right": 0.2}
    flagged = judge_input(record=odd, ranges=ranges)
    assert flagged.level == "review"
    assert judge_input(record=odd, ranges=ranges, room=100.0).level == "pass"
