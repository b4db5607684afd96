"""Warnings of parsers are heard by the thread that caused them, and by nobody else; nothing is left behind."""

from __future__ import annotations

import threading
import warnings

import pytest

from medseg.io.foreign import recorded_warnings


def state() -> tuple[object, ...]:
    return list(warnings.filters), warnings.showwarning, warnings._showwarnmsg_impl


def test_threads_that_overlap_hear_of_their_own_warnings_and_leave_all_as_it_was():
    before, heard = state(), dict[str, list[str]]()
    both, first_left = threading.Barrier(2), threading.Event()

    def listen(name: str) -> None:
        with recorded_warnings() as caught:
            both.wait(10)
            for number in range(3):
                warnings.warn(f"{name} {number}", stacklevel=1)
            both.wait(10)
            if name == "second":
                assert first_left.wait(10)
                warnings.warn("second at last", stacklevel=1)
        heard[name] = [str(one.message) for one in caught]
        if name == "first":
            first_left.set()

    threads = [threading.Thread(target=listen, args=(name,)) for name in ("first", "second")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert heard["first"] == [f"first {number}" for number in range(3)]
    assert heard["second"] == [*(f"second {number}" for number in range(3)), "second at last"]
    assert state() == before


def test_who_does_not_record_is_not_recorded():
    inside, leave, caught_by = threading.Event(), threading.Event(), list[warnings.WarningMessage]()

    def record() -> None:
        with recorded_warnings() as caught:
            inside.set()
            assert leave.wait(10)
            caught_by.extend(caught)

    def warn_beside() -> None:
        thread = threading.Thread(target=record)
        thread.start()
        assert inside.wait(10)
        warnings.warn("of another thread", stacklevel=1)
        leave.set()
        thread.join()

    with pytest.warns(UserWarning, match="of another thread"):
        warn_beside()
    assert caught_by == []


def test_recorders_in_one_another_hear_the_innermost_first():
    before = state()
    with recorded_warnings() as outer:
        with recorded_warnings() as inner:
            warnings.warn("inner", stacklevel=1)
        warnings.warn("outer", stacklevel=1)
        with warnings.catch_warnings():
            # As a parser may do.
            warnings.simplefilter("ignore")
            warnings.warn("unheard", stacklevel=1)
    assert [[str(one.message) for one in caught] for caught in (outer, inner)] == [["outer"], ["inner"]]
    assert state() == before
