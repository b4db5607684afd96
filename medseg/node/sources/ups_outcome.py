"""How far the jobs of a work item are, and where their results went."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from sqlalchemy import Connection, RowMapping, select

from medseg.database import Database
from medseg.node.scheduler import read_header
from medseg.node.tables import deliveries, jobs, results
from medseg.node.vault import Vault
from medseg.pacs.options import Destination, DimseDestination
from medseg.pacs.workitem import DiscontinuationReason, Output

_MOST_SUPERSEDED = 1000

Standing = Literal["gone", "working", "done", "failed"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """Where the jobs of an item stand together.

    Parameters
    ----------
    standing : Standing
        gone: a job was removed with its results, and is to be asked for again.
    percent : int
    text : str
        For the server of the work list; one sentence without identifiers.
    reason : DiscontinuationReason
        Where it failed.
    """

    standing: Standing
    percent: int = 0
    text: str = ""
    reason: DiscontinuationReason = "unspecified"


_WORKING = {
    "queued": (20, "waits for a worker"),
    "running": (50, "is being computed"),
    "held": (80, "waits for a person to release the result"),
}
_FAILED: dict[str, DiscontinuationReason] = {
    "failed": "unspecified",
    "given_up": "equipment_failure",
    "cancelled": "unspecified",
}


class UpsOutcome:
    """Looks at jobs, results and deliveries.

    Parameters
    ----------
    database : Database
    vault : Vault
    destinations : mapping of str to Destination
        Archives by name.
    ae_title : str
        Of the node; where results stay that go nowhere.
    """

    def __init__(
        self, database: Database, vault: Vault, destinations: Mapping[str, Destination], ae_title: str
    ) -> None:
        self._database, self._vault = database, vault
        self._destinations, self._ae_title = destinations, ae_title

    def progress(self, job_ids: Sequence[int]) -> Progress:
        """Where jobs stand; the least advanced of them counts."""
        with self._database.read() as connection:
            rows = [_latest(connection, job_id) for job_id in job_ids]
            sent = [] if None in rows else self._deliveries(connection, [row["id"] for row in rows if row])
        if not rows or None in rows:
            return Progress(standing="gone")
        found = [row for row in rows if row is not None]
        for row in found:
            if row["state"] in _FAILED:
                return Progress(standing="failed", text=row["reason"], reason=_FAILED[row["state"]])
        working = [_WORKING[row["state"]] for row in found if row["state"] in _WORKING]
        if working:
            percent, text = min(working)
            return Progress(standing="working", percent=percent, text=text)
        return self._sending(sent)

    def outputs(self, job_ids: Sequence[int]) -> tuple[Output, ...]:
        """Results that went somewhere, by series; those of rules without a destination where the node keeps them.

        Raises
        ------
        StorageError, ImageReadError
            A result cannot be read.
        """
        with self._database.read() as connection:
            rows = [row for job_id in job_ids if (row := _latest(connection, job_id)) is not None]
            sent = self._deliveries(connection, [row["id"] for row in rows])
            files = _objects(connection, [row["id"] for row in rows])
        places: dict[str, set[str]] = defaultdict(set)
        for row in sent:
            places[row["sop_instance_uid"]].add(row["destination"])
        kept = files if not sent else [file for file in files if file["sop_instance_uid"] in places]
        series: dict[tuple[str, str, frozenset[str]], dict[str, str]] = defaultdict(dict)
        for file in kept:
            header = read_header(self._vault, file["path"])
            uid = file["sop_instance_uid"]
            key = (header.uid("StudyInstanceUID"), header.uid("SeriesInstanceUID"), frozenset(places[uid]))
            series[key][uid] = file["sop_class_uid"]
        return tuple(
            self._output(*key, found) for key, found in sorted(series.items(), key=lambda one: one[0][:2])
        )

    def _output(self, study: str, series: str, names: Collection[str], found: Mapping[str, str]) -> Output:
        titles, urls = [], []
        for name in sorted(names):
            options = self._destinations[name]
            if isinstance(options, DimseDestination):
                titles.append(options.called_ae_title)
            else:
                urls.append(f"{options.url.rstrip('/')}/studies/{study}/series/{series}")
        return Output(
            study_uid=study,
            series_uid=series,
            instances=tuple((sop_class, uid) for uid, sop_class in sorted(found.items())),
            ae_titles=tuple(titles if names else [self._ae_title]),
            urls=tuple(urls),
        )

    def _sending(self, rows: Sequence[RowMapping]) -> Progress:
        """Where the deliveries stand, when all jobs are done."""
        lost = [row for row in rows if row["state"] in ("failed", "cancelled")]
        if lost:
            text = f"{len(lost)} of {len(rows)} deliveries of the results failed: {lost[0]['reason']}"
            return Progress(standing="failed", text=text, reason="equipment_failure")
        left = [row for row in rows if not self._arrived(row)]
        if left:
            text = f"results are being sent: {len(rows) - len(left)} of {len(rows)}"
            return Progress(standing="working", percent=90, text=text)
        return Progress(standing="done", percent=100)

    def _arrived(self, row: RowMapping) -> bool:
        promised = self._destinations[row["destination"]].commitment == "ask"
        return row["state"] == "committed" or (row["state"] == "sent" and not promised)

    def _deliveries(self, connection: Connection, job_ids: Sequence[int]) -> list[RowMapping]:
        """Deliveries of the results of jobs; an earlier job may have written them, as a UID follows from content."""
        uids = [row["sop_instance_uid"] for row in _objects(connection, job_ids)]
        query = select(deliveries).where(
            deliveries.c.sop_instance_uid.in_(uids), deliveries.c.destination.in_(list(self._destinations))
        )
        return list(connection.execute(query.order_by(deliveries.c.id)).mappings())


def _latest(connection: Connection, job_id: int) -> RowMapping | None:
    """A job, or the one that has taken its place; None where there is none, or none yet."""
    columns = (jobs.c.id, jobs.c.state, jobs.c.reason, jobs.c.superseded_by)
    for _ in range(_MOST_SUPERSEDED):
        row = connection.execute(select(*columns).where(jobs.c.id == job_id)).mappings().first()
        if row is None or row["state"] != "superseded":
            return row
        if row["superseded_by"] is None:
            return None
        job_id = row["superseded_by"]
    return None


def _objects(connection: Connection, job_ids: Sequence[int]) -> list[RowMapping]:
    """DICOM objects among the results of jobs."""
    columns = (results.c.sop_class_uid, results.c.sop_instance_uid, results.c.path)
    mine = select(*columns).where(results.c.job_id.in_(list(job_ids)), results.c.sop_instance_uid != "")
    return list(connection.execute(mine.order_by(results.c.id)).mappings())
