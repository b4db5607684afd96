"""The database of a node: what was committed is there, and no state is misspelt."""

from __future__ import annotations

import sys
import threading
from pathlib import Path

import pytest
from sqlalchemy import insert, select, text, update

from medseg.database import Database
from medseg.errors import ConfigError, MissingPackageError, StorageError
from medseg.node.tables import deliveries, metadata, studies, work_items

STUDY = {"study_uid": "1.2", "state": "receiving", "arrivals": 0, "first_at": 0.0, "last_at": 0.0}


@pytest.fixture
def database(tmp_path: Path):
    opened = Database.in_file(tmp_path / "node.db", metadata)
    yield opened
    opened.close()


def test_a_commit_is_synced_and_a_failed_block_leaves_nothing(database: Database):
    with database.read() as connection:
        assert connection.execute(text("PRAGMA synchronous")).scalar() == 2
        assert connection.execute(text("PRAGMA journal_mode")).scalar() == "wal"

    def fail() -> None:
        with database.write() as connection:
            connection.execute(insert(studies).values(STUDY))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    with database.read() as connection:
        assert connection.execute(select(studies)).all() == []


def test_writers_of_many_threads_take_turns(database: Database):
    with database.write() as connection:
        connection.execute(insert(studies).values(STUDY))

    def count() -> None:
        for _ in range(10):
            with database.write() as connection:
                seen = connection.execute(select(studies.c.arrivals)).scalar_one()
                connection.execute(update(studies).values(arrivals=seen + 1))

    threads = [threading.Thread(target=count) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with database.read() as connection:
        assert connection.execute(select(studies.c.arrivals)).scalar_one() == 80


def test_an_unknown_state_is_refused(database: Database):
    with pytest.raises(StorageError, match="CHECK"), database.write() as connection:
        connection.execute(insert(studies).values(STUDY | {"state": "recieving"}))


def test_an_instance_goes_to_a_destination_once(database: Database):
    row = {
        "destination": "archive",
        "sop_class_uid": "1.2",
        "sop_instance_uid": "1.2.3",
        "path": "jobs/1/segmentation.dcm",
        "state": "waiting",
        "created_at": 0.0,
    }
    again = database.insert(deliveries).values(row).on_conflict_do_nothing()
    for _ in range(2):
        with database.write() as connection:
            connection.execute(again)
    with database.read() as connection:
        assert len(connection.execute(select(deliveries)).all()) == 1


def test_a_database_from_before_work_lists_gets_their_table(tmp_path: Path):
    first = Database.in_file(tmp_path / "node.db", metadata)
    with first.write() as connection:
        connection.execute(insert(studies).values(STUDY))
        work_items.drop(connection)
    first.close()
    second = Database.in_file(tmp_path / "node.db", metadata)
    with second.read() as connection:
        assert connection.execute(select(work_items)).all() == []
        assert len(connection.execute(select(studies)).all()) == 1
    second.close()


@pytest.mark.parametrize("url", ["mysql://a/b", "nonsense", "sqlite://"])
def test_other_databases_are_refused(url: str):
    with pytest.raises(ConfigError, match="expected a URL sqlite:///PATH"):
        Database(url, metadata)


def test_a_damaged_file_is_named_and_a_password_is_not(tmp_path: Path):
    (tmp_path / "node.db").write_bytes(b"no database at all" * 100)
    with pytest.raises(StorageError, match=r"node\.db: file is not a database"):
        Database.in_file(tmp_path / "node.db", metadata)
    pytest.importorskip("psycopg", reason="needs medseg[postgresql]")
    with pytest.raises(StorageError) as refused:
        Database("postgresql://me:hidden@127.0.0.1:1/nowhere", metadata)
    assert "hidden" not in str(refused.value)


def test_a_driver_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(MissingPackageError, match=r"pip install 'medseg\[postgresql\]'"):
        Database("postgresql://me@127.0.0.1:1/nowhere", metadata)
