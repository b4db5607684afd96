"""Rates, decay and averages by what is trained."""

from __future__ import annotations

import pytest

from medseg.planning.schedule_plan import (
    Pupil,
    plan_ema,
    plan_learning_rate,
    plan_optimiser,
    plan_schedule,
)
from medseg.training.options import TrainingOptions


def pupil(network="unet", dims=3, *, pretrained=False):
    return Pupil(network=network, dims=dims, pretrained=pretrained)


def rate(batch, of, optimiser="adamw"):
    return plan_learning_rate(batch, optimiser=optimiser, pupil=of).value


def test_fresh_networks_for_volumes_keep_a_high_rate_and_average_long():
    fresh = pupil()
    assert rate(4, fresh) == rate(8, fresh) == 4e-3
    assert rate(1, fresh) == 2e-3
    assert plan_schedule(fresh).value == {"use": "constant", "warmup": 0.05}
    assert plan_ema(fresh).value == 0.999
    assert plan_optimiser(fresh).value["weight_decay"] == 0.05


@pytest.mark.parametrize("other", [pupil(dims=2), pupil("swin_unetr"), pupil(pretrained=True)])
def test_others_go_up_and_down_at_the_rates_usual_for_them(other):
    assert rate(4, other) < 2e-3
    assert plan_schedule(other).value == {"use": "one_cycle"}
    assert plan_ema(other).value < 0.999
    assert plan_optimiser(other).value["weight_decay"] == 1e-4


def test_a_given_descent_has_the_rate_that_is_usual_for_it():
    assert rate(4, pupil(), "sgd") == 1e-2
    assert rate(4, pupil(pretrained=True), "sgd") == 3e-3


@pytest.mark.parametrize("of", [pupil(), pupil(dims=2)])
def test_what_is_decided_are_settings(of):
    TrainingOptions(optimiser=plan_optimiser(of).value, schedule=plan_schedule(of).value)
