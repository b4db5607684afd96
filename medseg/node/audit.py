"""Who did what, as lines of JSON; on disk when `record` returns."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from medseg.node.arrival import Peer
from medseg.node.clock import Clock
from medseg.node.privacy_options import AuditOptions
from medseg.node.repeats import Repeats, What
from medseg.privacy import pseudonym

FILE = "audit.jsonl"
IDENTIFIERS = frozenset({"study_uid", "series_uid", "sop_instance_uid", "workitem_uid"})
"""Details that name a study or what is asked of it; written as pseudonyms unless the options say otherwise."""

_STAMP = "%Y%m%dT%H%M%S%f"
_log = logging.getLogger(__name__)


class Audit:
    """The audit log of a node.

    Parameters
    ----------
    folder : Path
        `audit.jsonl` is in it, and older files beside it as `audit-<time>.jsonl`.
    options : AuditOptions
    clock : Clock
    """

    def __init__(self, folder: Path, options: AuditOptions, clock: Clock) -> None:
        self._folder, self._options, self._clock = folder, options, clock
        self._lock = threading.Lock()
        self._repeats = Repeats(clock)

    def is_told(self, event: str, outcome: str, address: str) -> bool:
        """Whether a connection that came to nothing has a line of its own, which the caller then writes.

        The first of an address in a minute have, so that a flood neither fills the disk nor pushes out what was
        written before. `tell_counted` writes how many there were of the others.
        """
        return self._repeats.is_told(What(event, outcome, address))

    def tell_counted(self, *, at_once: bool = False) -> None:
        """Write a line for all those since the last minute, or until now, that have none of their own."""
        for (event, outcome, address), count in self._repeats.counted(at_once=at_once).items():
            reason = f"{count} more within a minute"
            self.record(event, outcome=outcome, address=address, reason=reason, count=count)

    def record(
        self, event: str, *, peer: Peer | None = None, account: str = "", outcome: str = "", **details: Any
    ) -> None:
        """Write one line.

        A log that cannot be written does not stop the work; the failure is logged.

        Parameters
        ----------
        event : str
            Such as `association`, `http`, `instance`, `log_in`, `job_released`, `delivery`, `start`.
        peer : Peer or None
            Who did it over the network.
        account : str
            Who did it, logged in.
        outcome : str
            Such as `accepted`, `refused`.
        **details
            JSON values; empty texts and tables are left out. UIDs go under the names in `IDENTIFIERS`.
        """
        line = {
            "time": datetime.fromtimestamp(self._clock.now(), UTC).isoformat(timespec="milliseconds"),
            "event": event,
        }
        if peer is not None:
            said = {
                "route": peer.route,
                "name": peer.name,
                "address": peer.address,
                "certificate": peer.certificate,
            }
            line |= {key: value for key, value in said.items() if value}
        line |= {key: value for key, value in {"account": account, "outcome": outcome}.items() if value}
        line |= {key: self._shown(key, value) for key, value in details.items() if value not in ("", {})}
        # ASCII alone: no line of a hostile name becomes two, and no terminal obeys it.
        text = json.dumps(line, ensure_ascii=True, default=str) + "\n"
        try:
            with self._lock:
                self._append(text.encode())
        except OSError as err:
            _log.error("the audit log cannot be written: %s", err.strerror or err)

    def _shown(self, key: str, value: Any) -> Any:
        hidden = key in IDENTIFIERS and not self._options.identifiers and value
        return pseudonym(str(value)) if hidden else value

    def _append(self, line: bytes) -> None:
        path = self._folder / FILE
        if path.exists() and path.stat().st_size + len(line) > self._options.file_limit:
            self._rotate(path)
        handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            os.write(handle, line)
            os.fdatasync(handle)
        finally:
            os.close(handle)

    def _rotate(self, path: Path) -> None:
        stamp = datetime.fromtimestamp(self._clock.now(), UTC)
        if (last := self._last_stamp()) is not None:
            # A clock that was set back must not make the newest file the oldest.
            stamp = max(stamp, last + timedelta(microseconds=1))
        with contextlib.suppress(FileNotFoundError):
            # Another node in the same folder may have been first.
            os.replace(path, self._folder / f"audit-{stamp.strftime(_STAMP)}.jsonl")
        for old in sorted(self._folder.glob("audit-*.jsonl"))[: -self._options.keep_files]:
            old.unlink(missing_ok=True)

    def _last_stamp(self) -> datetime | None:
        """When the newest of the older files was begun, as its name says."""
        for path in sorted(self._folder.glob("audit-*.jsonl"), reverse=True):
            with contextlib.suppress(ValueError):
                return datetime.strptime(path.stem.removeprefix("audit-"), _STAMP).replace(tzinfo=UTC)
        return None
