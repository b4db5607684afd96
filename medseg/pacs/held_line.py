"""Keeps what an archive sends within bounds: PDUs in size and time, and answers to what was asked.

pynetdicom reads a PDU of any declared length and waits for its end for ever, waits for ever for a peer that reads no
more, and takes whatever answer comes next for the answer to the last request.
"""

from __future__ import annotations

import contextlib
import functools
import socket
import time
from typing import Any

from pynetdicom import evt

_LONGEST_PDU = 1 << 20
"""Data sets come in PDUs of the 16 KiB that we propose; acceptances of associations may be longer."""
_PIECE = 1 << 16
_RESPONSE = 0x8000


def bound_line(event: Any) -> None:
    """Give the connection of an association its bounds; for `EVT_CONN_OPEN`."""
    line, within_s = event.assoc.dul.socket, event.assoc.network_timeout
    line.socket.settimeout(within_s)
    line.recv = functools.partial(_receive, line, within_s)


def _receive(line: Any, within_s: float, count: int) -> bytearray:
    """The next bytes; fewer where the connection ended. An `OSError` ends the association."""
    connection: socket.socket | None = line.socket
    if connection is None:
        raise OSError("the connection is closed")
    got, end = bytearray(), time.monotonic() + within_s
    try:
        if count > _LONGEST_PDU:
            raise OSError(f"a PDU of {count} bytes")
        while len(got) < count:
            connection.settimeout(max(end - time.monotonic(), 0.001))
            piece = connection.recv(min(count - len(got), _PIECE))
            if not piece:
                break
            got += piece
            if time.monotonic() > end:
                raise TimeoutError
        connection.settimeout(within_s)
    except OSError:
        # pynetdicom takes it for closed, and forgets it.
        with contextlib.suppress(OSError):
            connection.shutdown(socket.SHUT_RDWR)
        raise
    return got


def hold_to_requests(association: Any) -> None:
    """Pass over answers to other messages than the last request, such as doubled or late ones."""
    asked, provider = _Asked(), association.dimse
    association.bind(evt.EVT_DIMSE_SENT, asked.sent)
    take = provider.get_msg

    def get_msg(block: bool = False) -> tuple[Any, Any]:
        end = time.monotonic() + provider.dimse_timeout
        while True:
            context_id, message = take(block)
            if not asked.is_foreign(message):
                return context_id, message
            if not block or time.monotonic() > end:
                return None, None

    provider.get_msg = get_msg


class _Asked:
    """The last request of an association."""

    def __init__(self) -> None:
        self._service, self._message_id = "", -1

    def sent(self, event: Any) -> None:
        """Note a request; answers of ours are none."""
        command = event.message.command_set
        if not int(command.CommandField) & _RESPONSE:
            # The class is C_STORE_RQ, that of the answer as pynetdicom hands it on C_STORE.
            self._service = type(event.message).__name__.rpartition("_")[0]
            self._message_id = int(command.MessageID)

    def is_foreign(self, message: Any) -> bool:
        """Whether it is an answer, and to something else."""
        answered = getattr(message, "MessageIDBeingRespondedTo", None)
        return answered is not None and (type(message).__name__, answered) != (
            self._service,
            self._message_id,
        )
