"""What a network edge hands to the intake, and what it hears back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Verdict = Literal[
    "stored", "duplicate", "conflict", "unreadable", "mismatch", "refused", "no_space", "too_large"
]
"""What became of an instance.

stored: its bytes and its row are on disk and synced; duplicate: the same bytes were there; conflict: its UID was
there with other bytes, the first are kept; unreadable: no data set; mismatch: it is not what the command said;
refused: an identifier or a class that the node does not take; no_space: the reserve or the quota is reached;
too_large: above the limit of one instance.
"""

Route = Literal["dimse", "stow", "folder", "orthanc", "dicomweb", "query", "ups", "found"]
"""How an instance came in; found: its file was there and no row, so nobody knows any more."""

IN_FLIGHT = 1 << 30
"""Bytes of instances that come in by one listener at a time."""

ACKNOWLEDGED: frozenset[Verdict] = frozenset({"stored", "duplicate"})
"""Verdicts after which a sender may forget its copy."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """Who sent it: AE title or account, network address, subject of the certificate; "" where unknown."""

    route: Route
    name: str = ""
    address: str = ""
    certificate: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrival:
    """One instance as it came in.

    Parameters
    ----------
    data_set : bytes
        The encoded data set, without preamble and file meta information.
    transfer_syntax_uid : str
        How it is encoded.
    sop_class_uid, sop_instance_uid : str
        What the command said that it is; "" where there was no command.
    study_uid : str
        The study that it was posted to; "" where it may be of any.
    peer : Peer
    """

    data_set: bytes
    transfer_syntax_uid: str
    sop_class_uid: str = ""
    sop_instance_uid: str = ""
    study_uid: str = ""
    peer: Peer


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt:
    """What became of an arrival.

    Parameters
    ----------
    verdict : Verdict
    reason : str
        One sentence for the sender and the log, without identifiers; "" where there is nothing to say.
    sop_class_uid, sop_instance_uid : str
        As the data set says; "" where it could not be read.
    """

    verdict: Verdict
    reason: str = ""
    sop_class_uid: str = ""
    sop_instance_uid: str = ""

    @property
    def acknowledged(self) -> bool:
        """Whether the sender may forget its copy."""
        return self.verdict in ACKNOWLEDGED


@dataclass(slots=True)
class Budget:
    """Bytes of data sets that come in at a time."""

    most: int
    held: int = 0

    def take(self, count: int) -> bool:
        """Hold `count` bytes more, if that is allowed."""
        if self.held + count > self.most:
            return False
        self.held += count
        return True

    def give_back(self, count: int) -> None:
        """Hold `count` bytes less."""
        self.held -= count
