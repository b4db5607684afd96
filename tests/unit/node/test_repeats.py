"""The first times of an address are told in full, the others are counted, and memory is bounded."""

from __future__ import annotations

import pytest

from medseg.node.repeats import IN_FULL, WITHIN_S, Repeats, What
from tests.unit.node.turned_clock import TurnedClock

LOST = What("association", "lost", "10.0.0.1")


@pytest.fixture
def clock() -> TurnedClock:
    return TurnedClock()


def test_each_minute_begins_anew(clock: TurnedClock):
    repeats = Repeats(clock)
    for _ in range(2):
        assert [repeats.is_told(LOST) for _ in range(IN_FULL + 5)] == [True] * IN_FULL + [False] * 5
        assert repeats.counted() == {}
        clock.turn(WITHIN_S)
        assert repeats.counted() == {LOST: 5}
    assert repeats.counted(at_once=True) == {}


def test_addresses_and_outcomes_do_not_hide_one_another(clock: TurnedClock):
    repeats = Repeats(clock)
    for _ in range(IN_FULL + 1):
        repeats.is_told(LOST)
    assert repeats.is_told(LOST._replace(address="10.0.0.2"))
    assert repeats.is_told(LOST._replace(outcome="aborted"))
    assert repeats.is_told(LOST._replace(event="http"))
    assert not repeats.is_told(LOST)
    assert repeats.counted(at_once=True) == {LOST: 2}


def test_any_number_of_addresses_has_a_bounded_number_of_lines(clock: TurnedClock):
    repeats, others = Repeats(clock), LOST._replace(address="")
    told = sum(repeats.is_told(LOST._replace(address=f"2001:db8::{number:x}")) for number in range(5000))
    assert told == 1000 + IN_FULL
    clock.turn(WITHIN_S)
    assert repeats.counted() == {others: 4000 - IN_FULL}
