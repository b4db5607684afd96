"""What a node is doing, read from its database by another process; nothing is changed."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from medseg.amounts import bytes_text, time_text
from medseg.database import Database
from medseg.errors import ConfigError, StorageError
from medseg.node import view_queries as queries
from medseg.node.clock import Clock
from medseg.node.node_lock import holder_of
from medseg.node.options import NodeConfig, PostgresqlOptions
from medseg.node.tables import metadata
from medseg.node.view_rows import NodeRow, WorkItemRow
from medseg.pacs.secret import read_secret

_WATCHED_S, _LOOK_S = 5.0, 0.25
"""How long a beat of a node is waited for, which comes each second, and the time between two looks."""
_MOST_ITEMS = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class SeenNode:
    """A node that has not said that it stopped, and whether it beat while it was watched."""

    name: str
    node_id: str
    process: int
    started_at: float
    lives: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeStatus:
    """State of a node.

    Parameters
    ----------
    running : bool
        Whether a process serves; of several nodes, any.
    holder : str
        Process and since when; "" where none runs, or where `nodes` say it.
    nodes : tuple of SeenNode
        Those that share a database on a server.
    instances, size : int
        What is kept, bytes.
    jobs, studies : mapping of str to int
        By state.
    deliveries : mapping
        By destination and state.
    work_items : mapping
        By work list and state.
    last_work_items : tuple of WorkItemRow
        Some of them, those that are not at their end first.
    queue_age_s : float
        How long the oldest job waits that is due.
    """

    running: bool
    holder: str
    nodes: tuple[SeenNode, ...]
    instances: int
    size: int
    jobs: Mapping[str, int]
    studies: Mapping[str, int]
    deliveries: Mapping[str, Mapping[str, int]]
    work_items: Mapping[str, Mapping[str, int]]
    last_work_items: tuple[WorkItemRow, ...]
    queue_age_s: float


def node_status(config: NodeConfig, clock: Clock) -> NodeStatus:
    """Look at a node from outside.

    Raises
    ------
    StorageError
        There is no node yet, or its database cannot be read.
    """
    shared = isinstance(config.database, PostgresqlOptions)
    if isinstance(config.database, PostgresqlOptions):
        database = Database(read_secret(config.database.url, field="database.url"), metadata, make=False)
        running, holder = False, ""
    else:
        path = config.folder / "node.db"
        if not path.is_file():
            raise StorageError(f"no node was ever started in {config.folder}: {path.name} is not there")
        database = Database(f"sqlite:///{path.absolute()}", metadata, make=False)
        running, holder = holder_of(config.folder)
    try:
        if not database.has("nodes"):
            raise StorageError("no node was ever started with this database: it has no table `nodes`")
        nodes = _seen_nodes(database) if shared else ()
        with database.read() as connection:
            count, size = queries.stored(connection)
            return NodeStatus(
                running=running or any(node.lives for node in nodes),
                holder=holder,
                nodes=nodes,
                instances=count,
                size=size,
                jobs=queries.job_counts(connection),
                studies=queries.study_counts(connection),
                deliveries=_by_name(queries.delivery_counts(connection)),
                work_items=_by_name(queries.work_item_counts_by_list(connection)),
                last_work_items=queries.work_items_of(connection, limit=_MOST_ITEMS),
                queue_age_s=queries.queue_age(connection, clock.now()),
            )
    finally:
        database.close()


def status_lines(found: NodeStatus) -> list[str]:
    """A status in words."""
    running = ", ".join(text for text in ("running", found.holder) if text)
    lines = [
        running if found.running else "not running",
        *(_node_line(node) for node in found.nodes),
        f"instances {found.instances}, {bytes_text(found.size)}",
        f"studies {_counts(found.studies)}",
        f"jobs {_counts(found.jobs)}",
    ]
    if found.queue_age_s:
        lines.append(f"the oldest job waits for {time_text(found.queue_age_s)}")
    lines += [f"deliveries to {name}: {_counts(by)}" for name, by in found.deliveries.items()]
    lines += [f"work items of {name}: {_counts(by)}" for name, by in found.work_items.items()]
    return lines + [_work_item_line(row) for row in found.last_work_items]


def _node_line(node: SeenNode) -> str:
    state = "running" if node.lives else f"no sign of life for {_WATCHED_S:.0f} s"
    since = datetime.fromtimestamp(node.started_at, UTC).isoformat(timespec="seconds")
    return f"node {node.name!r} ({node.node_id}): {state}, process {node.process} since {since}"


def _work_item_line(row: WorkItemRow) -> str:
    jobs = ", ".join(map(str, row.jobs))
    told = row.reason or ("" if row.ended_at else row.told)
    line = f"work item {row.item} of {row.source}: {row.state.replace('_', ' ')}, rule {row.rule}"
    return line + (f", job {jobs}" if jobs else "") + (f": {told}" if told else "")


def _by_name(counts: Iterable[tuple[str, str, int]]) -> dict[str, dict[str, int]]:
    found: dict[str, dict[str, int]] = {}
    for name, state, number in counts:
        found.setdefault(name, {})[state] = number
    return found


def _seen_nodes(database: Database) -> tuple[SeenNode, ...]:
    """The nodes that have not stopped, watched until each has beaten or the time for it is over."""
    first = {row.node_id: row for row in _rows(database)}
    quiet, end = set(first), time.monotonic() + _WATCHED_S
    while quiet and time.monotonic() < end:
        time.sleep(_LOOK_S)
        rows = _rows(database)
        quiet &= {row.node_id for row in rows if row.beat == first[row.node_id].beat}
    return tuple(
        SeenNode(
            name=row.name,
            node_id=row.node_id,
            process=row.process,
            started_at=row.started_at,
            lives=row.node_id not in quiet,
        )
        for row in first.values()
    )


def _rows(database: Database) -> list[NodeRow]:
    with database.read() as connection:
        return [row for row in queries.last_nodes(connection) if not row.stopped]


def _counts(by_state: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {state.replace('_', ' ')}" for state, count in by_state.items()) or "none"


def read_config(path: Path) -> NodeConfig:
    """The settings of a node.

    Raises
    ------
    ConfigError
        All problems of the file, with line and column.
    """
    from medseg.config.yaml_model import load_yaml_model

    if not path.is_file():
        raise ConfigError(f"no file {path}; `medseg serve` takes the YAML of a node")
    config = load_yaml_model(path, NodeConfig).config
    return config
