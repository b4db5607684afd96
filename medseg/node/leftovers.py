"""Files that no row names, as a kill leaves them, or a database that was set back to a backup."""

from __future__ import annotations

import dataclasses
import logging
import threading
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from sqlalchemy import bindparam, delete, select, union_all

from medseg.database import Database
from medseg.errors import StorageError
from medseg.node.arrival import ACKNOWLEDGED, Verdict
from medseg.node.audit import Audit
from medseg.node.intake import Intake
from medseg.node.tables import instances, removals, results
from medseg.node.vault import KEPT, Vault, is_older

_log = logging.getLogger(__name__)
_THREADS = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Settled:
    """What became of the files of instances without a row.

    Parameters
    ----------
    taken_back : int
        Those that have a row again.
    set_aside : int
        Those that are not whole, or have other content than what is stored.
    removed : int
        Second copies.
    """

    taken_back: int = 0
    set_aside: int = 0
    removed: int = 0


class Leftovers:
    """Finds files without a row and settles them; no instance that was acknowledged is removed.

    Parameters
    ----------
    database : Database
    vault : Vault
    intake : Intake
        It is started.
    audit : Audit
    """

    def __init__(self, *, database: Database, vault: Vault, intake: Intake, audit: Audit) -> None:
        self._database, self._vault, self._intake, self._audit = database, vault, intake, audit
        self._images: list[str] = []
        self._older_than_s = 0.0
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def look(self, older_than_s: float = 0.0) -> tuple[int, int]:
        """Find files of instances, and remove all others; how many each. Called at the start, before anybody sends.

        Parameters
        ----------
        older_than_s : float, optional
            Nodes that share a folder may be writing now: what is not whole and younger than this stays.

        Raises
        ------
        StorageError
            The database cannot be used.
        """
        self._older_than_s = older_than_s
        finish_removals(self._database, self._vault)
        found = self._without_row()
        self._images = [path for path in found if path.startswith("instances/")]
        # What a job had written before its end; it is done again.
        old = [path for path in found if path.startswith("jobs/") and self._is_old(path)]
        for path in old:
            self._vault.remove(path)
        return len(self._images), len(old) + self._vault.sweep(older_than_s)

    def start(self) -> None:
        """Settle what was found, beside the other work: after a restore that may be many."""
        if self._images:
            self._thread = threading.Thread(target=self._work, name="leftovers", daemon=True)
            self._thread.start()

    def stop(self) -> None:
        """Leave the rest to the next start."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()

    def settle(self) -> Settled:
        """Take back, set aside or remove what was found.

        Raises
        ------
        StorageError
            The database cannot be used; the rest stays.
        """
        with ThreadPoolExecutor(_THREADS, thread_name_prefix="leftovers") as pool:
            verdicts = Counter(pool.map(self._settle, self._images))
        return Settled(
            taken_back=verdicts["stored"],
            set_aside=sum(
                count for verdict, count in verdicts.items() if verdict not in (*ACKNOWLEDGED, None)
            ),
            removed=verdicts["duplicate"],
        )

    def _work(self) -> None:
        try:
            done = self.settle()
        except StorageError as err:
            _log.error("instances without a row wait for the next start: %s", err)
            return
        self._audit.record("leftovers", **dataclasses.asdict(done))
        _log.warning(
            "instances without a row: taken back %d, set aside %d, removed %d",
            done.taken_back,
            done.set_aside,
            done.removed,
        )

    def _settle(self, path: str) -> Verdict | None:
        """What the intake says of a file; None where it stays, for now."""
        if self._stop.is_set():
            return None
        try:
            verdict = self._intake.take_back(path)
        except StorageError:
            raise
        except Exception as err:
            # One file must not keep the others from their rows; the text may hold identifiers.
            _log.error("a file of an instance cannot be taken back: unexpected %s", type(err).__name__)
            verdict = "unreadable"
        if verdict in ACKNOWLEDGED:
            return verdict
        if not self._is_old(path):
            return None
        self._vault.set_aside(path)
        return verdict

    def _is_old(self, path: str) -> bool:
        return is_older(self._vault.place(path), self._older_than_s)

    def _without_row(self) -> list[str]:
        # Looked for before the rows: what another node adds meanwhile has one.
        found = [
            path.relative_to(self._vault.folder).as_posix()
            for top in KEPT
            for path in (self._vault.folder / top).rglob("*")
            if path.is_file()
        ]
        # In one statement: a purge by another node moves a path from one table to another.
        rows = union_all(*(select(table.c.path) for table in (instances, results, removals)))
        with self._database.read() as connection:
            known = set(connection.execute(rows).scalars())
        return [path for path in found if path not in known]


def finish_removals(database: Database, vault: Vault, paths: Sequence[str] | None = None) -> None:
    """Remove files whose rows are gone, and forget them when their names are gone from the disk for certain.

    Parameters
    ----------
    database : Database
    vault : Vault
    paths : sequence of str or None, optional
        None: all that a kill, or a disk that failed, has left.

    Raises
    ------
    StorageError
        The database or the disk fails; they are removed later.
    """
    if paths is None:
        with database.read() as connection:
            paths = connection.execute(select(removals.c.path)).scalars().all()
    for path in paths:
        vault.remove(path)
    vault.sync_removed(paths)
    gone = [{"gone": path} for path in paths if not vault.place(path).exists()]
    if gone:
        with database.write() as connection:
            connection.execute(delete(removals).where(removals.c.path == bindparam("gone")), gone)
