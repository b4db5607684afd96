"""Limits that hold for many numbers together."""

import numpy as np
import pytest

from medseg.quality.family import cohort_margin, needed_margin, needed_room, result_room
from medseg.quality.ranges import fit_ranges, judge_ranges
from medseg.quality.tail import tail_limit
from medseg.quality.verdict import implausible


def test_tail_limit_is_the_conformal_rank_or_lies_beyond_the_largest():
    scores = [float(s) for s in np.random.default_rng(0).permutation(199)]
    assert tail_limit(scores, 0.025) == 194.0
    assert tail_limit(scores, 0.005) == 198.0
    # 199 scores promise no less than 1 in 200.
    assert tail_limit(scores, 0.004) == pytest.approx(198 + 2 / 199**0.5 * (198 - 99))
    assert tail_limit([3.0], 0.1) == 3.0


def test_few_new_scores_exceed_the_limit_of_their_kind():
    rng = np.random.default_rng(1)
    draw = rng.standard_exponential
    rates = [np.mean(draw(500) > tail_limit(draw(100).tolist(), 0.05)) for _ in range(400)]
    assert 0.045 < np.mean(rates) < 0.055


def cohort(count, seed, numbers=12):
    """Results of many independent sizes, of which any leaves its range now and then."""
    rows = np.random.default_rng(seed).normal(100, 10, (count, numbers))
    return [{f"volume_ml organ{i}": float(v) for i, v in enumerate(row)} for row in rows]


def test_margin_lets_new_results_pass_all_numbers_together():
    known, new = cohort(200, 0), cohort(1000, 1)
    margin, ranges = cohort_margin(known), fit_ranges(known)
    flagged = np.array([needed_margin(record, ranges) for record in new])
    assert np.mean(flagged > margin) < 0.05
    # The margin that suits one number flags several times as many of twelve.
    assert np.mean(flagged > 0.1) > 0.06
    assert margin > 0.2


def test_needed_margin_by_hand():
    ranges = {"volume_ml a": {"low": 10.0, "median": 20.0, "high": 40.0, "count": 50.0}}
    ranges |= {"fraction a": ranges["volume_ml a"], "step a": ranges["volume_ml a"]}
    ranges["ratio a/b"] = {"low": 0.0, "median": 0.0, "high": 0.5, "count": 50.0}
    assert needed_margin({"volume_ml a": 50.0}, ranges) == pytest.approx(0.5)
    assert needed_margin({"volume_ml a": 8.0}, ranges) == pytest.approx(0.2)
    # A share of the image counts where there is no size in ml; a step is another check's.
    assert needed_margin({"volume_ml a": 20.0, "fraction a": 90.0, "step a": 90.0}, ranges) == 0
    assert needed_margin({"fraction a": 50.0}, ranges) == pytest.approx(0.5)
    assert needed_margin({"ratio a/b": -1.0}, ranges) == 0
    assert needed_margin({"ratio a/b": 0.75}, ranges) == pytest.approx(0.5)


def test_patients_are_left_out_together():
    rng = np.random.default_rng(2)
    rows = np.repeat(rng.normal(100, 10, 40), 5)
    records = [{"volume_ml organ": float(v)} for v in rows]
    patients = [str(i // 5) for i in range(200)]
    assert cohort_margin(records, patients) > cohort_margin(records)


def forms(count, seed):
    rows = np.random.default_rng(seed).normal(0.5, 0.05, (count, 16))
    return [{f"extent organ{i}": float(v) for i, v in enumerate(row)} for row in rows]


def test_room_is_the_least_that_makes_a_result_plausible():
    ranges = fit_ranges(forms(60, 0))
    far = {f"extent organ{i}": 0.5 + 0.1 * (i + 1) for i in range(5)}
    room = needed_room(far, ranges)
    assert room > 1
    assert implausible(judge_ranges(far, ranges, room=0.999 * room))
    assert not implausible(judge_ranges(far, ranges, room=room))
    assert needed_room({"extent organ0": 0.5}, ranges) == 1.0


def test_result_room_holds_for_new_results():
    known, new = forms(100, 3), forms(500, 4)
    ranges, room = fit_ranges(known), result_room(known)
    assert room >= 1
    assert np.mean([bool(implausible(judge_ranges(r, ranges, room=room))) for r in new]) < 0.03
