"""Reliability: known answers, and the laws of its measures."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medseg.calibration.reliability import ReliabilitySums, reliability
from medseg.evaluation.bootstrap import PatientBootstrap


def sums_of(probability, true):
    sums = ReliabilitySums.empty()
    sums.add(np.asarray(probability), np.asarray(true, dtype=bool))
    return sums


def summary(*cases, samples=200):
    draws = PatientBootstrap.draw([patient for patient, _ in cases], samples=samples, level=0.95, seed=1)
    return reliability(list(cases), draws)


def test_known_answers():
    # Two bins: 0.9 stated and 3 of 4 true, 0.1 stated and none of 4 true.
    found = summary(("a", sums_of([0.9] * 4 + [0.1] * 4, [1, 1, 1, 0, 0, 0, 0, 0])))
    assert found.measures["ece"] == pytest.approx(0.5 * 0.15 + 0.5 * 0.1)
    assert found.measures["mce"] == pytest.approx(0.15)
    assert found.measures["brier"] == pytest.approx((3 * 0.01 + 0.81 + 4 * 0.01) / 8)
    assert found.measures["nll"] == pytest.approx(-(7 * math.log(0.9) + math.log(0.1)) / 8)
    assert found.bin_rows()[0] == {
        "low": 0.066667, "high": 0.133333, "confidence": pytest.approx(0.1), "accuracy": 0.0, "count": 4
    }  # fmt: skip
    assert found.intervals["ece"] is None


def test_probabilities_that_keep_their_word_have_no_error():
    rng = np.random.default_rng(3)
    cases = []
    for patient in range(20):
        stated = rng.beta(0.5, 0.5, size=20_000)
        cases.append((str(patient), sums_of(stated, rng.random(stated.size) < stated)))
    found = summary(*cases)
    assert found.measures["ece"] < 0.004
    low, high = found.intervals["brier"]
    # E (p - y)^2 = E p (1 - p) = 1/8 for this beta distribution.
    assert low < 0.125 < high


def test_overconfident_probabilities_are_told_by_the_gap():
    rng = np.random.default_rng(4)
    true = rng.random(50_000) < 0.7
    found = summary(("a", sums_of(np.full(true.size, 0.95), true)), ("b", sums_of([0.95], [1])))
    assert found.measures["ece"] == pytest.approx(0.25, abs=0.01)
    assert found.measures["ece"] == pytest.approx(found.measures["mce"])


def test_nothing_to_look_at_has_no_number():
    found = summary(("a", ReliabilitySums.empty()), ("b", ReliabilitySums.empty()))
    assert found.to_json() == {
        "bins": [], "ece": None, "mce": None, "brier": None, "nll": None,
        "ece_interval": None, "mce_interval": None, "brier_interval": None, "nll_interval": None,
        "voxels": 0, "cases": 0, "patients": 0, "level": 0.95,
    }  # fmt: skip


voxels = st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=60)


@given(voxels, voxels)
def test_blocks_add_up_to_the_whole_and_measures_keep_their_range(one, two):
    def columns(rows):
        return [p for p, _ in rows], [y for _, y in rows]

    parts = ReliabilitySums.empty()
    for rows in (one, two):
        parts.add(np.array(columns(rows)[0]), np.array(columns(rows)[1], dtype=bool))
    whole = sums_of(*columns([*one, *two]))
    np.testing.assert_allclose(parts.row(), whole.row(), rtol=1e-9, atol=1e-12)
    found = summary(("a", whole), samples=100).measures
    assert 0 <= found["ece"] <= found["mce"] + 1e-12 <= 1 + 1e-9
    assert 0 <= found["brier"] <= 1
    assert found["nll"] >= 0


@given(voxels)
def test_structure_and_what_is_not_the_structure_are_equally_calibrated(rows):
    stated, true = np.array([p for p, _ in rows]), np.array([y for _, y in rows])
    one = summary(("a", sums_of(stated, true)), samples=100).measures
    two = summary(("a", sums_of(1 - stated, ~true)), samples=100).measures
    assert one["brier"] == pytest.approx(two["brier"], abs=1e-9)
    assert one["nll"] == pytest.approx(two["nll"], abs=1e-6)
