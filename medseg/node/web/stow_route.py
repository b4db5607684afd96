"""Where studies come in by HTTP: STOW-RS (DICOM PS3.18 10.5)."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Request
from fastapi.responses import Response

from medseg.node.arrival import Peer
from medseg.node.web.gate import Needs, Visitor, web_of
from medseg.node.web.replies import Refused

router = APIRouter(prefix="/dicom-web")


Sender = Annotated[Visitor, Depends(Needs("send"))]


@router.post("/studies")
async def store(request: Request, visitor: Sender) -> Response:
    """Take the instances of a request in, of whatever studies they are."""
    return await _store(request, visitor, "")


@router.post("/studies/{study_uid}")
async def store_in_study(request: Request, visitor: Sender, study_uid: str) -> Response:
    """Take instances of one study in; those of others are refused."""
    return await _store(request, visitor, study_uid)


async def _store(request: Request, visitor: Visitor, study_uid: str) -> Response:
    taken = web_of(request).store
    if taken is None:
        raise Refused(404, "This node takes no studies by STOW-RS; see http.stow.")
    encoding = request.headers.get("content-encoding", "identity")
    if encoding.strip().lower() not in ("", "identity"):
        raise Refused(415, "Send it without Content-Encoding.", headers={"accept-encoding": "identity"})
    peer = Peer(route="stow", name=visitor.account.name, address=visitor.address)
    kind = request.headers.get("content-type", "")
    answer = await taken(kind, request.stream(), peer, study_uid)
    headers = {"retry-after": "60"} if answer.status in (503, 507) else {}
    return Response(answer.body, answer.status, media_type=answer.content_type, headers=headers)
