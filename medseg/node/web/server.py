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

from medseg.node.listen_options import HttpListenOptions
from medseg.node.tcp_listener import Refused, TcpListener, cannot_listen
from medseg.node.web.guard import told_nobody
from medseg.pacs.tls import server_context

_HEADER_S = 15.0
_HEADER_BYTES = 32 * 1024
_CONNECTIONS = 256
_HANDSHAKES = 64
_KEEP_ALIVE_S = 5
_PROXIES = ("127.0.0.1", "::1")


class GuardedProtocol(H11Protocol):
    """Has a deadline for the whole header of a request, which uvicorn does not, and a limit on connections.

    Where there is one too many, the one that has waited longest for a header, or goes on with a body whose request has
    its answer, is cut off: whoever holds connections open without a request does not keep a monitor out.
    """

    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        """Begin the deadline of the first header."""
        super().connection_made(transport)
        self._begin()
        if len(self.connections) > _CONNECTIONS:
            waiting = [
                one
                for one in self.connections
                if isinstance(one, GuardedProtocol) and (one.waits or one.is_answered)
            ]
            min(waiting, key=lambda one: one.since, default=self).cut_off()

    @property
    def waits(self) -> bool:
        """Whether there is no request at the moment."""
        return self.conn.their_state is h11.IDLE and not self.transport.is_closing()

    @property
    def is_answered(self) -> bool:
        """Whether its request has its answer already, such as a refusal before the body."""
        return self.conn.our_state in (h11.DONE, h11.MUST_CLOSE) and not self.transport.is_closing()

    def cut_off(self) -> None:
        """End the connection at once, and forget it."""
        self._end()
        self.connections.discard(self)
        self.transport.abort()

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
        self.since = self.loop.time()
        self._deadline = self.loop.call_later(_HEADER_S, self._late)

    def _end(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _late(self) -> None:
        self._deadline = None
        if self.waits:
            self.transport.abort()


class _Uvicorn(uvicorn.Server):
    """Serves the connections of our own listener."""

    def __init__(self, config: uvicorn.Config, tls: ssl.SSLContext | None, refused: Refused) -> None:
        super().__init__(config)
        self.listener = TcpListener(
            lambda: GuardedProtocol(config=config, server_state=self.server_state, app_state={}),
            admit=lambda handshakes: handshakes < _HANDSHAKES,
            refused=refused,
            tls=tls,
        )

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Accept connections."""
        await self.listener.begin()
        # What its own shutdown would close.
        self.servers = []
        self.started = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Accept no more, and let requests in progress end."""
        await self.listener.close()
        await super().shutdown()


class HttpServer:
    """The HTTP listener of a node.

    Parameters
    ----------
    app : ASGI application
    options : HttpListenOptions
    refused : callable
        Told of each TLS handshake that fails.

    Raises
    ------
    ConfigError
        Certificate and key of `options.tls` cannot be used.
    """

    def __init__(self, app: Any, options: HttpListenOptions, *, refused: Refused = told_nobody) -> None:
        self._options = options
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
        )
        self._server = _Uvicorn(config, _tls(options), refused)
        self._thread: threading.Thread | None = None
        self.port = options.port

    def start(self) -> None:
        """Listen.

        Raises
        ------
        StorageError
            The address cannot be listened on.
        """
        host, port, listener = self._options.host, self._options.port, self._server.listener
        try:
            listener.bind(host, port)
        except OSError as err:
            raise cannot_listen(host, port, "http", err) from err
        self.port = listener.port
        self._thread = threading.Thread(target=self._server.run, name="http", daemon=True)
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
        return self._thread is not None and self._thread.is_alive() and self._server.listener.alive


def _tls(options: HttpListenOptions) -> ssl.SSLContext | None:
    if options.tls is None:
        return None
    tls = options.tls
    return server_context(tls.certificate, tls.key, tls.client_authorities, field="http.tls")
