"""Rows of received instances. Many share one commit, for a commit waits for the disk."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

from sqlalchemy import BindParameter, Connection, Select, bindparam, select, update
from sqlalchemy.exc import IntegrityError

from medseg.database import Database
from medseg.node.instance_header import InstanceFacts
from medseg.node.tables import conflicts, instances, results, series, studies, study_numbers
from medseg.node.vault import Vault

_MOST = 200
# Built once: SQLAlchemy takes longer to build a statement than SQLite to run it.
_UIDS: BindParameter[str] = bindparam("uids", expanding=True)
_KNOWN = select(instances.c.sop_instance_uid, instances.c.sha256, instances.c.path).where(
    instances.c.sop_instance_uid.in_(_UIDS)
)
_RESULT = select(results.c.sop_instance_uid).where(results.c.sop_instance_uid.in_(_UIDS))
_PATIENT = select(studies.c.study_uid, studies.c.patient).where(studies.c.study_uid.in_(_UIDS))
_STUDY = select(series.c.series_uid, series.c.study_uid).where(series.c.series_uid.in_(_UIDS))
_INSTANCE = instances.insert()


@dataclass(frozen=True, slots=True)
class Known:
    """What is stored already under a SOP Instance UID.

    Parameters
    ----------
    sha256 : str
        Of its data set as it came in; "" for a result.
    path : str
        Of its file; "" for a result.
    is_result : bool
        Whether a job of this node made it.
    """

    sha256: str
    path: str = ""
    is_result: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class InstanceRow:
    """One row of `tables.instances` that is to be; its file is written."""

    facts: InstanceFacts
    path: str
    size: int
    sha256: str
    received_at: float
    route: str
    peer: str


@dataclass(frozen=True, slots=True)
class _Waiting:
    row: InstanceRow
    known: Future[Known | None]


class RowWriter:
    """Writes rows for any number of threads, in one thread of its own."""

    def __init__(self, database: Database, vault: Vault) -> None:
        self._database, self._vault = database, vault
        self._counted = _Counted(database)
        self._queue: queue.SimpleQueue[_Waiting | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Start the thread."""
        self._thread = threading.Thread(target=self._work, name="instance-rows", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Write what waits, then end the thread."""
        if self._thread is not None:
            self._queue.put(None)
            self._thread.join()
            self._thread = None

    def known(self, sop_instance_uid: str) -> Known | None:
        """What is stored under that UID."""
        with self._database.read() as connection:
            return _known(connection, [sop_instance_uid]).get(sop_instance_uid)

    def add(self, row: InstanceRow) -> Known | None:
        """Write a row and wait for the disk.

        Returns
        -------
        Known or None
            None where it is new now; else what was there before, and no row is written.

        Raises
        ------
        StorageError
            It could not be written.
        """
        waiting = _Waiting(row, Future())
        self._queue.put(waiting)
        return waiting.known.result()

    def move(self, sop_instance_uid: str, before: str, now: str) -> None:
        """Let a row name another file with the same bytes.

        Raises
        ------
        StorageError
            It could not be written.
        """
        self._vault.sync_folders([now])
        mine = (instances.c.sop_instance_uid == sop_instance_uid) & (instances.c.path == before)
        with self._database.write() as connection:
            connection.execute(update(instances).where(mine).values(path=now))

    def _work(self) -> None:
        while (first := self._queue.get()) is not None:
            batch, ended = [first], False
            while len(batch) < _MOST and not self._queue.empty():
                more = self._queue.get()
                if more is None:
                    ended = True
                    break
                batch.append(more)
            self._write(batch)
            if ended:
                return

    def _write(self, batch: Sequence[_Waiting], *, again: bool = True) -> None:
        try:
            self._vault.sync_folders(waiting.row.path for waiting in batch)
            with self._database.write() as connection:
                known = _add(self._counted, connection, [waiting.row for waiting in batch])
        except Exception as err:
            if len(batch) == 1 and again and isinstance(err.__cause__, IntegrityError):
                # Another node wrote the same instance at the same moment; now it is known.
                self._write(batch, again=False)
            elif len(batch) == 1:
                batch[0].known.set_exception(err)
            # A row that the database does not take must not take its neighbours with it.
            for waiting in batch if len(batch) > 1 else ():
                self._write([waiting])
            return
        for waiting, before in zip(batch, known, strict=True):
            waiting.known.set_result(before)


class _Counted:
    """The statements that count instances in their study, which is open from now on, and in their series.

    Others note the numbers of a study, and instances that came again with other content.
    """

    def __init__(self, database: Database) -> None:
        names: tuple[str, ...] = ("study_uid", "patient", "first_at", "last_at", "arrivals")
        new = database.insert(studies).values(
            {name: bindparam(name) for name in names} | {"state": "receiving"}
        )
        seen = {
            "arrivals": studies.c.arrivals + new.excluded.arrivals,
            "last_at": new.excluded.last_at,
            "state": "receiving",
        }
        self.study = new.on_conflict_do_update(index_elements=["study_uid"], set_=seen)
        names = ("series_uid", "study_uid", "modality", "body_part", "description", "protocol", "number")
        new = database.insert(series).values(
            {name: bindparam(name) for name in (*names, "called_by", "instances")}
        )
        seen = {"instances": series.c.instances + new.excluded.instances}
        self.series = new.on_conflict_do_update(index_elements=["series_uid"], set_=seen)
        new = database.insert(study_numbers).values(
            {name: bindparam(name) for name in ("study_uid", "digest")}
        )
        self.number = new.on_conflict_do_nothing()
        kept = select(instances.c.sop_instance_uid, instances.c.series_uid)
        kept = kept.where(instances.c.sop_instance_uid == bindparam("uid"))
        new = database.insert(conflicts).from_select(["sop_instance_uid", "series_uid"], kept)
        self.conflict = new.on_conflict_do_nothing()


def _known(connection: Connection, uids: Sequence[str]) -> dict[str, Known]:
    found = {uid: Known(sha256, path) for uid, sha256, path in connection.execute(_KNOWN, {"uids": uids})}
    return found | {
        uid: Known("", is_result=True) for uid in connection.execute(_RESULT, {"uids": uids}).scalars()
    }


def _add(counted: _Counted, connection: Connection, rows: Sequence[InstanceRow]) -> list[Known | None]:
    """Write the rows that are new; what was known of each before."""
    known = _known(connection, [row.facts.sop_instance_uid for row in rows])
    new: list[InstanceRow] = []
    before: list[Known | None] = []
    for row in rows:
        uid = row.facts.sop_instance_uid
        before.append(known.get(uid))
        if uid not in known:
            # The same instance may come by two associations at a time.
            known[uid] = Known(row.sha256, row.path)
            new.append(row)
    if new:
        _count_studies(counted, connection, new)
        _note_numbers(counted, connection, new)
        _count_series(counted, connection, new)
        connection.execute(_INSTANCE, [_instance(row) for row in new])
        _note_mixed(connection, new)
    _note_conflicts(counted, connection, rows, before)
    return before


def _count_studies(counted: _Counted, connection: Connection, rows: Sequence[InstanceRow]) -> None:
    given: dict[str, dict[str, Any]] = {}
    for row in rows:
        uid, at = row.facts.study_uid, row.received_at
        study = given.setdefault(
            uid, {"study_uid": uid, "patient": row.facts.patient, "first_at": at, "arrivals": 0}
        )
        study["arrivals"] += 1
        study["last_at"] = at
    # In one order, for two nodes that lock the same studies.
    connection.execute(counted.study, [given[uid] for uid in sorted(given)])


def _note_numbers(counted: _Counted, connection: Connection, rows: Sequence[InstanceRow]) -> None:
    pairs = {(row.facts.study_uid, digest) for row in rows for digest in row.facts.searched_by}
    if pairs:
        connection.execute(
            counted.number, [{"study_uid": uid, "digest": digest} for uid, digest in sorted(pairs)]
        )


def _count_series(counted: _Counted, connection: Connection, rows: Sequence[InstanceRow]) -> None:
    given: dict[str, dict[str, Any]] = {}
    for row in rows:
        facts = row.facts
        one = given.setdefault(
            facts.series_uid,
            {
                "series_uid": facts.series_uid,
                "study_uid": facts.study_uid,
                "modality": facts.modality,
                "body_part": facts.body_part,
                "description": facts.description,
                "protocol": facts.protocol,
                "number": facts.number,
                "called_by": row.peer,
                "instances": 0,
            },
        )
        one["instances"] += 1
    connection.execute(counted.series, [given[uid] for uid in sorted(given)])


def _instance(row: InstanceRow) -> dict[str, Any]:
    facts = row.facts
    return {
        "sop_instance_uid": facts.sop_instance_uid,
        "sop_class_uid": facts.sop_class_uid,
        "series_uid": facts.series_uid,
        "study_uid": facts.study_uid,
        "patient": facts.patient,
        "transfer_syntax_uid": facts.transfer_syntax_uid,
        "path": row.path,
        "size": row.size,
        "sha256": row.sha256,
        "received_at": row.received_at,
        "route": row.route,
        "peer": row.peer,
    }


def _note_mixed(connection: Connection, rows: Sequence[InstanceRow]) -> None:
    """Note series whose instances are of two patients or studies; looked up now that their rows are locked."""
    patients = _pairs(connection, _PATIENT, {row.facts.study_uid for row in rows})
    homes = _pairs(connection, _STUDY, {row.facts.series_uid for row in rows})
    notes: dict[str, str] = {}
    for row in rows:
        facts = row.facts
        if patients[facts.study_uid] != facts.patient:
            notes.setdefault(facts.series_uid, "instances of two patients in one study")
        if homes[facts.series_uid] != facts.study_uid:
            notes[facts.series_uid] = "instances of two studies under one Series Instance UID"
    for uid, note in notes.items():
        connection.execute(update(series).where(series.c.series_uid == uid).values(mixed=note))


def _note_conflicts(
    counted: _Counted, connection: Connection, rows: Sequence[InstanceRow], before: Sequence[Known | None]
) -> None:
    """Note the series whose instances came again with other content, so that their jobs say so."""
    other = {
        row.facts.sop_instance_uid
        for row, known in zip(rows, before, strict=True)
        if known is not None and not known.is_result and known.sha256 != row.sha256
    }
    if other:
        connection.execute(counted.conflict, [{"uid": uid} for uid in sorted(other)])


def _pairs(connection: Connection, query: Select[Any], uids: Iterable[str]) -> dict[str, str]:
    return {row[0]: row[1] for row in connection.execute(query, {"uids": sorted(uids)})}
