"""HTTP servers that send bytes as a test says, and need not keep to any rule."""

from __future__ import annotations

import contextlib
import itertools
import socket
import threading
from collections.abc import Iterable, Iterator


class RawHttp:
    """Answers every request with the same bytes, which may have no end, and closes the connection."""

    def __init__(self, answer: Iterable[bytes]) -> None:
        self._answer, self.sent, self.requests = answer, 0, []
        self._server = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._server.getsockname()[1]}/dicom-web"
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._server.accept()
                with connection, contextlib.suppress(OSError):
                    self._reply(connection)

    def _reply(self, connection: socket.socket) -> None:
        request = b""
        while b"\r\n\r\n" not in request:
            request += connection.recv(65536)
        self.requests.append(request.split(b"\r\n")[0].decode())
        for piece in self._answer:
            if self._stopped.is_set():
                return
            connection.sendall(piece)
            self.sent += len(piece)
        connection.shutdown(socket.SHUT_WR)

    def stop(self) -> None:
        self._stopped.set()
        # A thread that waits in `accept` is not woken by `close`.
        self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()
        self._thread.join(10)


@contextlib.contextmanager
def raw_http(*pieces: bytes, for_ever: bytes = b"") -> Iterator[RawHttp]:
    """A server of `pieces`, then of one more without an end."""
    answer = _Again(pieces, for_ever)
    server = RawHttp(answer)
    try:
        yield server
    finally:
        server.stop()


class _Again:
    """Iterates over pieces as often as it is asked to."""

    def __init__(self, pieces: Iterable[bytes], for_ever: bytes) -> None:
        self._pieces, self._for_ever = tuple(pieces), for_ever

    def __iter__(self) -> Iterator[bytes]:
        return itertools.chain(self._pieces, itertools.repeat(self._for_ever) if self._for_ever else ())
