"""Where studies come in by HTTP: STOW-RS (DICOM PS3.18 10.5)."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Request
from fastapi.responses import Response

from medseg.node.arrival import Peer
from medseg.node.web.gate import Needs, Visitor, web_of
from medseg.node.web.replies import Refused

router = APIRouter(prefix="/dicom-web")


@router.post("/studies")
async def store(request: Request, visitor: Annotated[Visitor, Depends(Needs("send"))]) -> Response:
    """Take the instances of a request in, of whatever studies they are."""
    taken = web_of(request).store
    if taken is None:
        raise Refused(404, "This node takes no studies by STOW-RS; see http.stow.")
    peer = Peer(route="stow", name=visitor.account.name, address=visitor.address)
    kind = request.headers.get("content-type", "")
    status, body, content_type = await taken(kind, request.stream(), peer)
    headers = {"retry-after": "60"} if status in (503, 507) else {}
    return Response(body, status, media_type=content_type, headers=headers)
