"""The same as JSON, for programs."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request

from medseg.node.view import DeliveryFilter, Rows, Span
from medseg.node.view_rows import JobRow
from medseg.node.web.actions import Operator, act
from medseg.node.web.filters import WantedDeliveries, WantedJobs, WantedSpan, WantedStudies
from medseg.node.web.gate import Needs, Visitor, web_of
from medseg.node.web.probes import reasons_not_ready
from medseg.node.web.replies import Refused

router = APIRouter(prefix="/api")
Viewer = Annotated[Visitor, Depends(Needs("view"))]
_FOR_OPERATORS = ("study_uid", "series_uid", "description")


@router.get("/status")
def status(request: Request, visitor: Viewer) -> dict[str, Any]:
    """Numbers at a glance."""
    view = web_of(request).view
    reasons = reasons_not_ready(view)
    return {"name": view.name, "ready": not reasons, "reasons": reasons} | asdict(view.overview())


@router.get("/jobs")
def jobs(request: Request, visitor: Viewer, wanted: WantedJobs, span: WantedSpan) -> dict[str, Any]:
    """Jobs, the newest first."""
    identify = visitor.account.may("act")
    found = web_of(request).view.jobs(wanted, span, identify=identify)
    return _listed(found, [_job(row, identify) for row in found.rows])


@router.get("/jobs/{job_id}")
def job(request: Request, visitor: Viewer, job_id: int) -> dict[str, Any]:
    """One job with its files and deliveries."""
    view = web_of(request).view
    found = view.job(job_id)
    if found is None:
        raise Refused(404, "There is no such job.")
    files = [{**asdict(file), "name": file.name} for file in view.results_of(job_id)]
    for file in files:
        del file["path"]
    sent = [asdict(row) for row in view.deliveries(DeliveryFilter(), Span(limit=200), job_id=job_id).rows]
    return _job(found, visitor.account.may("act")) | {"files": files, "deliveries": sent}


@router.get("/studies")
def studies(request: Request, visitor: Viewer, wanted: WantedStudies, span: WantedSpan) -> dict[str, Any]:
    """Studies, the one that grew last first."""
    found = web_of(request).view.studies(wanted, span, identify=visitor.account.may("act"))
    return _listed(found, [asdict(row) for row in found.rows])


@router.get("/deliveries")
def deliveries(
    request: Request, visitor: Viewer, wanted: WantedDeliveries, span: WantedSpan
) -> dict[str, Any]:
    """Deliveries, the newest first."""
    found = web_of(request).view.deliveries(wanted, span)
    return _listed(found, [asdict(row) for row in found.rows])


@router.get("/work-items")
def work_items(request: Request, visitor: Viewer) -> dict[str, Any]:
    """Claimed work items, those that are not at their end first."""
    rows = [asdict(row) for row in web_of(request).view.work_items()]
    if not visitor.account.may("act"):
        for row in rows:
            del row["workitem_uid"]
    return {"rows": rows}


@router.post("/jobs/{job_id}/{action}")
def act_on_job(request: Request, visitor: Operator, job_id: int, action: str) -> dict[str, Any]:
    """Release, hold, retry, repeat or cancel a job."""
    return {"done": act(request, visitor, "jobs", job_id, action)}


@router.post("/deliveries/{delivery_id}/{action}")
def act_on_delivery(request: Request, visitor: Operator, delivery_id: int, action: str) -> dict[str, Any]:
    """Retry or cancel a delivery."""
    return {"done": act(request, visitor, "deliveries", delivery_id, action)}


def _job(row: JobRow, identify: bool) -> dict[str, Any]:
    found = asdict(row)
    if not identify:
        for name in _FOR_OPERATORS:
            del found[name]
    return found


def _listed(found: Rows[Any], rows: list[dict[str, Any]]) -> dict[str, Any]:
    return {"rows": rows, "limit": found.span.limit, "offset": found.span.offset, "more": found.more} | (
        {"note": found.note} if found.note else {}
    )
