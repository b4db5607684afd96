"""A line between sender and archive that is cut at a chosen place."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections.abc import Iterator
from typing import Literal

Cut = Literal["close", "reset", "abort"]
_ABORT = bytes([7, 0, 0, 0, 0, 4, 0, 0, 0, 0])


class CutLine:
    """Passes on what an archive answers up to a place; then it ends both connections.

    Parameters
    ----------
    port : int
        Of the archive.
    pdus : int
        PDUs of the archive that still arrive: the acceptance, then an answer for each C-STORE.
    more : int
        Bytes of the next one that arrive too.
    how : Cut
        close: with FIN; reset: with RST; abort: after an A-ABORT (PS3.8 9.3.8).
    """

    def __init__(self, port: int, *, pdus: int, more: int = 0, how: Cut = "close") -> None:
        self._archive, self._pdus, self._more, self._how = port, pdus, more, how
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port = self._server.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def stop(self) -> None:
        self._server.close()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            sender, _ = self._server.accept()
            archive = socket.create_connection(("127.0.0.1", self._archive))
            threading.Thread(target=_pass_on, args=(sender, archive), daemon=True).start()
            self._answer(archive, sender)
            self._cut(sender)
            archive.close()

    def _answer(self, archive: socket.socket, sender: socket.socket) -> None:
        with archive.makefile("rb") as answers:
            for left in range(self._pdus, -1, -1):
                head = answers.read(6)
                pdu = head + answers.read(struct.unpack(">L", head[2:])[0])
                sender.sendall(pdu if left else pdu[: self._more])

    def _cut(self, sender: socket.socket) -> None:
        if self._how == "abort":
            sender.sendall(_ABORT)
        if self._how == "reset":
            sender.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        # A thread that still reads would keep the connection open beyond `close`.
        sender.shutdown(socket.SHUT_RD if self._how == "reset" else socket.SHUT_RDWR)
        sender.close()


def _pass_on(source: socket.socket, to: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            to.sendall(data)


@contextlib.contextmanager
def cut_line(port: int, **place) -> Iterator[CutLine]:
    line = CutLine(port, **place)
    try:
        yield line
    finally:
        line.stop()
