"""Files that no row names, as a kill leaves them, or a database that was set back to a backup."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from sqlalchemy import bindparam, delete, select, union_all

from medseg.database import Database
from medseg.node.arrival import ACKNOWLEDGED, Verdict
from medseg.node.intake import Intake
from medseg.node.tables import instances, removals, results
from medseg.node.vault import KEPT, Vault, is_older

_log = logging.getLogger(__name__)
_THREADS = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Settled:
    """What became of the files without a row.

    Parameters
    ----------
    taken_back : int
        Instances that have a row again.
    set_aside : int
        Files of instances that are not whole, or have other content than what is stored.
    removed : int
        Half-written files, results, and second copies of instances.
    """

    taken_back: int = 0
    set_aside: int = 0
    removed: int = 0


class Leftovers:
    """Finds and settles files without a row; no instance that was acknowledged is removed.

    Parameters
    ----------
    database : Database
    vault : Vault
    intake : Intake
        It is started.
    """

    def __init__(self, *, database: Database, vault: Vault, intake: Intake) -> None:
        self._database, self._vault, self._intake = database, vault, intake

    def settle(self, older_than_s: float = 0.0) -> Settled:
        """Once at the start, before anybody sends.

        Parameters
        ----------
        older_than_s : float, optional
            Nodes that share a folder may be writing now: what is not whole and younger than this stays.

        Raises
        ------
        StorageError
            The database cannot be used.
        """
        finish_removals(self._database, self._vault)
        found = self._without_row()
        images = [path for path in found if path.startswith("instances/")]
        if images:
            _log.warning(
                "%d files of instances are in no row of the database; they are looked at", len(images)
            )
        with ThreadPoolExecutor(_THREADS, thread_name_prefix="leftovers") as pool:
            verdicts = Counter(pool.map(lambda path: self._settle(path, older_than_s), images))
        # What a job had written before its end; it is done again.
        old = [path for path in found if path not in images and self._is_older(path, older_than_s)]
        for path in old:
            self._vault.remove(path)
        return Settled(
            taken_back=verdicts["stored"],
            set_aside=sum(
                count for verdict, count in verdicts.items() if verdict not in (*ACKNOWLEDGED, None)
            ),
            removed=verdicts["duplicate"] + len(old) + self._vault.sweep(older_than_s),
        )

    def _settle(self, path: str, older_than_s: float) -> Verdict | None:
        """What the intake says of a file; None where it stays because somebody may be writing it."""
        verdict = self._intake.take_back(path)
        if verdict in ACKNOWLEDGED:
            return verdict
        if not self._is_older(path, older_than_s):
            return None
        self._vault.set_aside(path)
        return verdict

    def _is_older(self, path: str, seconds: float) -> bool:
        return is_older(self._vault.place(path), seconds)

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
