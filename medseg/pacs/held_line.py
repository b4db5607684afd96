"""Keeps what an archive sends within bounds: PDUs in size and time, messages in size, and answers to what was asked.

pynetdicom reads a PDU of any declared length and waits for its end for ever, waits for ever for a peer that reads no
more, puts together messages of any length, and takes whatever answer comes next for the answer to the last request.
"""

from __future__ import annotations

import contextlib
import functools
import socket
import time
from collections.abc import Callable
from typing import Any

from pynetdicom import evt
from pynetdicom.fsm import InvalidEventError

from medseg.io.foreign import PARSER_ERRORS

_LONGEST_PDU = 1 << 20
"""Data sets come in PDUs of the 16 KiB that we propose; acceptances of associations may be longer."""
_PIECE = 1 << 16
_PROGRESS = 1 << 16
"""So much must come within a time-out for a message to be waited for any longer."""
_RESPONSE = 0x8000


def bound_line(event: Any) -> None:
    """Give the connection of an association its bounds; for `EVT_CONN_OPEN`."""
    line, within_s = event.assoc.dul.socket, event.assoc.network_timeout
    line.socket.settimeout(within_s)
    line.recv = functools.partial(_receive, line, within_s)
    machine = event.assoc.dul.state_machine
    machine.do_action = functools.partial(_act, line, machine.do_action)


def _act(line: Any, act: Callable[[str], None], event: str) -> None:
    """Let pynetdicom act on an event; a PDU of which it makes no sense ends the connection, not the thread."""
    try:
        act(event)
    except (InvalidEventError, *PARSER_ERRORS):
        _hang_up(line.socket)


def _hang_up(connection: socket.socket | None) -> None:
    if connection is not None:
        # pynetdicom takes it for closed, and forgets it.
        with contextlib.suppress(OSError):
            connection.shutdown(socket.SHUT_RDWR)


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
        _hang_up(connection)
        raise
    return got


class Arriving:
    """Counts what arrives on an association, and ends it at a message that is too long.

    Parameters
    ----------
    association : Association
        Of pynetdicom.
    most : int
        Bytes of a message.
    """

    def __init__(self, association: Any, most: int) -> None:
        self._association, self._provider, self._most = association, association.dimse, most
        self._take, self._held = association.dimse.receive_primitive, 0
        self.count, self.too_long = 0, False

    def receive(self, primitive: Any) -> None:
        """Take some fragments of a message, in place of pynetdicom's method of DIMSE."""
        size = sum(len(fragment) for _, fragment in primitive.presentation_data_value_list)
        self.count += size
        self._held += size
        if self._held > self._most:
            self.too_long = True
            # PS3.8 9.2: an invalid PDU, which ends the association; who waits for the message is told.
            self._association.dul.event_queue.put("Evt19")
            self._provider.msg_queue.put((None, None))
            return
        self._take(primitive)
        if self._provider.message is None:
            self._held = 0


def bound_messages(association: Any, most: int) -> Arriving:
    """Let an association end at a message of more than `most` bytes."""
    arriving = Arriving(association, most)
    association.dimse.receive_primitive = arriving.receive
    return arriving


def hold_to_requests(association: Any, arriving: Arriving) -> None:
    """Pass over answers to other messages than the last request, and wait as long as a message comes in."""
    asked, provider = _Asked(), association.dimse
    association.bind(evt.EVT_DIMSE_SENT, asked.sent)
    take = provider.get_msg

    def get_msg(block: bool = False) -> tuple[Any, Any]:
        end = time.monotonic() + provider.dimse_timeout
        while True:
            begun, before = time.monotonic(), arriving.count
            context_id, message = take(block)
            now = time.monotonic()
            if asked.is_foreign(message):
                if not block or now > end:
                    return None, None
            elif message is not None or not block or now - begun < provider.dimse_timeout:
                return context_id, message
            elif arriving.count - before < _PROGRESS:
                return None, None
            else:
                end = now + provider.dimse_timeout

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
