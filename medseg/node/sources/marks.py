"""How far a source was taken, kept over restarts."""

from __future__ import annotations

import hashlib

from sqlalchemy import and_, select

from medseg.database import Database
from medseg.node.clock import Clock
from medseg.node.tables import source_marks


class Marks:
    """The marks of one source.

    Parameters
    ----------
    database : Database
    clock : Clock
    source : str
        Its name.
    """

    def __init__(self, database: Database, clock: Clock, source: str) -> None:
        self._database, self._clock, self._source = database, clock, source

    def get(self, key: str) -> str | None:
        """The value of a mark, None where there is none."""
        mine = and_(source_marks.c.source == self._source, source_marks.c.key == _digest(key))
        with self._database.read() as connection:
            found = connection.execute(select(source_marks.c.value).where(mine)).scalar()
        return None if found is None else str(found)

    def set(self, key: str, value: str) -> None:
        """Set a mark; it is on disk when this returns."""
        row = {"source": self._source, "key": _digest(key), "value": value, "at": self._clock.now()}
        new = self._database.insert(source_marks).values(row)
        changed = new.on_conflict_do_update(
            index_elements=["source", "key"], set_={"value": value, "at": row["at"]}
        )
        with self._database.write() as connection:
            connection.execute(changed)


def _digest(key: str) -> str:
    """Keys hold names of files and UIDs; the table does not."""
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()
