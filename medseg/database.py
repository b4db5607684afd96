"""One way to a database, SQLite or PostgreSQL: what was committed survives a power loss, and writers take turns."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, MetaData, Select, create_engine, event, func, inspect, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import ArgumentError, DatabaseError, OperationalError

from medseg.errors import ConfigError, MissingPackageError, StorageError

_BUSY_S = 60.0
_TABLES_LOCK = 0x6D656473


class Database:
    """A database of a few tables, for any number of threads.

    Parameters
    ----------
    url : str
        `sqlite:///PATH`, or `postgresql://USER:PASSWORD@HOST/NAME`.
    metadata : MetaData
        Its tables; they are made where they are missing.
    make : bool, optional
        False for who only reads: no table is made.

    Raises
    ------
    ConfigError
        The URL is none, or of another kind of database.
    MissingPackageError
        PostgreSQL is asked for and its driver is not installed.
    StorageError
        It cannot be opened: unreachable, damaged, read-only, no space. Never tells the password.
    """

    def __init__(self, url: str, metadata: MetaData, *, make: bool = True) -> None:
        self.engine = _engine(url)
        self.metadata = metadata
        if not make:
            return
        with self._errors("open"), self.engine.begin() as connection:
            if not self.is_sqlite:
                # CREATE TABLE IF NOT EXISTS fails where two do it at once.
                connection.execute(select(func.pg_advisory_xact_lock(_TABLES_LOCK)))
            metadata.create_all(connection)

    @classmethod
    def in_file(cls, path: Path, metadata: MetaData) -> Database:
        """An SQLite database."""
        path.parent.mkdir(parents=True, exist_ok=True)
        return cls(f"sqlite:///{path}", metadata)

    @property
    def is_sqlite(self) -> bool:
        """Whether one process at a time writes."""
        return self.engine.dialect.name == "sqlite"

    @contextlib.contextmanager
    def write(self) -> Iterator[Connection]:
        """A transaction that is committed, and synced to disk, when the block ends well.

        Raises
        ------
        StorageError
            The database is out of reach or the disk is full; nothing of the block has happened.
        """
        with self._errors("write to"), self.engine.begin() as connection:
            yield connection

    @contextlib.contextmanager
    def read(self) -> Iterator[Connection]:
        """A consistent view; what is changed in it is lost.

        Raises
        ------
        StorageError
            As `write`.
        """
        reading = self.engine.execution_options(reads_only=True)
        with self._errors("read"), reading.connect() as connection:
            yield connection

    def insert(self, table: Any) -> Any:
        """An INSERT of this kind of database, which has `on_conflict_do_nothing` and `_do_update`."""
        return sqlite.insert(table) if self.is_sqlite else postgresql.insert(table)

    def locked(self, query: Select[Any]) -> Select[Any]:
        """Rows that this transaction alone gets of several nodes; SQLite has one writer anyway."""
        return query if self.is_sqlite else query.with_for_update(skip_locked=True)

    def has(self, table: str) -> bool:
        """Whether there is a table.

        Raises
        ------
        StorageError
            The database does not answer.
        """
        with self._errors("read"):
            return inspect(self.engine).has_table(table)

    def close(self) -> None:
        """Close all connections."""
        self.engine.dispose()

    @contextlib.contextmanager
    def _errors(self, what: str) -> Iterator[None]:
        try:
            yield
        except (OperationalError, DatabaseError) as err:
            place = self.engine.url.render_as_string(hide_password=True)
            cause = str(err.orig).strip().splitlines()[0] if err.orig else "it does not answer"
            raise StorageError(f"cannot {what} the database {place}: {cause}") from err


def _engine(url: str) -> Engine:
    # psycopg 3; what SQLAlchemy takes by itself is psycopg 2.
    url = url.replace("postgresql://", "postgresql+psycopg://", 1)
    try:
        if url.startswith("postgresql+psycopg://"):
            return create_engine(url, pool_size=20, max_overflow=20, pool_pre_ping=True)
        if not url.startswith("sqlite:///"):
            raise ConfigError("database: expected a URL sqlite:///PATH or postgresql://USER@HOST/NAME")
        engine = create_engine(url, connect_args={"timeout": _BUSY_S}, pool_size=20, max_overflow=20)
    except ModuleNotFoundError as err:
        raise MissingPackageError("PostgreSQL needs psycopg; pip install 'medseg[postgresql]'") from err
    except ArgumentError as err:
        raise ConfigError("database: expected a URL sqlite:///PATH or postgresql://USER@HOST/NAME") from err
    event.listen(engine, "connect", _settle_sqlite)
    event.listen(engine, "begin", _begin_sqlite)
    return engine


def _settle_sqlite(connection: Any, _record: Any) -> None:
    # With the driver's own transactions a SELECT takes no lock, and two writers may both read first.
    connection.isolation_level = None
    # In WAL mode only FULL keeps the last commits through a power loss.
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
        connection.execute(f"PRAGMA {pragma}")


def _begin_sqlite(connection: Connection) -> None:
    connection.exec_driver_sql("BEGIN IMMEDIATE" if not _reads_only(connection) else "BEGIN")


def _reads_only(connection: Connection) -> bool:
    return bool(connection.get_execution_options().get("reads_only"))
