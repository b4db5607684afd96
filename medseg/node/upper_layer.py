"""The DICOM upper layer on a stream: PDUs of bounded length that come whole within a deadline (PS3.8 9.3)."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

ASSOCIATE_RQ, ASSOCIATE_AC, ASSOCIATE_RJ, DATA_TF, RELEASE_RQ, RELEASE_RP, ABORT = range(1, 8)
MAX_ASSOCIATE = 256 * 1024
"""Longest association request: 128 contexts with all transfer syntaxes stay well below."""

_HEAD = 6
# A PDV has its length, a context identifier and a control header before its data.
_PDV_HEAD = 6

AbortReason = Literal[0, 1, 2, 4, 5, 6]
"""Of the provider: 0 not specified, 1 unrecognised PDU, 2 unexpected PDU, 4 to 6 parameters."""


class UpperLayerError(Exception):
    """What the peer does breaks the protocol or a limit; the connection ends.

    Parameters
    ----------
    sentence : str
        For the audit log.
    reason : int
        Of the A-ABORT that is sent.
    """

    def __init__(self, sentence: str, reason: AbortReason = 0) -> None:
        super().__init__(sentence)
        self.reason: AbortReason = reason


class PeerGone(UpperLayerError):
    """The connection ended, or the peer aborted; nothing is sent."""


@dataclass(frozen=True, slots=True)
class Pdu:
    """A protocol data unit: its type and the bytes after its head."""

    kind: int
    body: bytes


@dataclass(frozen=True, slots=True)
class Pdv:
    """A presentation data value: a fragment of a command or of a data set."""

    context_id: int
    is_command: bool
    is_last: bool
    data: memoryview


async def read_pdu(reader: asyncio.StreamReader, *, longest: int, within_s: float) -> Pdu:
    """The next PDU.

    Raises
    ------
    UpperLayerError
        Too long, of no known type, or not whole within the time.
    PeerGone
        The connection ended.
    """
    try:
        async with asyncio.timeout(within_s):
            head = await reader.readexactly(_HEAD)
            kind, length = head[0], int.from_bytes(head[2:], "big")
            if not ASSOCIATE_RQ <= kind <= ABORT:
                raise UpperLayerError("it does not speak DICOM: unknown type of PDU", 1)
            limit = MAX_ASSOCIATE if kind == ASSOCIATE_RQ else longest
            if length > limit:
                raise UpperLayerError(f"a PDU of {length} bytes, the limit is {limit}", 6)
            return Pdu(kind, await reader.readexactly(length))
    except TimeoutError as err:
        raise UpperLayerError(f"no whole PDU within {within_s:g} s") from err
    except (asyncio.IncompleteReadError, ConnectionError, OSError) as err:
        raise PeerGone("the connection ended") from err


def values_of(body: bytes) -> Iterator[Pdv]:
    """The presentation data values of a P-DATA-TF PDU.

    Raises
    ------
    UpperLayerError
        A length that does not fit.
    """
    view, at = memoryview(body), 0
    if not body:
        raise UpperLayerError("a P-DATA PDU without a value", 6)
    while at < len(body):
        length = int.from_bytes(view[at : at + 4], "big")
        end = at + 4 + length
        if length < 2 or end > len(body):
            raise UpperLayerError("a presentation data value whose length does not fit its PDU", 6)
        control = view[at + 5]
        yield Pdv(view[at + 4], bool(control & 1), bool(control & 2), view[at + _PDV_HEAD : end])
        at = end


def data_pdus(context_id: int, data: bytes, *, is_command: bool, longest: int) -> Iterator[bytes]:
    """P-DATA-TF PDUs that carry a command or a data set; `longest` 0: no limit."""
    room = max(longest - _PDV_HEAD, 1) if longest else 1 << 17
    pieces = [data[at : at + room] for at in range(0, len(data), room)] or [b""]
    for index, piece in enumerate(pieces):
        control = (1 if is_command else 0) | (2 if index == len(pieces) - 1 else 0)
        value = (len(piece) + 2).to_bytes(4, "big") + bytes((context_id, control)) + piece
        yield bytes((DATA_TF, 0)) + len(value).to_bytes(4, "big") + value


def abort_pdu(reason: AbortReason) -> bytes:
    """A-ABORT of the provider."""
    return bytes((ABORT, 0, 0, 0, 0, 4, 0, 0, 2, reason))


def release_reply() -> bytes:
    """A-RELEASE-RP."""
    return bytes((RELEASE_RP, 0, 0, 0, 0, 4, 0, 0, 0, 0))


def reject_pdu(result: int, source: int, reason: int) -> bytes:
    """A-ASSOCIATE-RJ (PS3.8 9.3.4): result 1 permanent, 2 transient; source 1 user, 2 and 3 provider."""
    return bytes((ASSOCIATE_RJ, 0, 0, 0, 0, 4, 0, result, source, reason))
