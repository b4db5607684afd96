"""The questions that `view` asks the tables; each takes a connection of a consistent read."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, and_, func, select, true

from medseg.node.tables import (
    conflicts,
    deliveries,
    instances,
    jobs,
    nodes,
    results,
    series,
    studies,
    work_items,
)
from medseg.node.view_rows import (
    DeliveryRow,
    JobRow,
    NodeRow,
    ResultRow,
    StudyRow,
    WorkItemRow,
    delivery_row,
    job_row,
    study_row,
    work_item_row,
)
from medseg.node.view_search import Condition, Search
from medseg.pacs.outbox_table import UNSENT_STATES

_BIGGEST_ID = 2**63 - 1


def ping(connection: Connection) -> None:
    """Whether the tables are there."""
    connection.execute(select(studies.c.study_uid).limit(1)).first()


def job_counts(connection: Connection) -> dict[str, int]:
    """Jobs by state."""
    return _counts(connection, select(jobs.c.state, func.count()).group_by(jobs.c.state))


def study_counts(connection: Connection) -> dict[str, int]:
    """Studies by state."""
    return _counts(connection, select(studies.c.state, func.count()).group_by(studies.c.state))


def work_item_counts(connection: Connection) -> dict[str, int]:
    """Work items of all work lists by state."""
    return _counts(connection, select(work_items.c.state, func.count()).group_by(work_items.c.state))


def work_item_counts_by_list(connection: Connection) -> list[tuple[str, str, int]]:
    """Work list, state, number."""
    return _pair_counts(connection, work_items.c.source, work_items.c.state)


def delivery_counts(connection: Connection) -> list[tuple[str, str, int]]:
    """Destination, state, number."""
    return _pair_counts(connection, deliveries.c.destination, deliveries.c.state)


def queue_age(connection: Connection, now: float) -> float:
    """Seconds that the oldest job has waited that is due."""
    due = and_(jobs.c.state == "queued", jobs.c.not_before <= now)
    first = connection.execute(select(func.min(jobs.c.created_at)).where(due)).scalar()
    return 0.0 if first is None else max(0.0, now - float(first))


def stored(connection: Connection) -> tuple[int, int]:
    """Number and bytes of received instances."""
    query = select(func.count(), func.coalesce(func.sum(instances.c.size), 0))
    count, size = connection.execute(query).one()
    return int(count), int(size)


def is_job(job_id: int) -> Condition:
    """One job by its number."""
    return jobs.c.id == min(job_id, _BIGGEST_ID)


def job_condition(
    connection: Connection, *, state: str, rule: str, verdict: str, search: Search
) -> tuple[Condition, str]:
    """What a filter of jobs means, and a sentence where it cannot be honoured; several states stand with commas."""
    chosen = [
        column.in_(value.split(","))
        for column, value in ((jobs.c.state, state), (jobs.c.rule, rule), (jobs.c.verdict, verdict))
        if value
    ]
    found, note = search.jobs(connection) if search.text else (true(), "")
    return and_(found, *chosen), note


def jobs_of(connection: Connection, condition: Condition, *, limit: int, offset: int) -> tuple[JobRow, ...]:
    """Jobs with what is known of their series, the newest first."""
    joined = jobs.outerjoin(series, jobs.c.series_uid == series.c.series_uid).outerjoin(
        studies, jobs.c.study_uid == studies.c.study_uid
    )
    again = select(func.count()).where(conflicts.c.series_uid == jobs.c.series_uid)
    columns = (
        jobs,
        series.c.modality,
        series.c.body_part,
        series.c.description,
        studies.c.patient,
        again.scalar_subquery().label("conflicts"),
    )
    query = select(*columns).select_from(joined).where(condition).order_by(jobs.c.id.desc())
    rows = connection.execute(query.limit(limit).offset(offset)).mappings().all()
    unsent = _unsent(connection, [row["id"] for row in rows])
    return tuple(job_row({**row, "unsent": unsent.get(row["id"], 0)}) for row in rows)


def _unsent(connection: Connection, job_ids: list[int]) -> dict[int, int]:
    """Number of the deliveries of each job that a person may still stop."""
    mine = and_(deliveries.c.job_id.in_(job_ids), deliveries.c.state.in_(UNSENT_STATES))
    query = select(deliveries.c.job_id, func.count()).where(mine).group_by(deliveries.c.job_id)
    return {int(job_id): int(count) for job_id, count in connection.execute(query)}


def results_of(connection: Connection, job_id: int) -> tuple[ResultRow, ...]:
    """Files of a job."""
    return _results(connection, results.c.job_id == min(job_id, _BIGGEST_ID))


def result(connection: Connection, result_id: int) -> ResultRow | None:
    """One file."""
    found = _results(connection, results.c.id == min(result_id, _BIGGEST_ID))
    return found[0] if found else None


def _results(connection: Connection, condition: Condition) -> tuple[ResultRow, ...]:
    columns = [results.c[name] for name in ResultRow.__slots__]
    rows = connection.execute(select(*columns).where(condition).order_by(results.c.id)).mappings()
    return tuple(ResultRow(**row) for row in rows)


def study_condition(connection: Connection, *, state: str, search: Search) -> tuple[Condition, str]:
    """What a filter of studies means, and a sentence where it cannot be honoured."""
    chosen = [studies.c.state == state] if state else []
    found, note = search.studies(connection) if search.text else (true(), "")
    return and_(found, *chosen), note


def studies_of(
    connection: Connection, condition: Condition, *, limit: int, offset: int
) -> tuple[StudyRow, ...]:
    """Studies with their counts, the one that grew last first."""
    of_study = series.c.study_uid == studies.c.study_uid
    count = select(func.count()).select_from(series).where(of_study).scalar_subquery()
    total = select(func.sum(series.c.instances)).where(of_study).scalar_subquery()
    runs = select(func.count()).select_from(jobs).where(jobs.c.study_uid == studies.c.study_uid)
    query = select(
        studies,
        count.label("series"),
        total.label("instances"),
        runs.scalar_subquery().label("jobs"),
    ).where(condition)
    last = query.order_by(studies.c.last_at.desc(), studies.c.study_uid).limit(limit).offset(offset)
    return tuple(study_row(dict(row)) for row in connection.execute(last).mappings())


def delivery_condition(*, destination: str, state: str, job_id: int | None) -> Condition:
    """What a filter of deliveries means."""
    chosen: list[Any] = [
        column.in_(value.split(","))
        for column, value in ((deliveries.c.destination, destination), (deliveries.c.state, state))
        if value
    ]
    if job_id is not None:
        chosen.append(deliveries.c.job_id == min(job_id, _BIGGEST_ID))
    return and_(true(), *chosen)


def deliveries_of(
    connection: Connection, condition: Condition, *, limit: int, offset: int
) -> tuple[DeliveryRow, ...]:
    """Deliveries with the kind of their result, the newest first."""
    kind = (
        select(results.c.kind)
        .where(results.c.job_id == deliveries.c.job_id, results.c.path == deliveries.c.path)
        .limit(1)
        .scalar_subquery()
        .label("kind")
    )
    query = select(deliveries, kind).where(condition).order_by(deliveries.c.id.desc())
    rows = connection.execute(query.limit(limit).offset(offset)).mappings()
    return tuple(delivery_row(dict(row)) for row in rows)


def next_tries(connection: Connection) -> dict[str, float]:
    """When the next delivery to each destination is due."""
    waiting = select(deliveries.c.destination, func.min(deliveries.c.not_before)).where(
        deliveries.c.state == "waiting"
    )
    rows = connection.execute(waiting.group_by(deliveries.c.destination))
    return {str(name): float(due) for name, due in rows}


def work_items_of(connection: Connection, *, limit: int) -> tuple[WorkItemRow, ...]:
    """Work items, those that are not at their end first, of both the newest first."""
    last = select(work_items).order_by(work_items.c.ended_at.is_not(None), work_items.c.id.desc())
    rows = connection.execute(last.limit(limit)).mappings()
    return tuple(work_item_row(dict(row)) for row in rows)


def last_nodes(connection: Connection) -> tuple[NodeRow, ...]:
    """The last starts, the newest first."""
    columns = [nodes.c[name] for name in NodeRow.__slots__]
    rows = connection.execute(select(*columns).order_by(nodes.c.started_at.desc()).limit(20)).mappings()
    return tuple(NodeRow(**row) for row in rows)


def _pair_counts(connection: Connection, name: Any, state: Any) -> list[tuple[str, str, int]]:
    query = select(name, state, func.count()).group_by(name, state).order_by(name, state)
    return [(str(one), str(two), int(count)) for one, two, count in connection.execute(query)]


def _counts(connection: Connection, query: Any) -> dict[str, int]:
    return {str(state): int(count) for state, count in connection.execute(query)}
