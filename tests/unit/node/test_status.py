"""What `medseg serve --status` tells of several nodes and of work lists."""

from __future__ import annotations

import json
import threading

import pytest
from sqlalchemy import MetaData

from medseg.database import Database
from medseg.errors import StorageError
from medseg.node import status
from medseg.node.life import DEAD_AFTER_S, Life
from medseg.node.options import NodeConfig
from medseg.node.status import node_status, status_lines
from medseg.node.tables import metadata, nodes, work_items
from medseg.privacy import pseudonym
from tests.unit.node.turned_clock import TurnedClock


@pytest.fixture
def config(tmp_path) -> NodeConfig:
    rules = [{"name": "lungs", "model": "chest-xray-lungs"}]
    return NodeConfig.model_validate({"medseg_node": 1, "folder": tmp_path, "rules": rules})


@pytest.fixture
def database(tmp_path):
    made = Database.in_file(tmp_path / "node.db", metadata)
    yield made
    made.close()


def test_of_several_nodes_those_live_whose_number_grows(config, database, monkeypatch):
    monkeypatch.setattr(status, "_WATCHED_S", 1.0)
    monkeypatch.setattr(status, "PostgresqlOptions", type(config.database))
    monkeypatch.setattr(status, "read_secret", lambda url, field: f"sqlite:///{config.folder / 'node.db'}")
    object.__setattr__(config.database, "url", None)
    lives = {name: Life(database, TurnedClock(), name) for name in ("alive", "silent", "stopped")}
    for life in lives.values():
        life.begin()
    lives["stopped"].end()
    done = threading.Event()

    def beat() -> None:
        while not done.wait(0.05):
            lives["alive"].beat()

    thread = threading.Thread(target=beat)
    thread.start()
    found = node_status(config, TurnedClock())
    done.set()
    thread.join()
    assert {node.name: node.lives for node in found.nodes} == {"alive": True, "silent": False}
    lines = status_lines(found)
    assert lines[0] == "running"
    (alive,) = [line for line in lines if line.startswith("node 'alive' ")]
    assert ": running, process " in alive
    assert alive.endswith("since 2027-01-15T08:00:00+00:00")
    assert any(line.startswith("node 'silent' ") and "no sign of life for 1 s" in line for line in lines)


def test_a_database_without_a_node_is_one_sentence(config):
    Database.in_file(config.folder / "node.db", MetaData()).close()
    with pytest.raises(StorageError, match="no node was ever started with this database"):
        node_status(config, TurnedClock())


def test_a_silent_node_counts_as_stopped_until_it_beats_again(database):
    clock = TurnedClock()
    mine, other = Life(database, clock, "mine"), Life(database, clock, "other")
    mine.begin()
    other.begin()
    for _ in range(2):
        assert mine.dead() == []
        mine.bury_silent()
        clock.turn(DEAD_AFTER_S - 1)
        mine.beat()
        other.beat()
    assert mine.dead() == []
    clock.turn(DEAD_AFTER_S)
    assert mine.dead() == [other.node_id]
    mine.bury_silent()
    assert _stopped(database) == {"mine": False, "other": True}
    other.beat()
    assert _stopped(database) == {"mine": False, "other": False}
    assert mine.dead() == []


def test_work_items_are_told_with_their_jobs_and_reasons(config, database):
    row = {"source": "list", "transaction_uid": "1.2", "owner": "n", "rule": "lungs", "request": "{}"}
    row |= {"created_at": 0.0}
    rows = (
        {"state": "canceled", "reason": "there is no series to be computed", "ended_at": 1.0, "told": "5 x"},
        {"state": "completed", "jobs": json.dumps([[4, True], [5, False]]), "ended_at": 2.0},
        {"state": "asked", "jobs": "[[7, true]]", "told": "50 is being computed"},
    )
    with database.write() as connection:
        for number, more in enumerate(rows):
            connection.execute(work_items.insert(), row | {"workitem_uid": f"1.2.{number}"} | more)
    found = node_status(config, TurnedClock())
    name = [pseudonym(f"1.2.{number}") for number in range(3)]
    assert status_lines(found)[-4:] == [
        "work items of list: 1 asked, 1 canceled, 1 completed",
        f"work item {name[2]} of list: asked, rule lungs, job 7: 50 %, is being computed",
        f"work item {name[1]} of list: completed, rule lungs, job 4, 5",
        f"work item {name[0]} of list: canceled, rule lungs: there is no series to be computed",
    ]


def _stopped(database: Database) -> dict[str, bool]:
    with database.read() as connection:
        return {row.name: row.stopped for row in connection.execute(nodes.select())}
