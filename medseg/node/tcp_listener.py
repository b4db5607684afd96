"""TCP connections for the event loop, plain or TLS; what comes of each handshake is told."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import ssl
from collections.abc import Callable

from medseg.errors import StorageError

Refused = Callable[[str, str], None]
"""Address of the peer, and one sentence on why there is no connection."""

HANDSHAKE_S = 10.0
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

_BY_DATE = {9: "its certificate is not valid yet", 10: "its certificate has expired"}
"""By the code of OpenSSL's check, X509_V_ERR_CERT_NOT_YET_VALID and _HAS_EXPIRED."""

_ADVICE = {
    errno.EADDRINUSE: "stop what listens there, or change {field}.port",
    errno.EACCES: "ports below 1024 are for root; change {field}.port",
    errno.EADDRNOTAVAIL: "this machine has no such address; change {field}.host",
}


def cannot_listen(host: str, port: int, field: str, err: OSError) -> StorageError:
    """What to raise where an address cannot be listened on; `field` is the name of the listener's settings."""
    number = err.errno or 0
    # asyncio's own text names the address once more.
    cause = os.strerror(number) if number > 0 else err.strerror or str(err)
    advice = _ADVICE.get(number, "change {field}.host or {field}.port").format(field=field)
    return StorageError(f"cannot listen on {host} port {port}: {cause}; {advice}")


def listening_sockets(host: str, port: int) -> list[socket.socket]:
    """A listening socket for each address of a host, all or none.

    Raises
    ------
    OSError
        An address cannot be listened on.
    """
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    opened: list[socket.socket] = []
    try:
        for family, address in dict.fromkeys((family, address) for family, _, _, _, address in found):
            chosen = port or (opened[0].getsockname()[1] if opened else 0)
            place = (address[0], chosen, *address[2:])
            listening = socket.create_server(place, family=family, backlog=_BACKLOG)
            listening.setblocking(False)
            opened.append(listening)
    except OSError:
        for listening in opened:
            listening.close()
        raise
    return opened


class TcpListener:
    """Listens on all addresses of a host.

    asyncio's server says nothing of handshakes that fail, and lets any number of them stand still for a minute.

    Parameters
    ----------
    protocol : callable
        Makes what serves a connection, after its handshake.
    admit : callable
        Number of connections in their handshake -> whether there may be one more.
    refused : callable
        Told of each handshake that fails.
    tls : ssl.SSLContext or None
    handshake_s : float
        Deadline of a handshake.
    """

    def __init__(
        self,
        protocol: Callable[[], asyncio.BaseProtocol],
        *,
        admit: Callable[[int], bool],
        refused: Refused,
        tls: ssl.SSLContext | None,
        handshake_s: float = HANDSHAKE_S,
    ) -> None:
        self._protocol, self._admit, self._refused = protocol, admit, refused
        self._tls, self._handshake_s = tls, handshake_s
        self._sockets: list[socket.socket] = []
        self._accepting: list[asyncio.Task[None]] = []
        self._handshakes: set[asyncio.Task[None]] = set()

    @property
    def port(self) -> int:
        """The port that is listened on."""
        return int(self._sockets[0].getsockname()[1])

    @property
    def alive(self) -> bool:
        """Whether connections are accepted."""
        return bool(self._accepting) and not any(task.done() for task in self._accepting)

    def bind(self, host: str, port: int) -> None:
        """Take the addresses.

        Parameters
        ----------
        host : str
        port : int
            0: one that is free, the same for all addresses.

        Raises
        ------
        OSError
            An address cannot be listened on.
        """
        self._sockets = listening_sockets(host, port)

    async def begin(self) -> None:
        """Accept."""
        self._accepting = [asyncio.create_task(self._accept(one)) for one in self._sockets]

    async def close(self) -> None:
        """Accept no more and end the handshakes; connections go on."""
        tasks = [*self._accepting, *self._handshakes]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._close_sockets()

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
            if not self._admit(len(self._handshakes)):
                peer.close()
                continue
            task = asyncio.create_task(self._connect(peer, str(address[0])))
            self._handshakes.add(task)
            task.add_done_callback(self._handshakes.discard)
            # While more of them wait, `sock_accept` never gives way, and a burst counts as so many handshakes.
            await asyncio.sleep(0)

    async def _connect(self, peer: socket.socket, address: str) -> None:
        secured = {} if self._tls is None else {"ssl": self._tls, "ssl_handshake_timeout": self._handshake_s}
        try:
            await asyncio.get_running_loop().connect_accepted_socket(
                self._protocol,
                peer,
                **secured,  # type: ignore[arg-type]
            )
        except (OSError, TimeoutError) as err:
            peer.close()
            self._refused(address, f"no TLS connection: {_sentence(err)}")
        except asyncio.CancelledError:
            peer.close()
            raise


def _sentence(err: Exception) -> str:
    """Why a handshake failed; `ssl.SSLError` is an OSError."""
    if isinstance(err, ssl.SSLCertVerificationError) and err.verify_code in _BY_DATE:
        return _BY_DATE[err.verify_code]
    if isinstance(err, ssl.SSLError):
        reason = str(err.reason or "").removesuffix("_ALERT")
        return _SENTENCES.get(reason, reason.replace("_", " ").lower() or "the handshake failed")
    if isinstance(err, TimeoutError | ConnectionAbortedError):
        return "its handshake took too long"
    return "it hung up during the handshake"
