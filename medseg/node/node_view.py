"""What the page sees of a running node, and what it may do there."""

from __future__ import annotations

import contextlib
import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from medseg.node.disk_space import SpaceState
from medseg.node.view import Actions, Live, NodeView

if TYPE_CHECKING:
    from medseg.node.service import Node


def node_view(node: Node, *, secret: bytes) -> NodeView:
    """The view of a node; its counters begin at the start of the process. `secret` as of the intake."""
    started_at = node.clock.now()
    return NodeView(
        node.database,
        node.vault,
        node.clock,
        name=node.config.name,
        rules=tuple(rule.name for rule in node.config.rules),
        destinations=tuple(node.config.destinations),
        audit_folder=node.config.folder,
        live=lambda: _live(node, started_at),
        actions=Actions(
            jobs={
                "release": node.queue.release,
                "hold": node.queue.hold,
                "retry": node.queue.retry,
                "repeat": node.queue.repeat,
                "cancel": node.queue.cancel,
            },
            deliveries={"retry": node.outbox.retry, "cancel": node.outbox.cancel},
        ),
        number_key=secret,
        worklists=tuple(source.name for source in node.config.worklists),
    )


def _live(node: Node, started_at: float) -> Live:
    common = Live(
        started_at=started_at,
        verdicts={str(verdict): count for verdict, count in node.intake.counts.items()},
        job_outcomes=dict(node.workers.outcomes),
        worker_bytes=children_bytes(),
        space=_space(node),
        listeners=node.listeners(),
        certificates=node.certificates,
        problems=node.problems(),
    )
    if node.dimse is None:
        return common
    return replace(common, associations=node.dimse.associations, association_ends=dict(node.dimse.counts))


def _space(node: Node) -> SpaceState | None:
    try:
        return node.intake.space()
    except OSError:
        return None


def children_bytes() -> int:
    """Resident memory of the processes that this one started; 0 where the system does not tell."""
    own, total = os.getpid(), 0
    for status in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError, ValueError, IndexError):
            # The name of a program may hold blanks and brackets; what follows its last bracket does not.
            fields = status.read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()
            if int(fields[1]) == own:
                total += int(fields[21]) * os.sysconf("SC_PAGE_SIZE")
    return total
