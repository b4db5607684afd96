"""Rows of received instances. Many share one commit, for a commit waits for the disk."""

from __future__ import annotations

import queue
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass

from sqlalchemy import BindParameter, Connection, bindparam, select, update

from medseg.database import Database
from medseg.node.instance_header import InstanceFacts
from medseg.node.tables import instances, results, series, studies
from medseg.node.vault import Vault

_MOST = 200
# Built once: SQLAlchemy takes longer to build a statement than SQLite to run it.
_UID: BindParameter[str] = bindparam("uid")
_KNOWN = select(instances.c.sha256).where(instances.c.sop_instance_uid == _UID)
_RESULT = select(results.c.id).where(results.c.sop_instance_uid == _UID)
_INSTANCE = instances.insert()


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
    known: Future[str | None]


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

    def known(self, sop_instance_uid: str) -> tuple[str | None, bool]:
        """SHA-256 of the stored instance with that UID, None where there is none; and whether a job made one."""
        given = {"uid": sop_instance_uid}
        with self._database.read() as connection:
            digest = connection.execute(_KNOWN, given).scalar()
            return digest, connection.execute(_RESULT, given).first() is not None

    def add(self, row: InstanceRow) -> str | None:
        """Write a row and wait for the disk.

        Returns
        -------
        str or None
            None where it is new now; else the SHA-256 of the instance that was there before.

        Raises
        ------
        StorageError
            It could not be written.
        """
        waiting = _Waiting(row, Future())
        self._queue.put(waiting)
        return waiting.known.result()

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

    def _write(self, batch: Sequence[_Waiting]) -> None:
        try:
            self._vault.sync_folders(waiting.row.path for waiting in batch)
            with self._database.write() as connection:
                known = [_add(self._counted, connection, waiting.row) for waiting in batch]
        except Exception as err:
            if len(batch) == 1:
                batch[0].known.set_exception(err)
            # A row that the database does not take must not take its neighbours with it.
            for waiting in batch if len(batch) > 1 else ():
                self._write([waiting])
            return
        for waiting, digest in zip(batch, known, strict=True):
            waiting.known.set_result(digest)


class _Counted:
    """The statements that count an instance in its study, which is open from now on, and in its series."""

    def __init__(self, database: Database) -> None:
        names: tuple[str, ...] = ("study_uid", "patient", "first_at", "last_at")
        new = database.insert(studies).values(
            {name: bindparam(name) for name in names} | {"state": "receiving", "arrivals": 1}
        )
        seen = {"arrivals": studies.c.arrivals + 1, "last_at": new.excluded.last_at, "state": "receiving"}
        self.study = new.on_conflict_do_update(index_elements=["study_uid"], set_=seen).returning(
            studies.c.patient
        )
        names = ("series_uid", "study_uid", "modality", "body_part", "description", "protocol", "number")
        new = database.insert(series).values(
            {name: bindparam(name) for name in (*names, "called_by")} | {"instances": 1}
        )
        seen = {"instances": series.c.instances + 1}
        self.series = new.on_conflict_do_update(index_elements=["series_uid"], set_=seen).returning(
            series.c.study_uid
        )


def _add(counted: _Counted, connection: Connection, row: InstanceRow) -> str | None:
    facts = row.facts
    before = connection.execute(_KNOWN, {"uid": facts.sop_instance_uid}).scalar()
    if before is not None:
        return str(before)
    given = {
        "study_uid": facts.study_uid,
        "patient": facts.patient,
        "first_at": row.received_at,
        "last_at": row.received_at,
    }
    patient = connection.execute(counted.study, given).scalar_one()
    _count_series(counted, connection, row, mixed=patient != facts.patient)
    connection.execute(
        _INSTANCE,
        {
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
        },
    )
    return None


def _count_series(counted: _Counted, connection: Connection, row: InstanceRow, *, mixed: bool) -> None:
    facts = row.facts
    given = {
        "series_uid": facts.series_uid,
        "study_uid": facts.study_uid,
        "modality": facts.modality,
        "body_part": facts.body_part,
        "description": facts.description,
        "protocol": facts.protocol,
        "number": facts.number,
        "called_by": row.peer,
    }
    study = connection.execute(counted.series, given).scalar_one()
    note = "instances of two patients in one study" if mixed else ""
    if study != facts.study_uid:
        note = "instances of two studies under one Series Instance UID"
    if note:
        connection.execute(update(series).where(series.c.series_uid == facts.series_uid).values(mixed=note))
