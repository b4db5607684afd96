"""The end of the audit log, for the page: who was turned away lately."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medseg.node.audit import FILE

_TAIL_BYTES = 256 * 1024
_TURNED_AWAY = {
    "association": ("refused", "aborted"),
    "http": ("refused",),
    "log_in": ("refused", "throttled"),
    "instance": ("refused", "unreadable", "mismatch", "conflict", "no_space", "too_large"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """Somebody who was turned away: when, by what, who and why."""

    time: str
    event: str
    outcome: str
    name: str
    address: str
    reason: str


def refused_lately(folder: Path, limit: int) -> tuple[Refusal, ...]:
    """Refusals at the end of the audit log, the last first; none where there is no log."""
    found: list[Refusal] = []
    for line in reversed(_last_lines(folder / FILE)):
        entry = _entry(line)
        if entry.get("outcome") in _TURNED_AWAY.get(str(entry.get("event")), ()):
            found.append(_refusal(entry))
        if len(found) >= limit:
            break
    return tuple(found)


def _last_lines(path: Path) -> list[bytes]:
    try:
        with path.open("rb") as stream:
            size = stream.seek(0, os.SEEK_END)
            stream.seek(max(0, size - _TAIL_BYTES))
            lines = stream.read().splitlines()
    except OSError:
        return []
    # The first one is cut where the file is longer.
    return lines[1:] if size > _TAIL_BYTES else lines


def _entry(line: bytes) -> dict[str, Any]:
    try:
        entry = json.loads(line)
    except ValueError:
        return {}
    return entry if isinstance(entry, dict) else {}


def _refusal(entry: dict[str, Any]) -> Refusal:
    def text(*names: str) -> str:
        return next((str(entry[name]) for name in names if entry.get(name)), "")

    return Refusal(
        time=text("time"),
        event=text("event"),
        outcome=text("outcome"),
        name=text("name", "account"),
        address=text("address"),
        reason=text("reason"),
    )
