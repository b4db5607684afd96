"""What the page and the API see of a node, and what a person may do there."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Generic, TypeVar

from medseg.database import Database
from medseg.errors import StorageError
from medseg.node import view_queries as queries
from medseg.node.audit_tail import Refusal, refused_lately
from medseg.node.clock import Clock
from medseg.node.disk_space import SpaceState
from medseg.node.instance_header import number_digest
from medseg.node.vault import Vault
from medseg.node.view_rows import DeliveryRow, JobRow, NodeRow, ResultRow, StudyRow, WorkItemRow
from medseg.node.view_search import Search

RowT = TypeVar("RowT")

JOB_ACTIONS: dict[str, frozenset[str]] = {
    "release": frozenset({"held"}),
    "hold": frozenset({"done"}),
    "retry": frozenset({"failed", "given_up", "cancelled"}),
    "repeat": frozenset({"done", "held", "failed", "given_up", "cancelled", "superseded"}),
    "cancel": frozenset({"queued", "running", "held"}),
}
"""What a person may do with a job, and the states in which it makes sense."""


def job_actions(job: JobRow) -> list[str]:
    """What a person may do with this job; what was sent cannot be held any more."""
    return [
        name for name, states in JOB_ACTIONS.items() if job.state in states and (name != "hold" or job.unsent)
    ]


DELIVERY_ACTIONS: dict[str, frozenset[str]] = {
    "retry": frozenset({"waiting", "failed", "cancelled"}),
    "cancel": frozenset({"waiting", "failed"}),
}
"""The same of a delivery."""

MOST_ROWS = 200
DEEPEST = 100_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """Which rows of a long list: bounded, so that no request asks for everything."""

    limit: int = 50
    offset: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "limit", min(max(self.limit, 1), MOST_ROWS))
        object.__setattr__(self, "offset", min(max(self.offset, 0), DEEPEST))


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows(Generic[RowT]):
    """Some rows of a list, and whether there are more behind them."""

    rows: tuple[RowT, ...]
    span: Span
    more: bool
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class JobFilter:
    """Which jobs; "" means any, commas part several. `text` is what `Search` takes."""

    state: str = ""
    rule: str = ""
    verdict: str = ""
    text: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyFilter:
    """Which studies; as `JobFilter`."""

    state: str = ""
    text: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeliveryFilter:
    """Which deliveries; as `JobFilter`."""

    destination: str = ""
    state: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Live:
    """What the running process knows and no table does.

    Parameters
    ----------
    started_at : float
        Seconds since 1970.
    associations : int
        Open ones of the DICOM listener.
    association_ends : mapping of str to int
        How associations ended, since the start.
    verdicts : mapping of str to int
        Instances by verdict, since the start.
    job_outcomes : mapping of str to int
        Tries of jobs by outcome, since the start.
    worker_bytes : int
        Memory of the worker processes.
    space : SpaceState or None
        Room on the disk; None where it cannot be asked.
    listeners : mapping of str to str
        What listens where, for people.
    certificates : mapping of str to float
        When the certificates of settings expire, seconds since 1970.
    problems : tuple of str
        Why the node is not ready; empty where it is.
    """

    started_at: float
    associations: int = 0
    association_ends: Mapping[str, int] = field(default_factory=dict)
    verdicts: Mapping[str, int] = field(default_factory=dict)
    job_outcomes: Mapping[str, int] = field(default_factory=dict)
    worker_bytes: int = 0
    space: SpaceState | None = None
    listeners: Mapping[str, str] = field(default_factory=dict)
    certificates: Mapping[str, float] = field(default_factory=dict)
    problems: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Actions:
    """What a person may have done; each answers whether it did anything. Names as in `JOB_ACTIONS`."""

    jobs: Mapping[str, Callable[[int], object]] = field(default_factory=dict)
    deliveries: Mapping[str, Callable[[int], object]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Overview:
    """Numbers at a glance: jobs, studies and work items by state, deliveries by destination and state.

    `queue_age_s` is how long the oldest job waits that is due, 0 where none does.
    """

    jobs: Mapping[str, int]
    studies: Mapping[str, int]
    work_items: Mapping[str, int]
    deliveries: Mapping[str, Mapping[str, int]]
    queue_age_s: float
    stored_instances: int
    stored_bytes: int


class NodeView:
    """Reads the tables for people and machines.

    Parameters
    ----------
    database : Database
    vault : Vault
    clock : Clock
    name : str
        Of the node, shown to people.
    rules : tuple of str
        Names of the rules, for the filter.
    destinations : tuple of str
    audit_folder : Path
        Where the audit log is.
    live : callable
        See `Live`.
    actions : Actions
    worklists : tuple of str
        Names of the sources that are work lists.
    number_key : bytes
        Key of the digests that accession and patient numbers are searched by.
    """

    def __init__(
        self,
        database: Database,
        vault: Vault,
        clock: Clock,
        *,
        name: str,
        rules: tuple[str, ...],
        destinations: tuple[str, ...],
        audit_folder: Path,
        live: Callable[[], Live],
        actions: Actions,
        number_key: bytes,
        worklists: tuple[str, ...] = (),
    ) -> None:
        self.name, self.rules, self.destinations, self.clock = name, rules, destinations, clock
        self.live, self.actions = live, actions
        self._database, self._vault, self._audit_folder = database, vault, audit_folder
        self._number_key, self.worklists = number_key, worklists

    def ping(self) -> None:
        """Ask the database for nothing.

        Raises
        ------
        StorageError
            It does not answer; so all methods that read it.
        """
        with self._database.read() as connection:
            queries.ping(connection)

    def overview(self) -> Overview:
        """Numbers at a glance."""
        with self._database.read() as connection:
            deliveries: dict[str, dict[str, int]] = {name: {} for name in self.destinations}
            for name, state, count in queries.delivery_counts(connection):
                deliveries.setdefault(name, {})[state] = count
            count, size = queries.stored(connection)
            return Overview(
                jobs=queries.job_counts(connection),
                studies=queries.study_counts(connection),
                deliveries=deliveries,
                work_items=queries.work_item_counts(connection),
                queue_age_s=queries.queue_age(connection, self.clock.now()),
                stored_instances=count,
                stored_bytes=size,
            )

    def jobs(self, wanted: JobFilter, span: Span, *, identify: bool = False) -> Rows[JobRow]:
        """Jobs, the newest first.

        With `identify` the text may also be an accession or patient number, or the UID of a study, a series or an
        instance.
        """
        with self._database.read() as connection:
            condition, note = queries.job_condition(
                connection,
                state=wanted.state,
                rule=wanted.rule,
                verdict=wanted.verdict,
                search=self._search(wanted.text, identify),
            )
            found = queries.jobs_of(connection, condition, limit=span.limit + 1, offset=span.offset)
        return _cut(found, span, note)

    def job(self, job_id: int) -> JobRow | None:
        """One job."""
        with self._database.read() as connection:
            found = queries.jobs_of(connection, queries.is_job(job_id), limit=1, offset=0)
        return found[0] if found else None

    def results_of(self, job_id: int) -> tuple[ResultRow, ...]:
        """Files of a job."""
        with self._database.read() as connection:
            return queries.results_of(connection, job_id)

    def result(self, result_id: int) -> ResultRow | None:
        """One file."""
        with self._database.read() as connection:
            return queries.result(connection, result_id)

    def content(self, result: ResultRow) -> bytes:
        """The bytes of a result.

        Raises
        ------
        StorageError
            It is not there, or was changed.
        """
        content = self._vault.read(result.path)
        if len(content) != result.size:
            raise StorageError(f"a result has {len(content)} bytes instead of {result.size}")
        return content

    def _search(self, text: str, identify: bool) -> Search:
        text = text.strip()
        return Search(text=text, digest=number_digest(text, self._number_key), identify=identify)

    def studies(self, wanted: StudyFilter, span: Span, *, identify: bool = False) -> Rows[StudyRow]:
        """Studies, the one that grew last first; `identify` as for jobs."""
        search = self._search(wanted.text, identify)
        with self._database.read() as connection:
            condition, note = queries.study_condition(connection, state=wanted.state, search=search)
            found = queries.studies_of(connection, condition, limit=span.limit + 1, offset=span.offset)
        return _cut(found, span, note)

    def deliveries(
        self, wanted: DeliveryFilter, span: Span, *, job_id: int | None = None
    ) -> Rows[DeliveryRow]:
        """Deliveries, the newest first."""
        condition = queries.delivery_condition(
            destination=wanted.destination, state=wanted.state, job_id=job_id
        )
        with self._database.read() as connection:
            found = queries.deliveries_of(connection, condition, limit=span.limit + 1, offset=span.offset)
        return _cut(found, span)

    def next_tries(self) -> Mapping[str, float]:
        """When the next delivery to each destination is due, where one waits; seconds since 1970."""
        with self._database.read() as connection:
            return queries.next_tries(connection)

    def nodes(self) -> tuple[NodeRow, ...]:
        """The last starts of all nodes of this database."""
        with self._database.read() as connection:
            return queries.last_nodes(connection)

    def work_items(self, limit: int = 50) -> tuple[WorkItemRow, ...]:
        """Claimed work items, those that are not at their end first."""
        with self._database.read() as connection:
            return queries.work_items_of(connection, limit=limit)

    def refused_lately(self, limit: int = 50) -> tuple[Refusal, ...]:
        """Who was turned away, the last first."""
        return refused_lately(self._audit_folder, limit)


def _cut(found: tuple[RowT, ...], span: Span, note: str = "") -> Rows[RowT]:
    return Rows(rows=found[: span.limit], span=span, more=len(found) > span.limit, note=note)
