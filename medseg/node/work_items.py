"""Claimed work items in the database: what a node performs, how far it is, and what it has promised."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, RowMapping, and_, select, update

from medseg.database import Database
from medseg.node.clock import Clock
from medseg.node.tables import work_items
from medseg.pacs.workitem import WorkRequest

_BATCH = 500
OPEN_STATES = ("claiming", "claimed", "asked", "finishing")


@dataclass(frozen=True, slots=True, kw_only=True)
class AskedJob:
    """A job that a work item waits for, and whether it was queued for the item."""

    id: int
    own: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkItem:
    """A row of `tables.work_items` that is not at its end."""

    id: int
    workitem_uid: str
    transaction_uid: str
    state: str
    rule: str
    request: WorkRequest
    jobs: tuple[AskedJob, ...]
    tries: int
    told: str
    outcome: dict[str, Any]
    started_at: float | None


class WorkItems:
    """The work items of one node.

    Parameters
    ----------
    database : Database
    clock : Clock
    node_id : str
        Of this start of the node.
    """

    def __init__(self, database: Database, clock: Clock, node_id: str) -> None:
        self._database, self._clock, self._node_id = database, clock, node_id

    def add(
        self, source: str, workitem_uid: str, *, rule: str, request: WorkRequest, transaction_uid: str
    ) -> WorkItem | None:
        """Write down that an item is going to be claimed; None where some node has done so before."""
        row = {
            "source": source,
            "workitem_uid": workitem_uid,
            "transaction_uid": transaction_uid,
            "state": "claiming",
            "owner": self._node_id,
            "rule": rule,
            "request": json.dumps(request.to_json()),
            "created_at": self._clock.now(),
        }
        new = self._database.insert(work_items).values(row).on_conflict_do_nothing()
        with self._database.write() as connection:
            found = connection.execute(new.returning(*work_items.c)).mappings().first()
        return None if found is None else _item(found)

    def known(self, source: str, workitem_uids: Sequence[str]) -> set[str]:
        """Those of some items that were claimed before, by whichever node."""
        query, found = select(work_items.c.workitem_uid).where(work_items.c.source == source), set()
        with self._database.read() as connection:
            for start in range(0, len(workitem_uids), _BATCH):
                some = work_items.c.workitem_uid.in_(workitem_uids[start : start + _BATCH])
                found |= set(connection.execute(query.where(some)).scalars())
        return found

    def open(self, source: str) -> list[WorkItem]:
        """This node's items of a work list that are not at their end, the oldest first."""
        query = select(work_items).where(self._open(), work_items.c.source == source)
        with self._database.read() as connection:
            return [_item(row) for row in connection.execute(query.order_by(work_items.c.id)).mappings()]

    def set(self, item: WorkItem, **values: Any) -> WorkItem | None:
        """Change an open item of this node; None where it is no more."""
        with self._database.write() as connection:
            return self.set_within(connection, item, **values)

    def set_within(self, connection: Connection, item: WorkItem, **values: Any) -> WorkItem | None:
        """`set` in the caller's transaction."""
        columns = dict(values)
        if "request" in values:
            columns["request"] = json.dumps(values["request"].to_json())
        if "jobs" in values:
            columns["jobs"] = json.dumps([[job.id, job.own] for job in values["jobs"]])
        if "outcome" in values:
            columns["outcome"] = json.dumps(values["outcome"])
        changed = update(work_items).where(self._open(), work_items.c.id == item.id).values(columns)
        row = connection.execute(changed.returning(*work_items.c)).mappings().first()
        return None if row is None else _item(row)

    def end(self, item: WorkItem, state: str, reason: str = "") -> None:
        """An item is at its end: completed, canceled or let go."""
        self.set(item, state=state, reason=reason, ended_at=self._clock.now())

    def others_wait_for(self, item: WorkItem, job_id: int) -> bool:
        """Whether another open item, of whichever node, waits for a job."""
        others = and_(work_items.c.state.in_(OPEN_STATES), work_items.c.id != item.id)
        with self._database.read() as connection:
            lists = connection.execute(select(work_items.c.jobs).where(others)).scalars()
            return any(job_id == job for text in lists for job, _ in json.loads(text))

    def take_over(self, dead: Sequence[str]) -> int:
        """Go on with what dead nodes performed; the number of items."""
        if not dead:
            return 0
        theirs = and_(work_items.c.state.in_(OPEN_STATES), work_items.c.owner.in_(list(dead)))
        with self._database.write() as connection:
            taken = update(work_items).where(theirs).values(owner=self._node_id)
            return int(connection.execute(taken).rowcount)

    def _open(self) -> Any:
        return and_(work_items.c.owner == self._node_id, work_items.c.state.in_(OPEN_STATES))


def _item(row: RowMapping) -> WorkItem:
    return WorkItem(
        **{
            name: row[name]
            for name in (
                "id",
                "workitem_uid",
                "transaction_uid",
                "state",
                "rule",
                "tries",
                "told",
                "started_at",
            )
        },
        request=WorkRequest.of_json(json.loads(row["request"])),
        jobs=tuple(AskedJob(id=job, own=own) for job, own in json.loads(row["jobs"])),
        outcome=json.loads(row["outcome"] or "{}"),
    )
