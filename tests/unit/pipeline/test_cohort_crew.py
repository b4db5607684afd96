"""Workers that die at any time: each case has one outcome, and nothing waits for ever."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medseg.errors import StorageError, WorkerError
from medseg.io.discover import Found
from medseg.pipeline.cohort_case import CaseOutcome
from medseg.pipeline.cohort_crew import MOST_STARTS, Broken, Crew, Died, Done, Ready
from medseg.pipeline.cohort_inputs import CohortCase


def case(index):
    image = Found(
        paths=(Path(f"{index}.nii"),),
        kind="nifti",
        modality="",
        patient_id="",
        study_instance_uid="",
        series_instance_uid="",
        sop_instance_uid="",
        case_id=f"c{index}",
    )
    return CohortCase(index=index, image=image)


def outcome(work):
    return CaseOutcome(index=work.index, case_id=work.case_id, folder=work.folder, state="done")


@dataclass
class ScriptedSite:
    """Workers that do what a script says: one word per event of a worker, `fine` where it ends."""

    size: int
    script: list[str] = field(default_factory=list)
    there: dict[int, CohortCase | None] = field(default_factory=dict)
    starting: set[int] = field(default_factory=set)
    given: list[tuple[int, str]] = field(default_factory=list)
    last: int = 0
    idle_turns: int = 0
    closed: bool = False

    def start(self, most):
        numbers = range(self.last + 1, self.last + 1 + min(most, self.size - len(self.there)))
        self.last += len(numbers)
        self.there |= dict.fromkeys(numbers)
        self.starting.update(numbers)
        return list(numbers)

    def give(self, worker, work):
        assert self.there[worker] is None
        assert worker not in self.starting
        self.there[worker] = work
        self.given.append((worker, work.case_id))

    def events(self):
        busy = [w for w, work in self.there.items() if work is not None or w in self.starting]
        self.idle_turns = 0 if busy else self.idle_turns + 1
        assert self.idle_turns < 50, "nothing happens any more"
        return [self._event(worker) for worker in busy[:1]]

    def _event(self, worker):
        word = self.script.pop(0) if self.script else "fine"
        if word == "broken":
            return Broken(error=StorageError("no space"))
        if word == "dies":
            del self.there[worker]
            self.starting.discard(worker)
            return Died(worker=worker, how=f"worker {worker} was ended by SIGKILL")
        if worker in self.starting:
            self.starting.discard(worker)
            return Ready(worker=worker)
        work, self.there[worker] = self.there[worker], None
        return Done(worker=worker, outcome=outcome(work))

    def close(self):
        self.closed = True


def run(site, count, **arguments):
    return list(Crew(site=site, **arguments).outcomes([case(index) for index in range(count)]))


@given(
    st.integers(1, 4),
    st.integers(0, 8),
    st.booleans(),
    st.lists(st.sampled_from(["fine", "fine", "dies"]), max_size=40),
)
def test_each_case_has_one_outcome_whatever_dies(size, count, fresh, script):
    site = ScriptedSite(size, list(script))
    try:
        found = run(site, count, fresh=fresh)
    except WorkerError:
        # Only where worker after worker died before any was ready, and none is left.
        assert script.count("dies") >= MOST_STARTS
        assert not site.there
    else:
        assert Counter(o.index for o in found) == Counter(range(count))
        tries = Counter(name for _, name in site.given)
        for o in found:
            assert tries[o.case_id] <= 2
            assert (o.state == "failed") <= (tries[o.case_id] == 2)
    assert site.closed


def test_a_case_whose_worker_dies_is_done_by_a_fresh_one():
    said = []
    site = ScriptedSite(1, ["fine", "fine", "dies"])
    found = run(site, 3, note=said.append)
    assert [o.state for o in found] == ["done"] * 3
    assert site.given == [(1, "c0"), (1, "c1"), (2, "c1"), (2, "c2")]
    assert said == ["c1: worker 1 was ended by SIGKILL; the case is tried once more"]


def test_a_case_that_kills_twice_is_reported_and_the_others_are_done():
    site = ScriptedSite(1, ["fine", "dies", "fine", "dies"])
    found = run(site, 3)
    assert [(o.case_id, o.state, o.exit_code) for o in found] == [
        ("c0", "failed", 4),
        ("c1", "done", 0),
        ("c2", "done", 0),
    ]
    assert found[0].error == (
        "given up after 2 tries: worker 1 was ended by SIGKILL; then worker 2 was ended by SIGKILL"
    )


def test_workers_that_never_start_end_the_run_with_the_reason():
    site = ScriptedSite(2, ["dies"] * 20)
    with pytest.raises(WorkerError, match=r"no worker can be started: worker \d was ended by SIGKILL"):
        run(site, 2)
    assert site.closed


def test_where_the_machine_bears_fewer_workers_these_do_all():
    class Cramped(ScriptedSite):
        def _event(self, worker):
            # Only one fits into the memory: whoever starts beside it dies.
            if worker in self.starting and len(self.there) > len(self.starting):
                self.script.insert(0, "dies")
            return super()._event(worker)

    site = Cramped(4, ["dies", "dies", "dies"])
    found = run(site, 6)
    assert [o.state for o in found] == ["done"] * 6
    assert site.last == 7, "no more were started after three had died one after the other"


def test_what_concerns_all_cases_ends_the_run():
    site = ScriptedSite(2, ["fine", "fine", "broken"])
    with pytest.raises(StorageError, match="no space"):
        run(site, 4)
    assert site.closed


def test_a_cluster_gives_the_case_to_any_worker():
    site = ScriptedSite(2, ["fine", "fine", "dies"])
    found = run(site, 2, fresh=False)
    assert sorted(o.index for o in found) == [0, 1]
