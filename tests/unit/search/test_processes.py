"""Several trials at a time: the same outcomes, a process that dies, an error of all, a stop."""

from __future__ import annotations

import functools
import os
import time

import pytest

pytest.importorskip("optuna", reason="searches need the extra search")

from formula import counted, deadly, endless, full_disk

from medseg.errors import Interrupted, StorageError
from medseg.search.processes import TrialProcesses


def at_a_time(count, stopped=lambda: None):
    def runner(search, objective):
        TrialProcesses(objective=objective, count=count, stopped=stopped).run(search)

    return runner


def alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_two_processes_share_the_trials_and_one_that_dies_fails_its_trial_alone(search_in, tmp_path):
    objective = functools.partial(deadly, tmp_path)
    rows = search_in(objective=objective, runner=at_a_time(2), trials=5, pruner={"use": "none"})
    assert [row.state for row in rows] == ["complete", "failed", "complete", "complete", "complete"]
    assert rows[1].reason == "its process was ended by SIGKILL; the system does this when memory runs out"
    assert rows[1].epochs == 2
    worked = [line.split() for line in (tmp_path / "log").read_text().splitlines()]
    assert sorted(number for _, number in worked) == list("01234")
    assert len({pid for pid, _ in worked}) >= 2
    assert not any(alive(int(pid)) for pid, _ in worked)


def test_an_error_of_all_ends_the_search(search_in, tmp_path):
    with pytest.raises(StorageError, match="no space left"):
        search_in(objective=functools.partial(full_disk, tmp_path), runner=at_a_time(1))
    rows = search_in(objective=functools.partial(counted, tmp_path), trials=2)
    assert [row.state for row in rows] == ["complete", "complete"]


def test_a_stop_saves_what_runs_and_it_goes_on(search_in, tmp_path):
    begin = time.monotonic()

    def stopped():
        both = all((tmp_path / f"ready-{number}").exists() for number in (0, 1))
        return "SIGINT" if both or time.monotonic() - begin > 60 else None

    with pytest.raises(Interrupted, match=r"stopped by SIGINT; .* the same command goes on"):
        search_in(objective=functools.partial(endless, tmp_path), runner=at_a_time(2, stopped))
    assert sorted(path.name for path in tmp_path.glob("saved-*")) == ["saved-0", "saved-1"]
    rows = search_in(trials=2, pruner={"use": "none"})
    assert [row.state for row in rows] == ["complete", "complete"]
