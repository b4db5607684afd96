"""Log-ins of the page when the clock of the machine is set."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("pynetdicom", reason="needs medseg[pacs]")
from medseg.database import Database
from medseg.node.tables import metadata
from medseg.node.web.accounts import Account, Accounts
from medseg.node.web.sessions import Sessions
from tests.unit.node.turned_clock import TurnedClock

OLGA = Account(name="olga", role="operator", digest=b"d" * 32)
YEAR = 365 * 86400.0


@pytest.fixture
def made(tmp_path: Path):
    clock, database = TurnedClock(), Database.in_file(tmp_path / "node.db", metadata)
    yield clock, Sessions(Accounts([OLGA]), database=database, secret=b"s", lasts_s=7200.0, clock=clock)
    database.close()


@pytest.mark.parametrize("seconds", [-YEAR, -3600.0, 3600.0, YEAR])
def test_a_clock_that_is_set_ends_no_session_and_lengthens_none(made, seconds: float):
    clock, sessions = made
    _, cookie = sessions.begin(OLGA)
    clock.jump(seconds)
    assert sessions.read(cookie) is not None
    clock.turn(7201.0)
    assert sessions.read(cookie) is None


@pytest.mark.parametrize("seconds", [-YEAR, YEAR])
def test_a_clock_that_is_set_revives_no_session_that_was_ended(made, seconds: float):
    clock, sessions = made
    (first, one), (second, two), (third, _) = (sessions.begin(OLGA) for _ in range(3))
    sessions.end(first)
    clock.jump(seconds)
    sessions.end(second)
    clock.jump(-seconds)
    sessions.end(third)
    assert (sessions.read(one), sessions.read(two)) == (None, None)
