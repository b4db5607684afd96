"""A line between us and an archive on which answers change."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections.abc import Callable, Iterable, Iterator

_P_DATA = 4
_LAST = 2

Change = Callable[[bytes], Iterable[bytes]]
"""A PDU of the archive -> what comes in its place."""


class ChangedLine:
    """Passes on what an archive answers, changed, in pieces.

    Parameters
    ----------
    port : int
        Of the archive.
    change : Change
    """

    def __init__(self, port: int, change: Change) -> None:
        self._archive, self._change = port, change
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port = self._server.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def stop(self) -> None:
        self._server.close()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                us, _ = self._server.accept()
                archive = socket.create_connection(("127.0.0.1", self._archive))
                us.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                threading.Thread(target=_pass_on, args=(us, archive), daemon=True).start()
                threading.Thread(target=self._answer, args=(archive, us), daemon=True).start()

    def _answer(self, archive: socket.socket, us: socket.socket) -> None:
        with contextlib.suppress(OSError), archive, archive.makefile("rb") as answers, us:
            while head := answers.read(6):
                for piece in self._change(head + answers.read(struct.unpack(">L", head[2:])[0])):
                    us.sendall(piece)


def _pass_on(source: socket.socket, to: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            to.sendall(data)
        to.shutdown(socket.SHUT_WR)


def crumbs(pdu: bytes) -> Iterator[bytes]:
    """Data in fragments of one byte, after an empty one, and all byte by byte."""
    for crumb in _fragments(pdu[6:]) if pdu[0] == _P_DATA else (pdu,):
        for at in range(len(crumb)):
            yield crumb[at : at + 1]


def _fragments(body: bytes) -> Iterator[bytes]:
    """PDUs of one byte of data each (PS3.8 9.3.5)."""
    while body:
        length, context, control = struct.unpack(">LBB", body[:6])
        data, body = body[6 : 4 + length], body[4 + length :]
        yield _pdu(context, control & ~_LAST, b"")
        for at in range(len(data)):
            last = control & _LAST if at == len(data) - 1 else 0
            yield _pdu(context, (control & ~_LAST) | last, data[at : at + 1])


def _pdu(context: int, control: int, data: bytes) -> bytes:
    value = struct.pack(">LBB", len(data) + 2, context, control) + data
    return struct.pack(">BBL", _P_DATA, 0, len(value)) + value


@contextlib.contextmanager
def changed_line(port: int, change: Change) -> Iterator[ChangedLine]:
    line = ChangedLine(port, change)
    try:
        yield line
    finally:
        line.stop()
