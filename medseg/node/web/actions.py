"""What a person does: log in and out, and act on jobs and deliveries. Each act is written to the audit log."""

from __future__ import annotations

from typing import Annotated, Any
from urllib.parse import urlsplit

from fastapi import APIRouter, Depends, Form, Request
from fastapi.responses import RedirectResponse, Response
from starlette.concurrency import run_in_threadpool

from medseg.node.view import DELIVERY_ACTIONS, JOB_ACTIONS
from medseg.node.web.gate import Needs, Visitor, address_of, log_in, web_of
from medseg.node.web.pages import page, set_cookie
from medseg.node.web.replies import Refused

router = APIRouter()
Operator = Annotated[Visitor, Depends(Needs("act"))]
_SEE_OTHER = 303


@router.get("/login")
def login_page(request: Request, next: str = "/") -> Response:
    """The form to log in."""
    if web_of(request).accounts.open:
        return RedirectResponse("/", _SEE_OTHER)
    return page(request, None, "login.html.j2", next=own_path(next), name="", problem="")


@router.post("/login")
async def login(
    request: Request,
    name: Annotated[str, Form(max_length=64)] = "",
    token: Annotated[str, Form(max_length=1024)] = "",
    next: Annotated[str, Form(max_length=512)] = "/",
) -> Response:
    """Begin a session."""
    web = web_of(request)
    if web.accounts.open:
        return RedirectResponse("/", _SEE_OTHER)
    try:
        account = await log_in(request, name, token)
        if not account.may("view"):
            raise Refused(403, f"The role {account.role} has no page.")
    except Refused as refused:
        shown = page(request, None, "login.html.j2", next=own_path(next), name=name, problem=refused.reason)
        shown.status_code = refused.status
        wait = refused.headers.get("retry-after")
        if wait is not None:
            shown.headers["retry-after"] = wait
        return shown
    await run_in_threadpool(
        web.audit.record, "log_in", account=account.name, outcome="accepted", address=address_of(request)
    )
    response = RedirectResponse(own_path(next), _SEE_OTHER)
    set_cookie(request, response, web.sessions.begin(account)[1])
    return response


@router.post("/logout")
def logout(request: Request, visitor: Annotated[Visitor, Depends(Needs("view"))]) -> Response:
    """End the session; its cookie is worth nothing from now on."""
    web = web_of(request)
    if visitor.session is not None:
        web.sessions.end(visitor.session)
    web.audit.record("log_out", account=visitor.account.name, address=visitor.address)
    response = RedirectResponse("/login", _SEE_OTHER)
    set_cookie(request, response, "")
    return response


@router.post("/jobs/{job_id}/{action}")
def act_on_job(
    request: Request, visitor: Operator, job_id: int, action: str, back: Annotated[str, Form()] = "/"
) -> Response:
    """Release, hold, retry, repeat or cancel a job."""
    return _back(back, act(request, visitor, "jobs", job_id, action))


@router.post("/deliveries/{delivery_id}/{action}")
def act_on_delivery(
    request: Request, visitor: Operator, delivery_id: int, action: str, back: Annotated[str, Form()] = "/"
) -> Response:
    """Retry or cancel a delivery."""
    return _back(back, act(request, visitor, "deliveries", delivery_id, action))


def act(request: Request, visitor: Visitor, what: str, number: int, action: str) -> bool:
    """Do it, and say in the audit log who did; whether anything was done.

    Raises
    ------
    Refused
        There is no such action.
    """
    web = web_of(request)
    known, calls = (
        (JOB_ACTIONS, web.view.actions.jobs)
        if what == "jobs"
        else (DELIVERY_ACTIONS, web.view.actions.deliveries)
    )
    if action not in known or action not in calls or not 0 < number < 2**63:
        raise Refused(404, "There is no such action.")
    done = bool(calls[action](number))
    one = "job" if what == "jobs" else "delivery"
    details: dict[str, Any] = {one: number}
    outcome = "done" if done else "not possible"
    web.audit.record(
        f"{one}_{action}",
        account=visitor.account.name,
        outcome=outcome,
        address=visitor.address,
        **details,
    )
    return done


def own_path(text: str) -> str:
    """A path of this node to go to; anything else becomes the first page, so that no link leads elsewhere."""
    try:
        parts = urlsplit(text)
    except ValueError:
        return "/"
    safe = text.startswith("/") and not text.startswith("//") and not parts.scheme and not parts.netloc
    return text if safe and "\\" not in text and text.isprintable() and len(text) <= 512 else "/"


def _back(back: str, done: bool) -> Response:
    path = own_path(back)
    said = f"{'&' if '?' in path else '?'}said={'ok' if done else 'late'}"
    return RedirectResponse(path + said, _SEE_OTHER)
