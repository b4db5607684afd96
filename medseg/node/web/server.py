"""Listens for HTTP in a thread of its own, and cuts off who is slow or one too many."""

from __future__ import annotations

import asyncio
import socket
import ssl
import threading
from typing import Any

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from medseg.errors import StorageError
from medseg.node.listen_options import HttpListenOptions
from medseg.pacs.tls import server_context

_HEADER_S = 15.0
_HEADER_BYTES = 32 * 1024
_CONNECTIONS = 256
_KEEP_ALIVE_S = 5
_PROXIES = ("127.0.0.1", "::1")


class GuardedProtocol(H11Protocol):
    """Has a deadline for the whole header of a request, which uvicorn does not, and a limit on connections."""

    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        """Begin the deadline of the first header."""
        super().connection_made(transport)
        if len(self.connections) > _CONNECTIONS:
            transport.abort()
            return
        self._begin()

    def data_received(self, data: bytes) -> None:
        """The header is there when the peer has begun its body, or is done."""
        super().data_received(data)
        if self.conn.their_state is not h11.IDLE:
            self._end()
        elif self._deadline is None:
            self._begin()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the deadline."""
        self._end()
        super().connection_lost(exc)

    def _begin(self) -> None:
        self._deadline = self.loop.call_later(_HEADER_S, self._late)

    def _end(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _late(self) -> None:
        self._deadline = None
        if self.conn.their_state is h11.IDLE and not self.transport.is_closing():
            self.transport.abort()


class HttpServer:
    """The HTTP listener of a node.

    Parameters
    ----------
    app : ASGI application
    options : HttpListenOptions

    Raises
    ------
    ConfigError
        Certificate and key of `options.tls` cannot be used.
    """

    def __init__(self, app: Any, options: HttpListenOptions) -> None:
        self._options = options
        tls = _tls(options)
        config = uvicorn.Config(
            app,
            http=GuardedProtocol,
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=options.behind_proxy,
            forwarded_allow_ips=list(_PROXIES),
            timeout_keep_alive=_KEEP_ALIVE_S,
            timeout_graceful_shutdown=5,
            h11_max_incomplete_event_size=_HEADER_BYTES,
            backlog=256,
            ssl_context_factory=None if tls is None else lambda *_: tls,
        )
        self._server = uvicorn.Server(config)
        self._thread: threading.Thread | None = None
        self._socket: socket.socket | None = None
        self.port = options.port

    def start(self) -> None:
        """Listen.

        Raises
        ------
        StorageError
            The address cannot be listened on.
        """
        host, port = self._options.host, self._options.port
        try:
            family, kind, protocol, _, address = socket.getaddrinfo(
                host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
            )[0]
            self._socket = socket.socket(family, kind, protocol)
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self._socket.bind(address)
        except OSError as err:
            if self._socket is not None:
                self._socket.close()
            raise StorageError(f"cannot listen on {host} port {port}: {err.strerror or err}") from err
        self.port = self._socket.getsockname()[1]
        self._thread = threading.Thread(target=self._serve, name="http", daemon=True)
        self._thread.start()
        while not self._server.started and self._thread.is_alive():
            self._thread.join(0.01)

    def stop(self, deadline_s: float) -> None:
        """Take no more requests, let those in progress end."""
        if self._thread is None:
            return
        self._server.should_exit = True
        self._thread.join(deadline_s)
        if self._thread.is_alive():
            self._server.force_exit = True
            self._thread.join(1.0)

    @property
    def alive(self) -> bool:
        """Whether it listens."""
        return self._thread is not None and self._thread.is_alive() and self._server.started

    def _serve(self) -> None:
        assert self._socket is not None
        self._server.run(sockets=[self._socket])


def _tls(options: HttpListenOptions) -> ssl.SSLContext | None:
    if options.tls is None:
        return None
    tls = options.tls
    return server_context(tls.certificate, tls.key, tls.client_authorities, field="http.tls")
