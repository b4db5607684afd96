"""A search over a formula: what is tried, what ends a trial, how it goes on after a kill."""

from __future__ import annotations

import math

import pytest

pytest.importorskip("optuna", reason="searches need the extra search")

from formula import formula, options, score

from medseg.errors import (
    ConfigError,
    EnvironmentFailure,
    Interrupted,
    StorageError,
    TrainingError,
)
from medseg.search.loop import TIME_OVER, TrialResult, best_of
from medseg.search.records import TrialRow, best_row


class Killed(BaseException):
    """Stands for SIGKILL: nothing catches it."""


def plain(rows):
    return [(row.number, row.state, row.raw, row.value, dict(row.curve), row.reason) for row in rows]


def test_values_follow_from_seed_and_results(search_in):
    first = search_in("a")
    other = search_in("b", sampler={"use": "tpe", "seed": 2}, trials=1)
    assert first[0].raw != other[0].raw
    assert len({row.raw["training.learning_rate"] for row in first}) == 6


@pytest.mark.parametrize("sampler", ["tpe", "random"])
def test_a_killed_search_goes_on_with_the_same_trials(search_in, sampler):
    chosen = {"use": sampler, "startup_trials": 2} if sampler == "tpe" else {"use": sampler}
    settings = {"sampler": chosen, "trials": 4, "pruner": {"use": "median", "startup_trials": 1}}
    whole = search_in("whole", **settings)
    moments = iter([2, 1, 5])
    left = [next(moments)]

    def killed(job, watch):
        def count(epoch, values):
            watch(epoch, values)
            left[0] -= 1
            if left[0] == 0:
                left[0] = next(moments, 1000)
                raise Killed

        return formula(job, count)

    for _ in range(3):
        with pytest.raises(Killed):
            search_in("killed", objective=killed, **settings)
    assert plain(search_in("killed", **settings)) == plain(whole)


def test_bad_trials_are_pruned_and_never_before_the_warm_up(search_in):
    rows = search_in()
    pruned = [row for row in rows if row.state == "pruned"]
    assert pruned
    assert all(row.epochs == 2 and "worse than the median" in row.reason for row in pruned)
    assert [row.state for row in rows[:2]] == ["complete", "complete"]
    assert {row.state for row in search_in("all", pruner={"use": "none"}, trials=4)} == {"complete"}


def test_what_is_wrong_with_a_trial_alone_is_its_outcome(search_in):
    errors = iter(
        [
            TrainingError("loss is nan in epoch 1"),
            EnvironmentFailure("out of memory"),
            ConfigError("window too small"),
        ]
    )

    def objective(job, watch):
        error = next(errors, None)
        if error is not None:
            raise error
        return TrialResult(value=math.nan if job.number == 3 else 0.5)

    rows = search_in(objective=objective, trials=5)
    assert [row.state for row in rows] == ["failed", "failed", "pruned", "failed", "complete"]
    assert [row.reason for row in rows[:2]] == ["loss is nan in epoch 1", "out of memory"]
    assert rows[2].reason == "its settings do not go together: window too small"
    assert rows[3].reason == "its value is not a number"


@pytest.mark.parametrize("error", [StorageError("disk full"), Interrupted("stopped")])
def test_what_concerns_all_ends_the_search_and_the_trial_goes_on(search_in, error):
    def failing(job, watch):
        watch(1, {"dice": 0.1})
        raise error

    with pytest.raises(type(error), match=str(error)):
        search_in(objective=failing, trials=2)
    rows = search_in(trials=2)
    assert len(rows) == 2
    assert rows[0].state == "complete"
    assert rows[0].curve[1] == 0.1


def test_values_that_are_refused_are_pruned_without_work(search_in):
    worked = []

    def objective(job, watch):
        worked.append(job.number)
        return formula(job, watch)

    rows = search_in(
        objective=objective,
        refused=lambda v: "too many" if v["training.batch_size"] > 3 else None,
    )
    refused = [row for row in rows if row.raw["training.batch_size"] > 3]
    assert 0 < len(refused) < 6
    assert all(row.state == "pruned" and row.reason.endswith("too many") for row in refused)
    assert not {row.number for row in refused} & set(worked)


def test_values_that_come_again_are_not_trained_again(search_in):
    worked = []

    def objective(job, watch):
        worked.append(job.raw["training.ema"])
        watch(1, {"dice": 0.5})
        return TrialResult(value=0.5)

    rows = search_in(objective=objective, space={"training.ema": {"choices": [None, 0.9]}})
    assert len(rows) == 6
    assert sorted(worked) == sorted(set(worked))
    again = [row for row in rows if row.reason]
    assert len(again) == 6 - len(worked)
    assert all(row.value == 0.5 and "the same values as trial" in row.reason for row in again)


def test_the_metric_must_be_among_the_validation_values(search_in):
    with pytest.raises(ConfigError, match=r"'hd95' is not among the validation values: dice"):
        search_in(metric="hd95")


def test_lower_may_be_better(search_in):
    def objective(job, watch):
        for epoch in range(1, 4):
            watch(epoch, {"loss": 1 - score(job)})
        return TrialResult(value=1 - score(job))

    rows = search_in(objective=objective, metric="loss", metric_is="lower_better")
    best = best_row(rows, higher_is_better=False)
    assert best.value == min(row.value for row in rows if row.state == "complete")
    assert all(row.curve[2] > best.value for row in rows if row.state == "pruned")


def test_the_time_ends_the_running_trial_and_the_search(search_in, monkeypatch):
    clock = [0.0]
    monkeypatch.setattr("medseg.search.loop.time.monotonic", lambda: clock[0])

    def slow(job, watch):
        def later(epoch, values):
            clock[0] += 10
            watch(epoch, values)

        return formula(job, later)

    rows = search_in(objective=slow, time="100s", pruner={"use": "none"})
    assert [row.state for row in rows] == ["complete", "complete", "pruned"]
    assert rows[2].reason == TIME_OVER
    # The time of an earlier attempt counts.
    assert len(search_in(objective=slow, time="100s", pruner={"use": "none"})) == 3


def test_a_search_without_a_complete_trial_says_why():
    rows = [TrialRow(number=n, state="failed", raw={}, reason="loss is nan") for n in range(3)]
    with pytest.raises(TrainingError, match=r"none of the 3 trials .*trial 0 failed: loss is nan"):
        best_of(tuple(rows), options())
    with pytest.raises(TrainingError, match=r"began no trial within search\.time"):
        best_of((), options(time="1s"))


def test_the_first_of_equals_is_best():
    rows = [TrialRow(number=n, state="complete", raw={}, value=0.5) for n in range(3)]
    assert best_row(rows, higher_is_better=True).number == 0
