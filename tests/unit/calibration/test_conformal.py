"""Conformal intervals: known quantiles, laws, and coverage of exchangeable cases."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medseg.calibration.conformal import Conformal, SizeError, fewest_patients, fit_interval, size_score


def errors_of(scores, patients=None):
    names = range(len(scores)) if patients is None else patients
    return [SizeError(patient_id=f"p{name}", score=score) for name, score in zip(names, scores, strict=True)]


def test_one_case_a_patient_takes_the_ceil_of_n_plus_one_times_level():
    scores = np.arange(1, 20) / 10
    assert fit_interval(errors_of(scores)).quantile == pytest.approx(1.8)
    assert fit_interval(errors_of(scores[:9])).quantile == pytest.approx(0.9)
    assert fit_interval(errors_of(scores), level=0.5).quantile == pytest.approx(1.0)


def test_too_few_patients_give_no_interval_and_say_so():
    assert (fewest_patients(0.9), fewest_patients(0.95), fewest_patients(0.5)) == (9, 19, 1)
    found = fit_interval(errors_of([0.1] * 16, patients=[k // 2 for k in range(16)]))
    assert (found.quantile, found.cases, found.patients) == (None, 16, 8)
    assert found.reason == "8 calibration patients; 90 % needs at least 9 of them"
    with pytest.raises(ValueError, match="no interval: 8 calibration patients"):
        found.interval(3.0)


def test_several_cases_of_a_patient_weigh_like_one():
    # Nine quiet patients, and one with a hundred bad cases: by case the quantile would be theirs.
    quiet = [0.1 * k for k in range(1, 19)]
    mixed = errors_of([*quiet, *[5.0] * 100], patients=[*range(18), *["loud"] * 100])
    assert fit_interval(mixed).quantile == pytest.approx(1.8)


def test_missed_structures_count_as_the_worst():
    assert size_score(0, 4) == size_score(4, 0) == math.inf
    assert size_score(2, 4) == pytest.approx(math.log(2)) == size_score(4, 2)
    found = fit_interval(errors_of([*[0.1] * 10, *[math.inf] * 3]))
    assert found.quantile is None
    assert found.reason == "missed or invented in 3 of 13 calibration cases"
    with pytest.raises(ValueError, match="in neither mask"):
        size_score(0, 0)


def test_interval_is_a_factor_each_way():
    low, high = Conformal(level=0.9, quantile=math.log(1.25), cases=9, patients=9).interval(10.0)
    assert (low, high) == pytest.approx((8.0, 12.5))


@given(st.lists(st.floats(0, 3), min_size=9, max_size=40), st.randoms())
def test_order_makes_no_difference_and_a_higher_level_is_no_narrower(scores, random):
    errors = errors_of(scores)
    shuffled = list(errors)
    random.shuffle(shuffled)
    one, wide = fit_interval(errors, level=0.6), fit_interval(errors, level=0.9)
    assert fit_interval(shuffled, level=0.6) == one
    assert wide.quantile is not None
    assert one.quantile is not None
    assert wide.quantile >= one.quantile
    assert sum(score <= wide.quantile for score in scores) >= 0.9 * len(scores)


def test_exchangeable_cases_are_covered_as_often_as_asked():
    """Coverage over many draws lies between 90 % and 90 % + 1 / (n + 1), within three binomial deviations."""
    rng, trials, calibration = np.random.default_rng(0), 1500, 24
    inside = 0
    for _ in range(trials):
        scores = np.abs(rng.standard_t(3, size=calibration + 1))
        quantile = fit_interval(errors_of(scores[:-1])).quantile
        inside += scores[-1] <= quantile
    spread = 3 * math.sqrt(0.09 / trials)
    assert 0.9 - spread <= inside / trials <= 0.9 + 1 / (calibration + 1) + spread


def test_clustered_cases_are_covered_too():
    """A new case of a new patient, where patients differ more than their cases do and bring 1 to 6 of them."""
    rng, trials = np.random.default_rng(1), 800
    inside = 0
    for _ in range(trials):
        counts = rng.integers(1, 7, size=31)
        centres = rng.exponential(1.0, size=31)
        scores = [centre * rng.uniform(0.5, 1.5, size=n) for centre, n in zip(centres, counts, strict=True)]
        errors = [SizeError(patient_id=str(k), score=s) for k in range(30) for s in scores[k]]
        quantile = fit_interval(errors).quantile
        inside += scores[30][0] <= quantile
    spread = 3 * math.sqrt(0.09 / trials)
    assert 0.9 - spread <= inside / trials <= 0.9 + 1 / 31 + spread
