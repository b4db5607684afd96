"""The instances that a job is about, by one digest for who queues it and who runs it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from sqlalchemy import Connection, select

from medseg.node.tables import instances


@dataclass(frozen=True, slots=True, kw_only=True)
class JobInput:
    """Instances of a series at one moment.

    Parameters
    ----------
    digest : str
        SHA-256 of their UIDs and of the digests of their content.
    paths : tuple of str
        In the vault, in the order in which they came.
    sop_instance_uids : frozenset of str
    """

    digest: str
    paths: tuple[str, ...]
    sop_instance_uids: frozenset[str]


def job_input(connection: Connection, series_uid: str) -> JobInput:
    """What a series holds now."""
    query = (
        select(instances.c.sop_instance_uid, instances.c.sha256, instances.c.path)
        .where(instances.c.series_uid == series_uid)
        .order_by(instances.c.id)
    )
    rows = connection.execute(query).all()
    lines = sorted(f"{row.sop_instance_uid} {row.sha256}" for row in rows)
    return JobInput(
        digest=hashlib.sha256("\n".join(lines).encode()).hexdigest(),
        paths=tuple(row.path for row in rows),
        sop_instance_uids=frozenset(row.sop_instance_uid for row in rows),
    )
