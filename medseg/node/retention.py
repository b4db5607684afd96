"""What is kept for how long: received instances, results, and the rows about them."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, Select, and_, delete, exists, func, or_, select

from medseg.database import Database
from medseg.errors import StorageError
from medseg.node.audit import Audit
from medseg.node.clock import Clock
from medseg.node.leftovers import finish_removals
from medseg.node.options import StorageOptions
from medseg.node.tables import deliveries, instances, jobs, removals, results, series, studies, work_items
from medseg.node.vault import Vault

_log = logging.getLogger(__name__)
_BATCH = 500
_LIVE_JOBS = ("queued", "running", "held")
_LIVE_DELIVERIES = ("waiting", "sending")


@dataclass(frozen=True, slots=True, kw_only=True)
class Removed:
    """How much was removed."""

    studies: int = 0
    jobs: int = 0


class Retention:
    """Removes what is old, never what a job, a person or a delivery still needs.

    Parameters
    ----------
    options : StorageOptions
    database : Database
    vault : Vault
    audit : Audit
    clock : Clock
    """

    def __init__(
        self, options: StorageOptions, *, database: Database, vault: Vault, audit: Audit, clock: Clock
    ) -> None:
        self._options, self._database, self._vault = options, database, vault
        self._audit, self._clock = audit, clock

    def run(self) -> Removed:
        """Remove what is older than `keep_instances` and `keep_results`."""
        now = self._clock.earliest()
        finish_removals(self._database, self._vault)
        aside = self._vault.remove_aside(now - self._options.keep_instances)
        old_results = self._ids(_old_jobs(now - self._options.keep_results))
        old_studies = self._ids(_old_studies(now - self._options.keep_instances))
        for job_id in old_results:
            self._remove_job(int(str(job_id)), _old_jobs(now - self._options.keep_results))
        for study_uid in old_studies:
            self.purge_instances(str(study_uid), _old_studies(now - self._options.keep_instances))
        self._forget_work_items(now - self._options.keep_results)
        if old_results or old_studies or aside:
            self._audit.record("retention", studies=len(old_studies), jobs=len(old_results), set_aside=aside)
        return Removed(studies=len(old_studies), jobs=len(old_results))

    def purge_instances(self, study_uid: str, still: Select[tuple[object]] | None = None) -> int:
        """Remove the received instances of a study, rows first; their number.

        With `still` only if the study is among these at this very moment: a slice may have come meanwhile.
        """
        mine = instances.c.study_uid == study_uid
        with self._database.write() as connection:
            if (
                still is not None
                and connection.execute(still.where(studies.c.study_uid == study_uid)).first() is None
            ):
                return 0
            paths = connection.execute(select(instances.c.path).where(mine)).scalars().all()
            connection.execute(delete(instances).where(mine))
            connection.execute(delete(series).where(series.c.study_uid == study_uid))
            connection.execute(delete(studies).where(studies.c.study_uid == study_uid))
            self._note_removals(connection, paths)
        self._remove(paths)
        return len(paths)

    def _remove_job(self, job_id: int, still: Select[tuple[object]]) -> None:
        with self._database.write() as connection:
            if connection.execute(still.where(jobs.c.id == job_id)).first() is None:
                return
            paths = (
                connection.execute(select(results.c.path).where(results.c.job_id == job_id)).scalars().all()
            )
            connection.execute(delete(results).where(results.c.job_id == job_id))
            connection.execute(delete(deliveries).where(deliveries.c.job_id == job_id))
            connection.execute(delete(jobs).where(jobs.c.id == job_id))
            self._note_removals(connection, paths)
        self._remove(paths)

    def _forget_work_items(self, before: float) -> None:
        with self._database.write() as connection:
            connection.execute(delete(work_items).where(work_items.c.ended_at < before))

    def _note_removals(self, connection: Connection, paths: Sequence[str]) -> None:
        """Let nobody take back what has no row any more because it was purged."""
        if paths:
            noted = self._database.insert(removals).on_conflict_do_nothing()
            connection.execute(noted, [{"path": path} for path in paths])

    def _remove(self, paths: Sequence[str]) -> None:
        # The rows are gone: what cannot be removed now is removed later.
        with contextlib.suppress(StorageError):
            finish_removals(self._database, self._vault, paths)

    def _ids(self, query: Select[tuple[object]]) -> list[object]:
        with self._database.read() as connection:
            return list(connection.execute(query.limit(_BATCH)).scalars())


def _old_jobs(before: float) -> Select[tuple[object]]:
    waiting = exists().where(deliveries.c.job_id == jobs.c.id, deliveries.c.state.in_(_LIVE_DELIVERIES))
    over = jobs.c.state.not_in(_LIVE_JOBS)
    return select(jobs.c.id).where(over, func.coalesce(jobs.c.ended_at, jobs.c.created_at) < before, ~waiting)


def _old_studies(before: float) -> Select[tuple[object]]:
    """Settled studies none of whose jobs lives or has ended since."""
    busy = exists().where(
        jobs.c.study_uid == studies.c.study_uid,
        or_(jobs.c.state.in_(_LIVE_JOBS), func.coalesce(jobs.c.ended_at, jobs.c.created_at) >= before),
    )
    return select(studies.c.study_uid).where(
        and_(studies.c.state == "settled", studies.c.last_at < before, ~busy)
    )
