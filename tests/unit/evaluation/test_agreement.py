import json
from dataclasses import asdict

import numpy as np
import pytest

from medseg.evaluation.agreement import size_agreements
from medseg.evaluation.bootstrap import PatientBootstrap
from medseg.evaluation.cases import CaseEvaluation, StructureEvaluation
from medseg.evaluation.overlap import Counts


def case(number, reference, predicted, *, voxel=0.002, unit="ml", patient=None):
    tp = min(reference, predicted)
    counts = Counts(tp=tp, fp=predicted - tp, fn=reference - tp, tn=9)
    structure = StructureEvaluation(structure="liver", state=counts.state, counts=counts, metrics={})
    return CaseEvaluation(
        case_id=f"c{number}",
        patient_id=patient or f"p{number}",
        structures=(structure,),
        voxel=voxel,
        size_unit=unit,
    )


def agreement(cases, level=0.95):
    bootstrap = PatientBootstrap.draw([c.patient_id for c in cases], samples=500, level=level, seed=1)
    return size_agreements(cases, bootstrap)


def made(count=40, seed=2):
    rng = np.random.default_rng(seed)
    reference = rng.integers(400_000, 900_000, count)
    return reference, (1.05 * reference - 5_000 + rng.normal(0, 8_000, count)).astype(int)


def numbered(reference, predicted):
    pairs = zip(reference, predicted, strict=True)
    return [case(i, int(r), int(p)) for i, (r, p) in enumerate(pairs)]


def test_bland_altman_and_lines_against_plain_formulas():
    reference, predicted = made()
    found = agreement(
        [case(i, int(r), int(p)) for i, (r, p) in enumerate(zip(reference, predicted, strict=True))]
    )["liver"]
    x, y = reference * 0.002, predicted * 0.002
    difference = y - x
    assert (found.unit, found.count, found.patients) == ("ml", 40, 40)
    assert found.bias.value == pytest.approx(difference.mean())
    assert found.sd == pytest.approx(difference.std(ddof=1))
    assert found.upper_limit.value == pytest.approx(
        difference.mean() + 1.96 * difference.std(ddof=1), rel=1e-4
    )
    slope, intercept = np.polyfit(x, y, 1)
    assert found.ordinary.slope.value == pytest.approx(slope)
    assert found.ordinary.intercept.value == pytest.approx(intercept)
    # Deming with equal errors is the first principal axis.
    axis = np.linalg.svd(np.stack([x - x.mean(), y - y.mean()]))[0][:, 0]
    assert found.deming.slope.value == pytest.approx(axis[1] / axis[0])
    for estimate in (
        found.bias,
        found.lower_limit,
        found.upper_limit,
        found.ordinary.slope,
        found.deming.slope,
    ):
        low, high = estimate.interval
        assert low < estimate.value < high
    assert found.ordinary.slope.interval[0] > 1.0 or found.ordinary.slope.value == pytest.approx(
        1.05, abs=0.03
    )
    json.dumps(asdict(found), allow_nan=False)


def test_missed_and_invented_count_with_size_zero_and_empty_ones_do_not():
    cases = [case(0, 1000, 1100), case(1, 900, 0), case(2, 0, 50), case(3, 0, 0)]
    found = agreement(cases)["liver"]
    assert (found.count, found.missed, found.false_positives, found.both_empty) == (3, 1, 1, 1)
    assert found.bias.value == pytest.approx(0.002 * (100 - 900 + 50) / 3)
    assert found.note == "only 3 patients: limits and lines are rough"


def test_sizes_in_voxels_are_told_and_left_out():
    cases = [case(0, 1000, 1100), case(1, 900, 950), case(2, 800, 700, voxel=None, unit="voxels")]
    found = agreement(cases)["liver"]
    assert (found.count, found.without_size) == (2, 1)
    assert agreement(cases[2:]) == {}


def test_one_case_and_equal_sizes_have_no_line():
    found = agreement([case(0, 1000, 1100)])["liver"]
    assert (found.bias.value, found.bias.interval, found.sd) == (pytest.approx(0.2), None, None)
    assert found.ordinary.slope.value is None
    same = agreement([case(i, 1000, 1000 + i) for i in range(6)])["liver"]
    assert (same.ordinary.slope.value, same.deming.slope.value) == (None, None)
    assert same.bias.value == pytest.approx(0.005)


def test_patients_are_resampled_whole():
    reference, predicted = made(8)
    one = numbered(reference, predicted)
    many = [
        case(100 * k + i, int(r), int(p), patient=f"p{i}")
        for i, (r, p) in enumerate(zip(reference, predicted, strict=True))
        for k in range(5)
    ]
    first, second = (agreement(cases)["liver"].bias for cases in (one, many))
    assert first.interval == pytest.approx(second.interval)


def test_limits_cover_the_truth_about_as_often_as_they_say():
    hits = 0
    for trial in range(60):
        rng = np.random.default_rng(trial)
        reference = rng.integers(400_000, 900_000, 40)
        cases = [
            case(i, int(r), int(r + d))
            for i, (r, d) in enumerate(zip(reference, rng.normal(3000, 5000, 40), strict=True))
        ]
        low, high = agreement(cases, level=0.9)["liver"].bias.interval
        hits += low <= 6.0 <= high
    assert 47 <= hits <= 60
