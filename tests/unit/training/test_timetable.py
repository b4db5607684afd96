"""Epochs fitted to the time: costs worked out by hand, and laws of the schedule."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medseg.training.optim import learning_rate_at
from medseg.training.options import OneCycleOptions, PolyOptions
from medseg.training.timetable import EpochCost, Timetable


def row(seconds: float, validation_s: float = 0.0) -> dict[str, float]:
    return {"seconds": seconds, "validation_s": validation_s}


def test_the_cost_of_an_epoch_is_the_median_of_the_last_five_without_their_validations():
    history = [row(50.0), row(60.0), row(72.0, 2.0), row(82.0), row(92.0), row(104.0, 2.0), row(164.0)]
    cost = EpochCost.of(history, validate_every=3)
    assert (cost.epoch_s, cost.validation_s) == (10.0, 2.0)


def test_time_of_epochs_counts_validations_and_that_of_the_last_epoch():
    cost = EpochCost(epoch_s=10.0, validation_s=3.0, validate_every=4)
    assert cost.seconds(0, 4) == 43
    assert cost.seconds(0, 5) == 56
    assert cost.seconds(4, 8) == 43
    assert cost.seconds(3, 3) == 0
    assert EpochCost(epoch_s=10.0, validation_s=3.0, validate_every=0).seconds(0, 5) == 50


def test_epochs_that_fit_are_the_most_whose_end_is_in_time():
    cost = EpochCost(epoch_s=10.0, validation_s=3.0, validate_every=4)
    assert cost.fitting(0, 55.9) == 4
    assert cost.fitting(0, 56.0) == 5
    assert cost.fitting(7, 12.9) == 7
    assert cost.fitting(7, 13.0) == 8
    assert cost.fitting(7, -5.0) == 7


def test_without_a_refit_the_step_is_the_update():
    timetable = Timetable.of(7)
    assert [timetable.step_at(update, updates_per_epoch=3) for update in range(21)] == list(range(21))


def test_a_slow_machine_makes_fewer_epochs_and_the_rate_still_comes_down_without_a_jump():
    timetable = Timetable.of(10)
    cost = EpochCost(epoch_s=20.0)
    found = timetable.refit(cost, done=4, elapsed_s=80.0, limit_s=150.0)
    assert found == 7
    steps = [timetable.step_at(update, updates_per_epoch=5) for update in range(20)]
    timetable.apply(found, cost, done=4, updates_per_epoch=5)
    steps += [timetable.step_at(update, updates_per_epoch=5) for update in range(20, 35)]
    assert steps[:21] == list(range(21))
    assert steps[21] == pytest.approx(20 + 29 / 14)
    assert steps[-1] == 49
    rates = [
        learning_rate_at(OneCycleOptions(), peak=1.0, step=step, steps=50, steps_per_epoch=5)
        for step in steps
    ]
    assert rates[-1] == pytest.approx(1e-4)
    assert timetable.text(150.0) == (
        "the schedule was fitted to 2 min after epoch 4: 7 epochs instead of 10 (an epoch took 20 s)"
    )


def test_ample_time_changes_nothing_that_was_asked_for():
    assert Timetable.of(10).refit(EpochCost(epoch_s=1.0), done=4, elapsed_s=4.0, limit_s=1e6) is None
    assert Timetable.of(10).text(1e6) is None


def test_being_a_little_late_is_left_for_later_and_then_mended():
    cost = EpochCost(epoch_s=10.5)
    timetable = Timetable.of(10)
    assert timetable.refit(cost, done=1, elapsed_s=10.5, limit_s=100.0) is None
    assert timetable.refit(cost, done=5, elapsed_s=52.5, limit_s=100.0) == 9


def test_time_alone_gives_as_many_epochs_as_fit():
    timetable, cost = Timetable.of(None), EpochCost(epoch_s=2.0)
    assert timetable.epochs == 100
    assert timetable.refit(cost, done=1, elapsed_s=2.0, limit_s=1000.0) == 495
    assert timetable.refit(cost, done=1, elapsed_s=2.0, limit_s=100.0) == 49
    # One epoch is all there is time for: stop after it.
    assert timetable.refit(EpochCost(epoch_s=60.0), done=1, elapsed_s=60.0, limit_s=100.0) == 1


def test_epochs_that_were_taken_away_come_back_when_the_machine_is_free_again():
    timetable = Timetable.of(20)
    slow, fast = EpochCost(epoch_s=20.0), EpochCost(epoch_s=5.0)
    found = timetable.refit(slow, done=2, elapsed_s=40.0, limit_s=200.0)
    assert found == 9
    timetable.apply(found, slow, done=2, updates_per_epoch=3)
    assert timetable.refit(fast, done=5, elapsed_s=60.0, limit_s=200.0) == 20


@settings(max_examples=60)
@given(
    target=st.integers(2, 60),
    epochs=st.lists(st.integers(1, 60), min_size=1, max_size=4),
    per_epoch=st.integers(1, 7),
)
def test_steps_rise_and_end_at_the_last_whatever_is_refitted(target, epochs, per_epoch):
    timetable, cost = Timetable.of(target), EpochCost(epoch_s=1.0)
    steps, done = [], 0
    for more in epochs:
        if done >= timetable.epochs:
            break
        steps += [
            timetable.step_at(done * per_epoch + number, updates_per_epoch=per_epoch)
            for number in range(per_epoch)
        ]
        done += 1
        after = timetable.step_at(done * per_epoch, updates_per_epoch=per_epoch)
        if done < timetable.epochs:
            timetable.apply(done + more, cost, done=done, updates_per_epoch=per_epoch)
            if more * per_epoch > 1:
                assert timetable.step_at(done * per_epoch, updates_per_epoch=per_epoch) == after
    while done < timetable.epochs:
        steps += [
            timetable.step_at(done * per_epoch + number, updates_per_epoch=per_epoch)
            for number in range(per_epoch)
        ]
        done += 1
    assert steps == sorted(steps)
    assert steps[-1] == target * per_epoch - 1
    rates = [
        learning_rate_at(PolyOptions(), peak=1.0, step=s, steps=target * per_epoch, steps_per_epoch=per_epoch)
        for s in steps
    ]
    assert rates == sorted(rates, reverse=True)


@settings(max_examples=60)
@given(
    limit_s=st.floats(10, 100),
    epoch_s=st.floats(0.5, 50),
    validation_s=st.floats(0, 20),
    every=st.integers(1, 7),
    target=st.none() | st.integers(1, 300),
)
def test_a_training_at_an_even_pace_ends_in_time(limit_s, epoch_s, validation_s, every, target):
    cost = EpochCost(epoch_s=epoch_s, validation_s=validation_s, validate_every=every)
    timetable, done = Timetable.of(target), 0
    while done < timetable.epochs:
        done += 1
        elapsed_s = epoch_s * done + validation_s * (done // every)
        found = timetable.refit(cost, done=done, elapsed_s=elapsed_s, limit_s=limit_s)
        if found is not None:
            timetable.apply(found, cost, done=done, updates_per_epoch=2)
    assert cost.seconds(0, done) <= max(limit_s, cost.seconds(0, 1)) * (1 + 1e-9)
    if target is None:
        assert limit_s - cost.seconds(0, done) <= 0.05 * limit_s + cost.seconds(0, every + 1)
