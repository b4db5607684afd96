"""TCP connections for the event loop, plain or TLS; what comes of each handshake is told."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Awaitable, Callable

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
Refused = Callable[[str, str], None]
"""Address of the peer, and one sentence on why there is no connection."""

_BACKLOG = 256
# As long as asyncio's own server waits when the process has no file descriptor left.
_OUT_OF_DESCRIPTORS_S = 1.0

_SENTENCES = {
    "PEER_DID_NOT_RETURN_A_CERTIFICATE": "it has no certificate",
    "CERTIFICATE_VERIFY_FAILED": "its certificate is not trusted",
    "HTTP_REQUEST": "it speaks HTTP without TLS",
    "WRONG_VERSION_NUMBER": "it speaks no TLS",
    "UNSUPPORTED_PROTOCOL": "it offers only old versions of TLS",
    "NO_SHARED_CIPHER": "no cipher in common",
}


class TcpListener:
    """Listens on all addresses of a host; `asyncio.start_server` says nothing of handshakes that fail.

    Parameters
    ----------
    serve : callable
        Serves one connection, after its handshake; the connection is closed by it.
    refused : callable
        Told of each handshake that fails.
    flooded : callable
        Told of each connection that is one too many.
    tls : ssl.SSLContext or None
    handshake_s : float
        Deadline of a handshake.
    most : int
        Connections at a time, those in their handshake included; one more is cut off.
    buffer : int
        Bytes that a `StreamReader` holds.
    """

    def __init__(
        self,
        serve: Serve,
        refused: Refused,
        flooded: Callable[[], object],
        *,
        tls: ssl.SSLContext | None,
        handshake_s: float,
        most: int,
        buffer: int,
    ) -> None:
        self._serve, self._refused, self._flooded = serve, refused, flooded
        self._tls, self._handshake_s, self._most, self._buffer = tls, handshake_s, most, buffer
        self._sockets: list[socket.socket] = []
        self._accepting: list[asyncio.Task[None]] = []
        self._connections: set[asyncio.Task[None]] = set()

    @property
    def port(self) -> int:
        """The port that is listened on."""
        return int(self._sockets[0].getsockname()[1])

    @property
    def alive(self) -> bool:
        """Whether connections are accepted."""
        return bool(self._accepting) and not any(task.done() for task in self._accepting)

    async def listen(self, host: str, port: int) -> None:
        """Begin to accept.

        Raises
        ------
        OSError
            An address cannot be listened on.
        """
        loop = asyncio.get_running_loop()
        found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        try:
            for family, address in dict.fromkeys((family, address) for family, _, _, _, address in found):
                # Where any port will do, all addresses get the same.
                chosen = port or (self.port if self._sockets else 0)
                place = (address[0], chosen, *address[2:])
                listening = socket.create_server(place, family=family, backlog=_BACKLOG)
                listening.setblocking(False)
                self._sockets.append(listening)
        except OSError:
            self._close_sockets()
            raise
        self._accepting = [asyncio.create_task(self._accept(one)) for one in self._sockets]

    async def close(self) -> None:
        """Accept no more; connections go on."""
        for task in self._accepting:
            task.cancel()
        await asyncio.gather(*self._accepting, return_exceptions=True)
        self._close_sockets()

    async def cancel(self) -> None:
        """End all connections."""
        for task in self._connections:
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    def _close_sockets(self) -> None:
        for listening in self._sockets:
            listening.close()

    async def _accept(self, listening: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                peer, address = await loop.sock_accept(listening)
            except ConnectionError:
                continue
            except OSError:
                await asyncio.sleep(_OUT_OF_DESCRIPTORS_S)
                continue
            if len(self._connections) >= self._most:
                self._flooded()
                peer.close()
                continue
            task = asyncio.create_task(self._connect(peer, str(address[0])))
            self._connections.add(task)
            task.add_done_callback(self._connections.discard)

    async def _connect(self, peer: socket.socket, address: str) -> None:
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader(limit=self._buffer, loop=loop)
        secured = {} if self._tls is None else {"ssl": self._tls, "ssl_handshake_timeout": self._handshake_s}
        with contextlib.suppress(OSError):
            peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            transport, protocol = await loop.connect_accepted_socket(
                lambda: asyncio.StreamReaderProtocol(reader, loop=loop),
                peer,
                **secured,  # type: ignore[arg-type]
            )
        except (OSError, TimeoutError) as err:
            peer.close()
            self._refused(address, f"no TLS connection: {_sentence(err)}")
            return
        except asyncio.CancelledError:
            peer.close()
            raise
        await self._serve(reader, asyncio.StreamWriter(transport, protocol, reader, loop))


def _sentence(err: Exception) -> str:
    """Why a handshake failed; `ssl.SSLError` is an OSError."""
    if isinstance(err, ssl.SSLError):
        reason = str(err.reason or "").removesuffix("_ALERT")
        return _SENTENCES.get(reason, reason.replace("_", " ").lower() or "the handshake failed")
    if isinstance(err, TimeoutError | ConnectionAbortedError):
        return "its handshake took too long"
    return "it hung up during the handshake"
