"""The HTTP side of a node as one application."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from urllib.parse import urlencode

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, RedirectResponse, Response
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from medseg.database import Database
from medseg.errors import StorageError
from medseg.node.audit import Audit
from medseg.node.listen_options import HttpListenOptions
from medseg.node.view import NodeView
from medseg.node.web import actions, api, assets, files, pages, probes, stow_route
from medseg.node.web.accounts import Accounts
from medseg.node.web.gate import Store, Web, address_of
from medseg.node.web.guard import Guard, TurnedAway, told_nobody
from medseg.node.web.replies import Refused
from medseg.node.web.sessions import Sessions
from medseg.node.web.show import environment
from medseg.node.web.throttle import Throttle

_log = logging.getLogger(__name__)
_FOR_PROGRAMS = ("/api/", "/metrics", "/dicom-web/")


def create_app(
    view: NodeView,
    options: HttpListenOptions,
    *,
    database: Database,
    accounts: Accounts,
    audit: Audit,
    secret: bytes,
    store: Store | None = None,
    turned_away: TurnedAway = told_nobody,
) -> Guard:
    """The application, guarded.

    Parameters
    ----------
    view : NodeView
    options : HttpListenOptions
    database : Database
        Where it is noted who has logged out.
    accounts : Accounts
        As `read_accounts` found them.
    audit : Audit
    secret : bytes
        Of the node; sessions are signed with keys that are made of it.
    store : callable or None
        Takes the studies of STOW-RS; None: they are not taken.
    turned_away : callable
        Told of requests that the guard refuses.
    """
    secure = options.tls is not None or options.behind_proxy
    app = FastAPI(title="medseg", docs_url=None, redoc_url=None, openapi_url=None)
    app.state.web = Web(
        view=view,
        accounts=accounts,
        sessions=Sessions(
            accounts, database=database, secret=secret, lasts_s=options.session, clock=view.clock
        ),
        throttle=Throttle(view.clock),
        audit=audit,
        pages=environment(),
        secure=secure,
        store=store,
    )
    for part in (probes, assets, files, api, stow_route, actions, pages):
        app.include_router(part.router)
    app.add_exception_handler(Refused, _refused)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(StorageError, _unreachable)
    app.add_exception_handler(ClientDisconnect, _hung_up)
    app.add_exception_handler(Exception, _broken)
    return Guard(
        app, hosts=options.hosts, body_limit=options.body_limit, secure=secure, turned_away=turned_away
    )


def _refused(request: Request, err: Exception) -> Response:
    assert isinstance(err, Refused)
    path = request.url.path
    if err.status == 401 and request.method == "GET" and not path.startswith(_FOR_PROGRAMS):
        there = path + (f"?{request.url.query}" if request.url.query else "")
        return RedirectResponse("/login?" + urlencode({"next": there}), 303)
    return _answer(request, err.status, err.reason, err.headers)


def _http_error(request: Request, err: Exception) -> Response:
    assert isinstance(err, HTTPException)
    if isinstance(err.__cause__, Refused):
        # FastAPI makes its own error of what the guard says while a form is read.
        return _refused(request, err.__cause__)
    reason = {404: "There is no such page.", 405: "That is not done here."}.get(
        err.status_code, "Not possible."
    )
    return _answer(request, err.status_code, reason, dict(err.headers or {}))


def _invalid(request: Request, _err: Exception) -> Response:
    return _answer(request, 400, "A value of the address or the form is not possible.", {})


def _unreachable(request: Request, err: Exception) -> Response:
    _log.error("a request could not be answered: %s", err)
    return _answer(request, 503, "The node cannot read its storage at the moment.", {"retry-after": "5"})


async def _hung_up(request: Request, _err: Exception) -> Response:
    web: Web = request.app.state.web
    address = address_of(request)
    if web.audit.is_told("http", "lost", address):
        reason = "The sender hung up before its request was complete."
        await run_in_threadpool(web.audit.record, "http", outcome="lost", address=address, reason=reason)
    return Response(status_code=400)


def _broken(request: Request, err: Exception) -> Response:
    _log.error("a request failed: %s", type(err).__name__)
    return _answer(request, 500, "An internal error; it is in the log of the node.", {})


def _answer(request: Request, status: int, reason: str, headers: Mapping[str, str]) -> Response:
    """A refusal, as JSON for programs and as a page for people."""
    if request.url.path.startswith(_FOR_PROGRAMS):
        return JSONResponse({"error": reason}, status, headers=dict(headers))
    # A browser would ask for name and password in a window of its own.
    kept = {name: value for name, value in headers.items() if name != "www-authenticate"}
    response = pages.page(request, None, "error.html.j2", status=status, reason=reason)
    response.status_code = status
    response.headers.update(kept)
    return response
