"""The pages: jobs, a job, studies, deliveries, the system."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any
from urllib.parse import urlencode

from fastapi import APIRouter, Depends, Request
from fastapi.responses import HTMLResponse, Response

from medseg.node.tables import JOB_STATES, STUDY_STATES
from medseg.node.view import DELIVERY_ACTIONS, DeliveryFilter, JobFilter, Rows, Span, StudyFilter, job_actions
from medseg.node.web.assets import address
from medseg.node.web.filters import WantedDeliveries, WantedJobs, WantedSpan, WantedStudies
from medseg.node.web.gate import Needs, Visitor, web_of
from medseg.node.web.probes import reasons_not_ready
from medseg.node.web.replies import Refused
from medseg.pacs.outbox_table import DELIVERY_STATES

router = APIRouter()
Viewer = Annotated[Visitor, Depends(Needs("view"))]

_SAID = {
    "ok": "Done.",
    "late": "Nothing was done: it is in another state by now.",
}
VERDICT_NAMES = ("fail", "review", "note", "pass")


@router.get("/", response_class=HTMLResponse)
def jobs_page(request: Request, visitor: Viewer, wanted: WantedJobs, span: WantedSpan) -> Response:
    """The queue."""
    view = web_of(request).view
    found = view.jobs(wanted, span, identify=visitor.account.may("act"))
    overview = view.overview()
    return page(
        request,
        visitor,
        "jobs.html.j2",
        wanted=wanted,
        found=found,
        overview=overview,
        tiles=_tiles(overview.jobs),
        undelivered=_undelivered(overview.deliveries),
        rules=view.rules,
        states=JOB_STATES,
        verdicts=VERDICT_NAMES,
        filtered=wanted != JobFilter(),
        around=_around(found, state=wanted.state, rule=wanted.rule, verdict=wanted.verdict, q=wanted.text),
    )


@router.get("/jobs/{job_id}", response_class=HTMLResponse)
def job_page(request: Request, visitor: Viewer, job_id: int) -> Response:
    """One job."""
    view = web_of(request).view
    job = view.job(job_id)
    if job is None:
        raise Refused(404, "There is no such job; it may have been removed after its time.")
    files = view.results_of(job_id)
    return page(
        request,
        visitor,
        "job.html.j2",
        job=job,
        files=files,
        reports=[file for file in files if file.kind in ("html", "html_zh")],
        deliveries=view.deliveries(DeliveryFilter(), Span(limit=200), job_id=job_id).rows,
    )


@router.get("/studies", response_class=HTMLResponse)
def studies_page(request: Request, visitor: Viewer, wanted: WantedStudies, span: WantedSpan) -> Response:
    """What came in."""
    found = web_of(request).view.studies(wanted, span, identify=visitor.account.may("act"))
    return page(
        request,
        visitor,
        "studies.html.j2",
        found=found,
        q=wanted.text,
        state=wanted.state,
        states=STUDY_STATES,
        around=_around(found, q=wanted.text, state=wanted.state),
        filtered=wanted != StudyFilter(),
    )


@router.get("/deliveries", response_class=HTMLResponse)
def deliveries_page(
    request: Request, visitor: Viewer, wanted: WantedDeliveries, span: WantedSpan
) -> Response:
    """What goes out."""
    view = web_of(request).view
    found = view.deliveries(wanted, span)
    return page(
        request,
        visitor,
        "deliveries.html.j2",
        found=found,
        destination=wanted.destination,
        state=wanted.state,
        counts=view.overview().deliveries,
        next_tries=view.next_tries(),
        states=DELIVERY_STATES,
        around=_around(found, destination=wanted.destination, state=wanted.state),
        filtered=wanted != DeliveryFilter(),
    )


@router.get("/system", response_class=HTMLResponse)
def system_page(request: Request, visitor: Viewer) -> Response:
    """How the node is, and who was turned away."""
    view = web_of(request).view
    return page(
        request,
        visitor,
        "system.html.j2",
        live=view.live(),
        overview=view.overview(),
        reasons=reasons_not_ready(view),
        nodes=view.nodes(),
        worklists=view.worklists,
        items=view.work_items(),
        refusals=view.refused_lately(),
    )


def page(request: Request, visitor: Visitor | None, template: str, **values: Any) -> Response:
    """A page as HTML, with what all of them show."""
    web = web_of(request)
    session = None if visitor is None else visitor.session
    common = {
        "node": web.view.name,
        "now": web.view.clock.now(),
        "path": request.url.path,
        "here": _here(request),
        "account": None if visitor is None or web.accounts.open else visitor.account,
        "may_act": visitor is not None and visitor.account.may("act"),
        "form_token": "" if session is None else web.sessions.form_token(session),
        "said": _SAID.get(request.query_params.get("said", ""), ""),
        "job_actions": job_actions,
        "delivery_actions": DELIVERY_ACTIONS,
        "asset": address,
    }
    html = web.pages.get_template(template).render(common | values)
    response = HTMLResponse(html)
    if visitor is not None and visitor.new_cookie:
        set_cookie(request, response, visitor.new_cookie)
    return response


def set_cookie(request: Request, response: Response, value: str) -> None:
    """Give the browser its session, out of reach of scripts and of other sites; "" takes it back."""
    web = web_of(request)
    response.set_cookie(
        web.cookie,
        value,
        max_age=int(web.sessions.lasts_s) if value else 0,
        httponly=True,
        secure=web.secure,
        samesite="strict",
    )


def _here(request: Request) -> str:
    """Where an action leads back to."""
    query = urlencode([(name, value) for name, value in request.query_params.multi_items() if name != "said"])
    return request.url.path + (f"?{query}" if query else "")


def _around(found: Rows[Any], **filters: str) -> dict[str, str]:
    """Addresses of the rows before and behind those that are shown; "" where there are none."""
    kept = {name: value for name, value in filters.items() if value}
    span = found.span

    def at(offset: int) -> str:
        return "?" + urlencode(kept | {"limit": str(span.limit), "offset": str(offset)})

    return {
        "newer": at(max(0, span.offset - span.limit)) if span.offset else "",
        "older": at(span.offset + span.limit) if found.more else "",
    }


def _tiles(jobs: Mapping[str, int]) -> list[tuple[str, int, str, str]]:
    """Name, number, colour and filter of what is worth a look."""
    return [
        ("queued", jobs.get("queued", 0), "note", "queued"),
        ("running", jobs.get("running", 0), "run", "running"),
        ("held for review", jobs.get("held", 0), "review", "held"),
        ("failed", jobs.get("failed", 0) + jobs.get("given_up", 0), "fail", "failed,given_up"),
        ("done", jobs.get("done", 0), "pass", "done"),
    ]


def _undelivered(deliveries: Mapping[str, Mapping[str, int]]) -> int:
    return sum(
        counts.get(state, 0) for counts in deliveries.values() for state in ("waiting", "sending", "failed")
    )
