"""What a node is doing, read from its database by another process; nothing is changed."""

from __future__ import annotations

import fcntl
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medseg.amounts import bytes_text, time_text
from medseg.database import Database
from medseg.errors import ConfigError, StorageError
from medseg.node import view_queries as queries
from medseg.node.clock import Clock
from medseg.node.node_lock import FILE
from medseg.node.options import NodeConfig, PostgresqlOptions
from medseg.node.tables import metadata
from medseg.pacs.secret import read_secret


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeStatus:
    """State of a node.

    Parameters
    ----------
    running : bool or None
        Whether a process serves; None where its database does not tell, which that of several nodes does not.
    holder : str
        Process and since when, "" where none runs or it is not known.
    instances, size : int
        What is kept, bytes.
    jobs, studies : mapping of str to int
        By state.
    deliveries : mapping
        By destination and state.
    queue_age_s : float
        How long the oldest job waits that is due.
    """

    running: bool | None
    holder: str
    instances: int
    size: int
    jobs: Mapping[str, int]
    studies: Mapping[str, int]
    deliveries: Mapping[str, Mapping[str, int]]
    queue_age_s: float


def node_status(config: NodeConfig, clock: Clock) -> NodeStatus:
    """Look at a node from outside.

    Raises
    ------
    StorageError
        There is no node yet, or its database cannot be read.
    """
    if isinstance(config.database, PostgresqlOptions):
        database = Database(read_secret(config.database.url, field="database.url"), metadata, make=False)
        running, holder = None, ""
    else:
        path = config.folder / "node.db"
        if not path.is_file():
            raise StorageError(f"no node was ever started in {config.folder}: {path.name} is not there")
        database = Database(f"sqlite:///{path.absolute()}", metadata, make=False)
        running, holder = _holder(config.folder / FILE)
    try:
        with database.read() as connection:
            count, size = queries.stored(connection)
            deliveries: dict[str, dict[str, int]] = {}
            for name, state, number in queries.delivery_counts(connection):
                deliveries.setdefault(name, {})[state] = number
            return NodeStatus(
                running=running,
                holder=holder,
                instances=count,
                size=size,
                jobs=queries.job_counts(connection),
                studies=queries.study_counts(connection),
                deliveries=deliveries,
                queue_age_s=queries.queue_age(connection, clock.now()),
            )
    finally:
        database.close()


def status_lines(found: NodeStatus) -> list[str]:
    """A status in words."""
    state = {True: f"running, {found.holder}", False: "not running", None: "see the page of each node"}
    lines = [
        state[found.running],
        f"instances {found.instances}, {bytes_text(found.size)}",
        f"studies {_counts(found.studies)}",
        f"jobs {_counts(found.jobs)}",
    ]
    if found.queue_age_s:
        lines.append(f"the oldest job waits for {time_text(found.queue_age_s)}")
    return lines + [f"deliveries to {name}: {_counts(by)}" for name, by in found.deliveries.items()]


def _counts(by_state: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {state.replace('_', ' ')}" for state, count in by_state.items()) or "none"


def _holder(path: Path) -> tuple[bool, str]:
    """Whether a process holds the lock of a folder, and who."""
    try:
        with path.open("rb") as stream:
            try:
                fcntl.flock(stream, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return True, _said(stream.read())
    except OSError:
        pass
    return False, ""


def _said(text: bytes) -> str:
    try:
        said: dict[str, Any] = json.loads(text)
        return f"process {said['process']} since {said['since']}"
    except (ValueError, KeyError, TypeError):
        return "another process"


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
