"""Which engine is taken, by what trials found."""

import pytest

from medseg.inference.engine_choice import soonest, worst
from medseg.inference.engine_trial import Trial
from medseg.inference.parity import Parity

GOOD = Parity(foreground=1000, agreement=1.0, dice_change=0.0)
BAD = Parity(foreground=1000, agreement=0.9, dice_change=0.05)


def trial(engine, seconds, *, start_s=0.0, parity=GOOD):
    passed = parity is not None and parity.passes
    return Trial(
        engine=engine, seconds=seconds, start_s=start_s, passed=passed, because="figures", parity=parity
    )


def chosen(*trials, runs=100):
    return soonest((8, 8), {t.engine: t for t in trials}, runs)


def test_the_fastest_is_taken_for_long_work():
    choice = chosen(trial("torch", 1.0), trial("openvino", 0.5, start_s=2), trial("compile", 0.4, start_s=40))
    assert choice.engine == "openvino"
    assert "compile 80 s, openvino 52 s, torch 2 min" in choice.because


def test_the_start_counts_against_short_work():
    trials = trial("torch", 1.0), trial("openvino", 0.5, start_s=2), trial("compile", 0.4, start_s=40)
    assert chosen(*trials, runs=3).engine == "torch"
    assert chosen(*trials, runs=10_000).engine == "compile"


def test_a_refused_engine_is_passed_over_and_named():
    choice = chosen(
        trial("torch", 1.0), trial("openvino", 0.1, parity=BAD), trial("onnxruntime", None, parity=None)
    )
    assert choice.engine == "torch"
    assert choice.notes == ("Engine openvino is not used: figures.",)


def test_a_small_gain_is_noise():
    assert chosen(trial("torch", 1.0), trial("openvino", 0.96)).engine == "torch"
    assert chosen(trial("torch", 1.0), trial("openvino", 0.94)).engine == "openvino"


def test_without_measured_torch_it_is_torch():
    choice = chosen(runs=2)
    assert (choice.engine, choice.tried) == ("torch", ())
    assert "2 runs" in choice.because


def test_members_together_are_as_good_as_the_worst():
    assert worst([trial("openvino", 1.0), trial("openvino", 3.0, parity=BAD)]) == trial(
        "openvino", 2.0, parity=BAD
    )
    together = worst([trial("openvino", 1.0, start_s=2), trial("openvino", 3.0, start_s=1)])
    assert (together.seconds, together.start_s, together.passed) == (2.0, 3.0, True)
    failed = trial("openvino", None, parity=None)
    assert worst([trial("openvino", 1.0), failed]) is failed


def test_trials_round_trip_through_json():
    for one in (trial("openvino", 0.5, parity=BAD), trial("compile", None, parity=None)):
        assert Trial.from_json(one.to_json()) == one
    with pytest.raises(TypeError):
        Trial.from_json({"engine": "openvino"})
