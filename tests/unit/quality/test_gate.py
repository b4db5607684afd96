import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from medseg.errors import BundleError
from medseg.quality.gate import GateStatistics, fit_gate, shrunk_covariance


def cloud(count, size=40, seed=0):
    """Correlated features with very different scales, some of them constant."""
    rng = np.random.default_rng(seed)
    mixing = np.random.default_rng(99).standard_normal((6, size))
    rows = rng.standard_normal((count, 6)) @ mixing + 0.1 * rng.standard_normal((count, size))
    rows *= np.logspace(-3, 3, size)
    rows[:, 5] = 7.0
    return rows


def test_covariance_shrinks_as_ledoit_and_wolf_say():
    rows = np.random.default_rng(1).standard_normal((12, 5)) * [1, 2, 3, 4, 5]
    rows -= rows.mean(axis=0)
    count, size = rows.shape
    sample = sum(np.outer(r, r) for r in rows) / count
    mu = np.trace(sample) / size
    d2 = ((sample - mu * np.eye(size)) ** 2).sum() / size
    b2 = min(d2, sum(((np.outer(r, r) - sample) ** 2).sum() / size for r in rows) / count**2)
    expected = b2 / d2 * mu * np.eye(size) + (d2 - b2) / d2 * sample
    np.testing.assert_allclose(shrunk_covariance(rows), expected)
    assert 0 < b2 / d2 < 1


def test_new_images_of_the_same_kind_pass_and_others_do_not():
    gate = fit_gate(cloud(300), cloud(80, seed=1))
    same = gate.distances(cloud(400, seed=2))
    assert 0.85 < np.mean(same <= gate.review) <= 1.0
    assert np.mean(same > gate.refuse) < 0.01
    assert 0.2 < np.median(same) < 2
    rng = np.random.default_rng(3)
    # The same spread in each feature, but not their correlation.
    shuffled = rng.permuted(cloud(200, seed=4), axis=0)
    assert np.median(gate.distances(shuffled)) > gate.refuse
    assert gate.review < gate.doubt < gate.refuse


def test_fewer_images_than_features():
    gate = fit_gate(cloud(30, size=200), cloud(20, size=200, seed=1))
    same = gate.distances(cloud(100, size=200, seed=2))
    assert np.mean(same <= gate.refuse) > 0.97
    assert np.median(gate.distances(cloud(50, size=200, seed=3) + 50)) > gate.refuse


def test_limits_come_from_images_left_out_of_the_fit():
    rows = cloud(60, size=50)
    gate = fit_gate(rows)
    assert np.quantile(gate.distances(rows), 0.99) < gate.review
    assert gate.validation == 0
    assert gate.percentile(0.0) == 0.0
    assert gate.percentile(1e9) == 100.0
    assert gate.percentile(gate.review) == pytest.approx(99.0, abs=0.5)


def test_images_of_one_patient_are_left_out_together():
    rng = np.random.default_rng(0)
    patients = rng.standard_normal((20, 30))
    rows = np.repeat(patients, 5, axis=0) + 0.01 * rng.standard_normal((100, 30))
    names = [f"p{i}" for i in np.repeat(np.arange(20), 5)]
    assert fit_gate(rows, groups=names).review > 2 * fit_gate(rng.permuted(rows, axis=0)).quantiles[0.05]
    assert fit_gate(rows, groups=names).review > 1.5 * fit_gate(rows, groups=list("abcde") * 20).review


def test_constant_feature_that_moves_is_far_but_finite():
    rows = cloud(100)
    gate = fit_gate(rows)
    odd = cloud(1, seed=5)
    odd[:, 5] = 9.0
    assert np.isfinite(gate.distance(odd[0]))
    constant = fit_gate(np.ones((20, 4)))
    assert constant.distance(np.ones(4)) == 0.0
    assert constant.distance(np.full(4, np.nan)) == float("inf")


def test_round_trip_through_bundle_parts():
    gate = fit_gate(cloud(50), cloud(20, seed=1))
    arrays = gate.arrays()
    assert {a.dtype for a in arrays.values()} == {np.dtype(np.float32)}
    value = json.loads(json.dumps(gate.to_json(), allow_nan=False))
    again = GateStatistics.from_parts(arrays, value)
    row = cloud(1, seed=7)[0]
    assert again.distance(row) == gate.distance(row)
    assert (again.review, again.doubt, again.refuse) == (gate.review, gate.doubt, gate.refuse)
    assert again.quantiles == gate.quantiles


def test_same_features_same_statistics():
    one, two = fit_gate(cloud(50)), fit_gate(cloud(50))
    np.testing.assert_array_equal(one.whitening, two.whitening)
    assert one.refuse == two.refuse


def test_damaged_statistics_are_refused():
    gate = fit_gate(cloud(50))
    with pytest.raises(BundleError, match="expects 40 features, found 3"):
        gate.distance(np.zeros(3))
    with pytest.raises(BundleError, match="lacks whitening"):
        GateStatistics.from_parts({"mean": gate.mean, "scale": gate.scale}, gate.to_json())
    broken = {**gate.arrays(), "scale": np.full(40, np.nan)}
    with pytest.raises(BundleError, match="scale must be finite"):
        GateStatistics.from_parts(broken, gate.to_json())


@pytest.mark.parametrize(
    ("training", "validation", "groups", "words"),
    [
        (np.zeros((5, 3)), None, None, "at least 10 images"),
        (np.zeros((20, 3)), np.zeros((5, 4)), None, r"must be \(M, 3\)"),
        (np.full((20, 3), np.inf), None, None, "not finite"),
        (np.zeros((20, 3)), None, ["a"], "20 images need 20 groups"),
    ],
)
def test_features_that_do_not_fit(training, validation, groups, words):
    with pytest.raises(ValueError, match=words):
        fit_gate(training, validation, groups=groups)


@given(hnp.arrays(np.float64, (12, 4), elements=st.floats(-1e3, 1e3)))
@settings(max_examples=15, deadline=None)
def test_any_finite_features_give_finite_statistics(rows):
    gate = fit_gate(rows)
    assert all(np.isfinite(a).all() for a in gate.arrays().values())
    assert np.isfinite(gate.distances(rows)).all()
    assert 0 <= gate.review <= gate.doubt <= gate.refuse
