"""What every source is, and the thread that looks at it again and again."""

from __future__ import annotations

import logging
import threading
from collections.abc import Collection
from dataclasses import replace
from typing import Protocol

from medseg.errors import MedsegError, StorageError
from medseg.node.arrival import Arrival, Peer, Receipt
from medseg.node.audit import Audit
from medseg.node.part10 import arrival_of

_log = logging.getLogger(__name__)
_LONGEST_WAIT_S = 600.0


class Taker(Protocol):
    """The intake, as sources see it."""

    def accept(self, arrival: Arrival) -> Receipt:
        """Store one instance; see `Intake.accept`."""

    def reject(self, peer: Peer, reason: str) -> None:
        """Tell the audit log of something that is no instance; see `Intake.reject`."""


class Source(Protocol):
    """Somewhere that studies come from."""

    name: str
    every_s: float

    def look(self) -> int:
        """Take what is new; the number of instances.

        Raises
        ------
        MedsegError
            It cannot be reached, or the node has no room; everything that was not taken stays for the next look.
        """


def offer(
    intake: Taker,
    content: bytes,
    peer: Peer,
    *,
    only: Collection[str] | None = None,
    study_uid: str = "",
) -> Receipt | None:
    """Hand a DICOM file to the intake; None where it is none, which the audit log then tells.

    With `only`, another instance than these is left; None as well. With `study_uid`, one of another study is refused.

    Raises
    ------
    StorageError
        The node has no room; the file is to be offered again at the next look.
    """
    try:
        arrival = replace(arrival_of(content, peer), study_uid=study_uid)
    except ValueError as err:
        intake.reject(peer, str(err))
        return None
    if only is not None and arrival.sop_instance_uid not in only:
        return None
    receipt = intake.accept(arrival)
    if later(receipt):
        raise StorageError(f"source {peer.name}: {receipt.reason}")
    return receipt


def later(receipt: Receipt) -> bool:
    """Whether an instance is to be offered again at the next look."""
    return receipt.verdict == "no_space"


class SourceThread:
    """Looks at a source until it is stopped; after a failure less and less often, up to ten minutes.

    Parameters
    ----------
    source : Source
    audit : Audit
    """

    def __init__(self, source: Source, audit: Audit) -> None:
        self._source, self._audit = source, audit
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work, name=f"source-{source.name}", daemon=True)
        self.problem = ""

    def start(self) -> None:
        """Begin to look."""
        self._thread.start()

    def stop(self, deadline_s: float) -> None:
        """Look no more."""
        self._stop.set()
        self._thread.join(deadline_s)

    def _work(self) -> None:
        wait = self._source.every_s
        while not self._stop.is_set():
            try:
                taken = self._source.look()
                self._tell("", taken)
                wait = self._source.every_s
            except MedsegError as err:
                self._tell(str(err), 0)
                wait = min(2 * wait, _LONGEST_WAIT_S)
            except Exception as err:
                _log.exception("source %s", self._source.name)
                self._tell(f"internal error, please report it: {type(err).__name__}", 0)
                wait = min(2 * wait, _LONGEST_WAIT_S)
            self._stop.wait(wait)

    def _tell(self, problem: str, taken: int) -> None:
        """Note what changed: something came, trouble began, trouble is over."""
        if problem != self.problem or taken:
            outcome = "trouble" if problem else "taken"
            self._audit.record(
                "source", outcome=outcome, source=self._source.name, reason=problem, instances=taken
            )
        self.problem = problem
