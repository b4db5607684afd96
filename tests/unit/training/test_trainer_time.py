"""The time of a training: fitted schedules, checkpoints by the clock, where the time goes."""

from __future__ import annotations

import csv
from typing import Any

import pytest
import tiny

from medseg.errors import Interrupted
from medseg.training import session, stopwatch
from medseg.training.records import Progress
from medseg.training.trainer import TrainingResult


class Clock:
    """Time that passes by a second at each report: four in an epoch of three updates and a validation."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now, self.step_s, self.seen = 0.0, 1.0, []
        monkeypatch.setattr(stopwatch, "perf_counter", lambda: self.now)
        monkeypatch.setattr(session.time, "monotonic", lambda: self.now)

    def __call__(self, progress: Progress) -> None:
        self.seen.append(progress)
        self.now += self.step_s


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def run(folder: Any, clock: Clock, **changes: Any) -> TrainingResult:
    return tiny.run(folder, **{"progress": clock, "checkpoint_every_steps": None, **changes})


def test_ample_time_changes_no_bit(tmp_path, clock):
    free = run(tmp_path / "free", clock, epochs=4)
    timed = run(tmp_path / "timed", clock, epochs=4, time="1h")
    assert timed.weights_sha256 == free.weights_sha256
    assert (timed.stopped_by, timed.refit) == ("epochs", None)


def test_a_slow_machine_ends_in_time_at_the_end_of_the_schedule(tmp_path, clock):
    told: list[str] = []
    result = run(tmp_path, clock, epochs=10, time=25, tell=told.append)
    assert (result.stopped_by, result.epochs_run) == ("time", 6)
    assert result.seconds <= 25
    rates = [row["learning_rate"] for row in result.history]
    assert rates[-1] == pytest.approx(0.02 * 1e-4)
    assert result.refit in told
    assert "the schedule was fitted to 25 s" in str(result.refit)
    assert "6 epochs instead of 10 (an epoch took 4.0 s)" in str(result.refit)
    assert clock.seen[-1].epochs == 6
    assert clock.seen[-1].seconds_left == 0


def test_time_alone_fills_itself(tmp_path, clock):
    result = run(tmp_path, clock, epochs=None, time=60)
    assert (result.stopped_by, result.epochs_run) == ("time", 15)
    assert result.seconds <= 60
    assert result.history[-1]["learning_rate"] == pytest.approx(0.02 * 1e-4)


def test_the_last_epoch_is_validated_also_where_time_ends_it(tmp_path, clock):
    result = run(tmp_path, clock, epochs=50, time=5, validate_every=10)
    assert (result.stopped_by, result.epochs_run, result.best_epoch) == ("time", 1, 1)
    with (tmp_path / "metrics.csv").open(newline="") as stream:
        assert next(csv.DictReader(stream))["dice"]


def test_a_run_that_was_cut_after_a_refit_keeps_it(tmp_path, clock):
    changes = {"epochs": 10, "time": 25}
    whole = run(tmp_path / "whole", clock, **changes)
    asked = 16

    def stopping(progress: Progress) -> None:
        nonlocal asked
        clock(progress)
        asked -= 1
        if asked == 0:
            raise Interrupted("stop")

    with pytest.raises(Interrupted):
        tiny.run(tmp_path / "cut", progress=stopping, **changes)
    clock.step_s = 0.5
    result = run(tmp_path / "cut", clock, **changes)
    assert result.refit is not None
    assert [row["learning_rate"] for row in whole.history][:4] == [
        row["learning_rate"] for row in result.history
    ][:4]


def test_checkpoints_within_an_epoch_come_by_the_clock(tmp_path, clock):
    found: list[str] = []

    def look(progress: Progress) -> None:
        found.append(max((path.name[:15] for path in tmp_path.glob("state-*.pt")), default=""))
        clock(progress)

    changes = {"epochs": 2, "checkpoint_every_steps": None, "samples_per_epoch": 12}
    tiny.run(tmp_path, progress=look, checkpoint_every=3, **changes)
    # Updates 1 to 6, the end of the epoch, then 7 to 12.
    assert found[:8] == ["", "", "", "state-000000003", "state-000000003", "state-000000003", *found[6:8]]
    assert found[6] == "state-000000006"
    with_none = tiny.run(tmp_path / "none", progress=clock, checkpoint_every=None, **changes)
    assert tiny.run(tmp_path / "some", progress=clock, checkpoint_every=1, **changes).weights_sha256 == (
        with_none.weights_sha256
    )


def test_the_shares_of_the_time_add_up(tmp_path):
    result = tiny.run(tmp_path, epochs=2)
    assert set(result.shares) == {"network", "samples", "validation", "saving", "other"}
    assert sum(result.shares.values()) == pytest.approx(1.0)
    assert min(result.shares.values()) >= 0
    with (tmp_path / "metrics.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    parts = [
        sum(float(row[f"{part}_s"]) for part in ("network", "samples", "validation", "saving"))
        for row in rows
    ]
    assert 0 < sum(parts) <= float(rows[-1]["seconds"]) + 0.01


def test_the_speed_of_the_network_is_told_from_that_of_the_loader(tmp_path, monkeypatch):
    class Slow:
        """A loader whose samples take ten seconds of a made-up clock."""

        def __init__(self, loader: Any) -> None:
            self.loader, self.steps = loader, loader.steps

        def epoch(self, epoch: int, start: int = 0) -> Any:
            for batch in self.loader.epoch(epoch, start):
                clock.now += 10.0
                yield batch

    clock = Clock(monkeypatch)
    from medseg.data.loader import BatchLoader

    with BatchLoader(tiny.Discs(), batch_size=2, seed=1, workers=0, augment=tiny.shifted) as loader:
        result = tiny.run(tmp_path, loader=Slow(loader), epochs=1)
    assert result.shares["samples"] == pytest.approx(1.0)
