"""Who asks, and whether he may: a session of the page, or a token in the header of a request."""

from __future__ import annotations

import base64
import binascii
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass

from fastapi import Request
from jinja2 import Environment
from starlette.concurrency import run_in_threadpool

from medseg.node.arrival import Peer
from medseg.node.audit import Audit
from medseg.node.stow import StowAnswer
from medseg.node.view import NodeView
from medseg.node.web.accounts import EVERYBODY, Account, Accounts, Permission
from medseg.node.web.replies import Refused
from medseg.node.web.sessions import Session, Sessions
from medseg.node.web.throttle import Throttle

Store = Callable[[str, AsyncIterator[bytes], Peer, str], Awaitable[StowAnswer]]
"""Content type, body, sender and study ("" for any) of a STOW-RS request -> its answer."""

_ADDRESS = 64
CHALLENGE = {"www-authenticate": 'Bearer realm="medseg", Basic realm="medseg", charset="UTF-8"'}
_LOG_IN_FIRST = "Log in first: a token of http.accounts as bearer, or name and token as basic authentication."


@dataclass(frozen=True, slots=True, kw_only=True)
class Web:
    """What the routes share."""

    view: NodeView
    accounts: Accounts
    sessions: Sessions
    throttle: Throttle
    audit: Audit
    pages: Environment
    secure: bool
    store: Store | None

    @property
    def cookie(self) -> str:
        """Name of the session's cookie; browsers take the prefix only over TLS and for this host alone."""
        return "__Host-medseg" if self.secure else "medseg"


@dataclass(frozen=True, slots=True, kw_only=True)
class Visitor:
    """Who asks. `session` where a page of ours sent the request; `new_cookie` where the reply must set one."""

    account: Account
    address: str
    session: Session | None = None
    new_cookie: str = ""


class Needs:
    """Dependency of a route: the visitor, who has the permission.

    Parameters
    ----------
    permission : Permission

    Raises
    ------
    Refused
        401 for who is not known, 403 for who may not, or whose form is not of his session; 429 after many failures.
    """

    def __init__(self, permission: Permission) -> None:
        self._permission = permission

    async def __call__(self, request: Request) -> Visitor:
        """The visitor of a request."""
        visitor = await _visitor(request)
        if not visitor.account.may(self._permission):
            raise Refused(403, f"The role {visitor.account.role} does not allow this.")
        if request.method != "GET" and visitor.session is not None:
            await _check_form(request, visitor.session)
        return visitor


def web_of(request: Request) -> Web:
    """What the routes share."""
    web: Web = request.app.state.web
    return web


def address_of(request: Request) -> str:
    """Network address of who asks."""
    return request.client.host[:_ADDRESS] if request.client else ""


async def log_in(request: Request, name: str | None, token: str) -> Account:
    """The account of a token; failures are counted, slowed down and written to the audit log.

    Raises
    ------
    Refused
    """
    web, address = web_of(request), address_of(request)
    wait = web.throttle.wait_s(address)
    if wait > 0:
        await _tell(web, "throttled", name, address)
        seconds = str(int(wait) + 1)
        raise Refused(429, f"Too many failed log-ins; wait {seconds} s.", headers={"retry-after": seconds})
    account = web.accounts.by_token(token, name=name)
    if account is None:
        web.throttle.failed(address)
        await _tell(web, "refused", name, address)
        raise Refused(401, "This name and token do not belong together.", headers=CHALLENGE)
    web.throttle.passed(address)
    return account


async def _visitor(request: Request) -> Visitor:
    web, address = web_of(request), address_of(request)
    header = request.headers.get("authorization", "")
    if header and not web.accounts.open:
        name, token = _credentials(header)
        return Visitor(account=await log_in(request, name, token), address=address)
    cookie = request.cookies.get(web.cookie, "")
    session = await run_in_threadpool(web.sessions.read, cookie) if cookie else None
    if session is not None:
        return Visitor(account=session.account, address=address, session=session)
    if not web.accounts.open:
        raise Refused(401, _LOG_IN_FIRST, headers=CHALLENGE)
    if request.method != "GET":
        # A program on this machine; a browser's request from elsewhere did not pass the guard.
        return Visitor(account=EVERYBODY, address=address)
    session, cookie = web.sessions.begin(EVERYBODY)
    return Visitor(account=EVERYBODY, address=address, session=session, new_cookie=cookie)


def _credentials(header: str) -> tuple[str | None, str]:
    """Name, if there is one, and token of an Authorization header."""
    scheme, _, value = header.partition(" ")
    if scheme.lower() == "bearer":
        return None, value.strip()
    if scheme.lower() == "basic":
        try:
            name, colon, token = base64.b64decode(value.strip(), validate=True).decode().partition(":")
        except (binascii.Error, ValueError):
            name, colon, token = "", "", ""
        if colon:
            return name, token
    raise Refused(401, _LOG_IN_FIRST, headers=CHALLENGE)


async def _check_form(request: Request, session: Session) -> None:
    token = request.headers.get("x-csrf-token")
    if token is None:
        form = await request.form(max_files=0, max_fields=20)
        token = str(form.get("form_token", ""))
    if not web_of(request).sessions.is_form_token(session, token):
        raise Refused(403, "The form is not of this session; load the page again.")


async def _tell(web: Web, outcome: str, name: str | None, address: str) -> None:
    # Whatever a stranger typed may be his password; known names alone are written.
    known = name if name is not None and web.accounts.named(name) is not None else ""
    await run_in_threadpool(web.audit.record, "log_in", account=known, outcome=outcome, address=address)
