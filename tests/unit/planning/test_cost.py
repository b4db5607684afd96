"""Predicted time and memory, and epochs that fit."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medseg.planning.cost import Prediction, ProbeResult, Work, compare, fitting_epochs, predict

PROBE = ProbeResult(
    step_s=0.5,
    epoch_end_s=0.25,
    validation_s=2.0,
    validation_voxels=1000,
    preparation_s=1.0,
    preparation_voxels=500,
    other_s=3.0,
    ram_bytes=800,
    start_bytes=300,
    gpu_bytes=None,
    steps=16,
)
WORK = Work(
    steps_per_epoch=10,
    validate_every=3,
    validation_voxels=4000,
    preparation_voxels=2000,
    calibration_voxels=500,
)


def test_seconds_are_those_of_all_parts():
    found = predict(PROBE, WORK, epochs=4, program_bytes=350)
    # Epochs 3 and 4 are validated, 8 s each; the calibration reads its images once more.
    assert found.parts == {
        "preparation": 4.0,
        "start and end": 3.0,
        "calibration": 5.6,
        "steps": 20.0,
        "checkpoints": 1.0,
        "validation": 16.0,
    }
    assert found.seconds == 49.6
    assert found.ram_bytes == 850
    assert Prediction.from_json(found.to_json()) == found


def test_a_time_limit_cuts_the_epochs_alone():
    assert predict(PROBE, WORK, epochs=4, limit_s=10).seconds == pytest.approx(12.6 + 10)


def test_as_many_epochs_fit_as_are_predicted_to_fit():
    epochs, least = fitting_epochs(PROBE, WORK, seconds=49.6, most=100)
    assert epochs == 4
    assert least == pytest.approx(12.6 + 5 + 0.25 + 8)
    assert fitting_epochs(PROBE, WORK, seconds=20.0, most=100)[0] == 0
    assert fitting_epochs(PROBE, WORK, seconds=1e9, most=7)[0] == 7
    assert fitting_epochs(PROBE, WORK, seconds=37.0, most=100, whole=False)[0] == 4


@given(st.floats(1, 1e5), st.floats(1, 1e5))
def test_more_time_never_means_fewer_epochs(first, second):
    low, high = sorted((first, second))
    fit = [fitting_epochs(PROBE, WORK, seconds=s, most=10_000)[0] for s in (low, high)]
    assert fit[0] <= fit[1]
    if fit[1]:
        assert predict(PROBE, WORK, epochs=fit[1]).seconds <= high


def test_a_comparison_says_both_and_whether_they_agree():
    predicted = predict(PROBE, WORK, epochs=4)
    found = compare(predicted, ram_bytes=900, seconds=70.0)
    assert found is not None
    assert "took 1 kB of memory (predicted 1 kB) and 70 s (predicted 50 s)" in found.text
    assert found.to_json()["ram_within"] is True
    assert found.to_json()["time_within"] is False
    assert compare(None, ram_bytes=1, seconds=1.0) is None
