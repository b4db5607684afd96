"""What monitors ask: alive, ready, metrics."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Request
from fastapi.responses import JSONResponse, PlainTextResponse, Response

from medseg.errors import StorageError
from medseg.node.view import NodeView
from medseg.node.web.gate import Needs, Visitor, web_of
from medseg.node.web.metrics import CONTENT_TYPE, metrics_text

router = APIRouter()


@router.get("/health")
async def health() -> Response:
    """The process lives; asked without a log-in."""
    return JSONResponse({"status": "alive"})


@router.get("/ready")
def ready(request: Request) -> Response:
    """Whether studies are taken, and if not why; asked without a log-in."""
    reasons = reasons_not_ready(web_of(request).view)
    status = "not ready" if reasons else "ready"
    return JSONResponse({"status": status, "reasons": reasons}, 503 if reasons else 200)


@router.get("/metrics")
def metrics(request: Request, visitor: Annotated[Visitor, Depends(Needs("view"))]) -> Response:
    """Counters and gauges for Prometheus."""
    view = web_of(request).view
    text = metrics_text(view.overview(), view.live(), ready=not reasons_not_ready(view))
    return PlainTextResponse(text, media_type=CONTENT_TYPE)


def reasons_not_ready(view: NodeView) -> list[str]:
    """Why the node takes no studies; empty where it does."""
    live = view.live()
    reasons = list(live.problems)
    if live.space is None:
        reasons.append("the disk of the node cannot be read")
    elif live.space.full:
        reasons.append(live.space.full)
    try:
        view.ping()
    except StorageError:
        reasons.append("the database does not answer")
    return reasons
