"""What `/ready` is told by the parts of a node."""

from __future__ import annotations

import pytest
from sqlalchemy import text

from medseg.database import Database
from medseg.errors import StorageError
from medseg.node.life import DEAD_AFTER_S, Life
from medseg.node.tables import metadata
from tests.unit.node.listening import Listener
from tests.unit.node.turned_clock import TurnedClock


def test_a_listener_tells_whether_it_listens(tmp_path):
    listener = Listener(tmp_path)
    assert listener.server.alive
    listener.stop()
    assert not listener.server.alive


def test_a_database_that_is_read_but_not_written_is_a_problem(tmp_path):
    database, clock = Database.in_file(tmp_path / "node.db", metadata), TurnedClock()
    life = Life(database, clock, "node of tests")
    life.begin()
    clock.turn(DEAD_AFTER_S - 1)
    life.beat()
    with database.write() as connection:
        connection.execute(
            text("CREATE TRIGGER full BEFORE UPDATE ON nodes BEGIN SELECT RAISE(ABORT, 'full'); END")
        )
    clock.turn(DEAD_AFTER_S - 1)
    with pytest.raises(StorageError):
        life.beat()
    assert life.problem() == ""
    clock.turn(1)
    assert "not been written" in life.problem()
    with database.write() as connection:
        connection.execute(text("DROP TRIGGER full"))
    life.beat()
    assert life.problem() == ""
    database.close()
