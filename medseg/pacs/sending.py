"""What is handed to an archive, and what it answers; the same for every protocol."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

if TYPE_CHECKING:
    from medseg.pacs.flight import Flight

SentState = Literal["sent", "again", "refused"]
"""sent: the archive has it; again: not now, try later; refused: it does not want this instance."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outgoing:
    """A finished DICOM file.

    Parameters
    ----------
    sop_class_uid, sop_instance_uid : str
    content : bytes
        The file, with its file meta information.
    """

    sop_class_uid: str
    sop_instance_uid: str
    content: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Sent:
    """What became of one.

    Parameters
    ----------
    sop_instance_uid : str
    state : SentState
    reason : str
        One sentence without identifiers; "" where there is nothing to say.
    retry_after_s : float or None
        When the archive asks to be called again.
    """

    sop_instance_uid: str
    state: SentState
    reason: str = ""
    retry_after_s: float | None = None


class Sender(Protocol):
    """Delivers to one archive."""

    def send(self, files: Sequence[Outgoing], flight: Flight | None = None) -> list[Sent]:
        """Deliver files; one answer for each, in their order. Network trouble is an answer, not an exception.

        Told is `flight`, whose `stop` lets the rest be answered with `left_for_later`.
        """

    def echo(self) -> None:
        """Ask whether the archive is there.

        Raises
        ------
        PacsUnreachableError, PacsRejectedError
        """


def left_for_later(files: Sequence[Outgoing]) -> list[Sent]:
    """Answers for files that were not sent because of a stop."""
    return [Sent(sop_instance_uid=file.sop_instance_uid, state="again", retry_after_s=0.0) for file in files]


def all_answered(files: Sequence[Outgoing], state: SentState, reason: str) -> list[Sent]:
    """The same answer for each file."""
    return [Sent(sop_instance_uid=file.sop_instance_uid, state=state, reason=reason) for file in files]
