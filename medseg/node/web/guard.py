"""What stands before every request: host, origin, size, pace and number; and the headers of every reply."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import socket
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Iterator, MutableMapping
from typing import Any
from urllib.parse import urlsplit

from medseg.node.web.replies import HEADERS, STRICT_TRANSPORT, Refused

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]

SMALL_BODY = 64 * 1024
_SILENCE_S = 30.0
_GRACE_S = 60.0
_SLOWEST = 1024
_AT_A_TIME = 64
# Forms are read before it is known who sends them, so they have little time, and one place has a few at a time.
_FORM_S = 10.0
_FORMS_OF_ONE = 4
_SAFE = frozenset({"GET", "HEAD", "OPTIONS"})
_ALWAYS = frozenset({"/health", "/ready"})
_TOLD = frozenset({400, 403, 408, 413, 421})
"""Refusals that somebody should hear of; 503 is load."""

TurnedAway = Callable[[str, str], None]
"""Address of the peer, and one sentence on why; it must not block."""


def told_nobody(_address: str, _reason: str) -> None:
    """Where there is no audit log."""


class Guard:
    """ASGI middleware, the outermost.

    Parameters
    ----------
    app : ASGI application
    hosts : iterable of str
        Names that the node may be called by, besides its addresses and the machine's own name.
    body_limit : int
        Most bytes of a STOW-RS request; all others are small.
    stow_path : str
        Where those go to.
    secure : bool
        Whether browsers reach the node over TLS.
    at_a_time : int
        Requests that are served at a time.
    turned_away : callable
        Told of requests that are refused here.
    """

    def __init__(
        self,
        app: App,
        *,
        hosts: Iterable[str] = (),
        body_limit: int = SMALL_BODY,
        stow_path: str = "/dicom-web/",
        secure: bool = False,
        at_a_time: int = _AT_A_TIME,
        turned_away: TurnedAway = told_nobody,
    ) -> None:
        self._app, self._body_limit, self._stow_path = app, body_limit, stow_path
        self._hosts = {"localhost", socket.gethostname().lower(), *(host.lower() for host in hosts)}
        self._headers = dict(HEADERS) | ({"strict-transport-security": STRICT_TRANSPORT} if secure else {})
        self._at_a_time, self._open, self._turned_away = at_a_time, 0, turned_away
        self._forms: Counter[str] = Counter()

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            return
        guarded = self._with_headers(send)
        try:
            self._check(scope)
        except Refused as refused:
            self._tell(scope, refused)
            await _reply(guarded, refused)
            return
        with self._counted(scope):
            await self._app(scope, self._limited(scope, receive), guarded)

    @contextlib.contextmanager
    def _counted(self, scope: Message) -> Iterator[None]:
        if not self._is_form(scope):
            self._open += 1
            try:
                yield
            finally:
                self._open -= 1
            return
        address = _address(scope)
        self._forms[address] += 1
        try:
            yield
        finally:
            self._forms[address] -= 1
            if not self._forms[address]:
                del self._forms[address]

    def _is_form(self, scope: Message) -> bool:
        return scope["method"] not in _SAFE and not str(scope["path"]).startswith(self._stow_path)

    def _is_busy(self, scope: Message) -> bool:
        if self._is_form(scope):
            own = self._forms[_address(scope)] >= _FORMS_OF_ONE
            return own or self._forms.total() >= self._at_a_time
        return self._open >= self._at_a_time and scope["path"] not in _ALWAYS

    def _tell(self, scope: Message, refused: Refused) -> Refused:
        if refused.status in _TOLD:
            self._turned_away(_address(scope), refused.reason)
        return refused

    def _check(self, scope: Message) -> None:
        headers = [(name.lower(), value.decode("latin-1")) for name, value in scope["headers"]]
        hosts = [value for name, value in headers if name == b"host"]
        if len(hosts) != 1 or not self._is_own(hosts[0]):
            raise Refused(421, "This node is not known by that name; see http.hosts.")
        if {b"content-length", b"transfer-encoding"} <= {name for name, _ in headers}:
            # RFC 9112 6.3: what a proxy before us took for the end of this request may be another one's beginning.
            raise Refused(400, "The request has two lengths.", headers={"connection": "close"})
        if scope["method"] not in _SAFE:
            _check_origin(dict(headers), hosts[0])
        if self._is_busy(scope):
            raise Refused(503, "Too many requests at a time.", headers={"retry-after": "2"})
        told = dict(headers).get(b"content-length", "")
        if told.isdigit() and int(told) > self._limit(scope):
            raise _too_large(self._limit(scope))

    def _is_own(self, host: str) -> bool:
        """Whether a Host header names this node; another name may be that of a page elsewhere that points here."""
        try:
            name = urlsplit(f"//{host}").hostname or ""
        except ValueError:
            return False
        if not name or any(char in host for char in "/?#@\\ "):
            return False
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return name in self._hosts
        return True

    def _limit(self, scope: Message) -> int:
        return self._body_limit if str(scope["path"]).startswith(self._stow_path) else SMALL_BODY

    def _limited(self, scope: Message, receive: Receive) -> Receive:
        limit, loop = self._limit(scope), asyncio.get_running_loop()
        silence, grace = (_FORM_S, _FORM_S) if self._is_form(scope) else (_SILENCE_S, _GRACE_S)
        begin, taken, done = loop.time(), 0, False

        async def limited() -> Message:
            nonlocal taken, done
            if done:
                # What comes behind the body is that the peer leaves, however late.
                return await receive()
            try:
                message = await asyncio.wait_for(receive(), silence)
            except TimeoutError:
                raise self._tell(scope, Refused(408, "The request came too slowly.")) from None
            taken += len(message.get("body", b""))
            done = message["type"] != "http.request" or not message.get("more_body", False)
            if taken > limit:
                raise self._tell(scope, _too_large(limit))
            if not done and loop.time() - begin > grace + taken / _SLOWEST:
                raise self._tell(scope, Refused(408, "The request came too slowly."))
            return message

        return limited

    def _with_headers(self, send: Send) -> Send:
        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                own = {name.lower() for name, _ in message.get("headers", ())}
                more = [
                    (name.encode(), value.encode())
                    for name, value in self._headers.items()
                    if name.encode() not in own
                ]
                message = {**message, "headers": [*message.get("headers", ()), *more]}
            # Who does not read what he asked for must not hold it in memory for ever.
            await asyncio.wait_for(send(message), 2 * _SILENCE_S)

        return guarded


def _address(scope: Message) -> str:
    # Behind a proxy it is what a header says.
    return str((scope.get("client") or ("",))[0])[:64]


def _check_origin(headers: dict[bytes, str], host: str) -> None:
    """Refuse what a page of another site sends in its visitor's name."""
    site = headers.get(b"sec-fetch-site", "none")
    origin = headers.get(b"origin")
    if site not in ("none", "same-origin") or (origin is not None and urlsplit(origin).netloc != host):
        raise Refused(403, "The request comes from another site.")


def _too_large(limit: int) -> Refused:
    return Refused(413, f"The request is larger than {limit} bytes.", headers={"connection": "close"})


async def _reply(send: Send, refused: Refused) -> None:
    body = (refused.reason + "\n").encode()
    headers = [
        (b"content-type", b"text/plain; charset=utf-8"),
        (b"content-length", str(len(body)).encode()),
        *((name.encode(), value.encode()) for name, value in refused.headers.items()),
    ]
    await send({"type": "http.response.start", "status": refused.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
