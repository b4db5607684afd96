"""A line between us and an archive on which answers come in crumbs."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections.abc import Iterator

_P_DATA = 4
_LAST = 2


class CrumblingLine:
    """Passes on what an archive answers: data in fragments of one byte, with empty ones among them, byte by byte.

    Parameters
    ----------
    port : int
        Of the archive.
    """

    def __init__(self, port: int) -> None:
        self._archive = port
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
                threading.Thread(target=_crumble, args=(archive, us), daemon=True).start()


def _pass_on(source: socket.socket, to: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            to.sendall(data)
        to.shutdown(socket.SHUT_WR)


def _crumble(archive: socket.socket, us: socket.socket) -> None:
    with contextlib.suppress(OSError), archive.makefile("rb") as answers, us:
        while head := answers.read(6):
            body = answers.read(struct.unpack(">L", head[2:])[0])
            for crumb in _crumbs(body) if head[0] == _P_DATA else (head + body,):
                for start in range(len(crumb)):
                    us.send(crumb[start : start + 1])


def _crumbs(body: bytes) -> Iterator[bytes]:
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
def crumbling_line(port: int) -> Iterator[CrumblingLine]:
    line = CrumblingLine(port)
    try:
        yield line
    finally:
        line.stop()
