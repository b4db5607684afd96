"""Reading, network and writing of successive cases: side by side, in order, three at most, and never stuck."""

from __future__ import annotations

import threading

import pytest

from medseg.errors import StorageError
from medseg.pipeline.cohort_case import CaseOutcome, ReadCase, SegmentedCase
from medseg.pipeline.cohort_overlap import in_turn, overlapped

WAIT_S = 5.0


class Work:
    """Steps that note what happens; `stops` name a step and a case at which something goes wrong."""

    def __init__(self, **stops):
        self.stops, self.events, self.held, self.most = stops, [], 0, 0
        self.lock = threading.Lock()
        self.read_of = {index: threading.Event() for index in range(20)}
        self.written_of = {index: threading.Event() for index in range(20)}

    def _note(self, step, index, change=0):
        with self.lock:
            self.events.append((step, index))
            self.held += change
            self.most = max(self.most, self.held)
        if self.stops.get(step, ("", -1))[1] == index:
            raise self.stops[step][0]

    def outcome(self, index, state="done"):
        return CaseOutcome(index=index, case_id=str(index), folder=str(index), state=state)

    def read(self, index):
        self._note("read", index, 1)
        self.read_of[index].set()
        if self.stops.get("kept") == index:
            self.held -= 1
            return self.outcome(index, "kept")
        return ReadCase(case=index, key="", volume=None)

    def segment(self, read):
        self._note("segment", read.case)
        return SegmentedCase(case=read.case, key="", volume=None, result=None)

    def write(self, segmented):
        self._note("write", segmented.case, -1)
        self.written_of[segmented.case].set()
        return self.outcome(segmented.case)

    def do(self, index):
        return self.write(self.segment(self.read(index)))


def test_outcomes_come_in_order_and_at_most_three_cases_are_held():
    work = Work(kept=4)
    found = list(overlapped(range(12), work))
    assert [o.index for o in found] == list(range(12))
    assert found[4].state == "kept"
    assert work.most <= 3
    assert ("segment", 4) not in work.events


def test_the_next_case_is_read_and_the_last_one_written_while_the_network_works():
    work = Work()
    plain = work.segment

    def segment(read):
        # The network has case 1 until case 2 is read and case 0 written: only side by side does that end.
        if read.case == 1:
            assert work.read_of[2].wait(WAIT_S)
            assert work.written_of[0].wait(WAIT_S)
            assert not work.read_of[3].wait(0.02), "no more than one case is read ahead"
        return plain(read)

    work.segment = segment
    assert len(list(overlapped(range(4), work))) == 4


@pytest.mark.parametrize("step", ["read", "segment", "write"])
def test_what_ends_the_cohort_is_raised_here_and_no_thread_is_left(step):
    before = threading.active_count()
    work = Work(**{step: (StorageError("no space"), 3)})
    with pytest.raises(StorageError, match="no space"):
        list(overlapped(range(12), work))
    assert threading.active_count() == before
    assert ("write", 11) not in work.events


def test_a_consumer_that_stops_leaves_no_thread():
    before = threading.active_count()
    coming = overlapped(range(12), Work())
    assert next(coming).index == 0
    coming.close()
    assert threading.active_count() == before


def test_in_turn_holds_one_case():
    work = Work()
    assert [o.index for o in in_turn(range(4), work)] == list(range(4))
    assert work.most == 1
