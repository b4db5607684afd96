"""Which nodes live: each lets a number grow, and others watch by their own clocks whether it does."""

from __future__ import annotations

import os
import secrets

from sqlalchemy import select, update

from medseg.database import Database
from medseg.node.clock import Clock
from medseg.node.tables import nodes

DEAD_AFTER_S = 15.0


class Life:
    """This node's row, and what it has seen of the others'.

    Parameters
    ----------
    database : Database
    clock : Clock
    name : str
        For people.
    """

    def __init__(self, database: Database, clock: Clock, name: str) -> None:
        self._database, self._clock, self._name = database, clock, name
        self.node_id = secrets.token_hex(8)
        self._seen: dict[str, tuple[int, float]] = {}
        self._beaten = clock.monotonic()
        self._silent: list[str] = []

    def begin(self) -> None:
        """Write the row of this start."""
        row = {
            "node_id": self.node_id,
            "name": self._name,
            "process": os.getpid(),
            "started_at": self._clock.now(),
            "beat": 0,
            "stopped": False,
        }
        with self._database.write() as connection:
            connection.execute(nodes.insert(), row)

    def beat(self) -> None:
        """Show that this node lives, also to those that took it for dead while it was frozen."""
        self._set(beat=nodes.c.beat + 1, stopped=False)
        self._beaten = self._clock.monotonic()

    def problem(self) -> str:
        """Why others may take this node for dead; "" where they do not."""
        silent = self._clock.monotonic() - self._beaten >= DEAD_AFTER_S
        return "the database has not been written for a while" if silent else ""

    def end(self) -> None:
        """Say that it lives no more."""
        self._set(stopped=True)

    def dead(self) -> list[str]:
        """Other nodes that have stopped, or have not beaten for a while by the clock of this one."""
        now, gone = self._clock.monotonic(), []
        query = select(nodes.c.node_id, nodes.c.beat, nodes.c.stopped).where(nodes.c.node_id != self.node_id)
        with self._database.read() as connection:
            rows = connection.execute(query).all()
        self._silent = []
        for node_id, beat, stopped in rows:
            before, since = self._seen.get(node_id, (-1, now))
            if before != beat:
                since = now
            self._seen[node_id] = (beat, since)
            late = now - since >= DEAD_AFTER_S
            if stopped or late:
                gone.append(node_id)
            if late and not stopped:
                self._silent.append(node_id)
        return gone

    def bury_silent(self) -> None:
        """Mark those as stopped that `dead` found silent, so that nobody is told that they run."""
        if self._silent:
            with self._database.write() as connection:
                silent = nodes.c.node_id.in_(self._silent)
                connection.execute(update(nodes).where(silent).values(stopped=True))

    def bury_all_others(self) -> list[str]:
        """Mark all others as stopped, where a lock proves that none of them lives; their identifiers."""
        others = nodes.c.node_id != self.node_id
        with self._database.write() as connection:
            found = [str(row) for row in connection.execute(select(nodes.c.node_id).where(others)).scalars()]
            connection.execute(update(nodes).where(others).values(stopped=True))
        return found

    def _set(self, **values: object) -> None:
        with self._database.write() as connection:
            connection.execute(update(nodes).where(nodes.c.node_id == self.node_id).values(values))
