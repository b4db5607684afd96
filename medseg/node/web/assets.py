"""Style sheet and script of the page, each under an address that changes with its content."""

from __future__ import annotations

import hashlib
from functools import cache
from importlib.resources import files

from fastapi import APIRouter
from fastapi.responses import Response

from medseg.node.web.replies import Refused

router = APIRouter()
_TYPES = {"page.css": "text/css; charset=utf-8", "page.js": "text/javascript; charset=utf-8"}


def address(name: str) -> str:
    """Where a file is found."""
    return f"/assets/{name}?v={hashlib.sha256(_content(name)).hexdigest()[:12]}"


@router.get("/assets/{name}")
async def asset(name: str) -> Response:
    """One of the two files; asked without a log-in."""
    if name not in _TYPES:
        raise Refused(404, "There is no such page.")
    headers = {"cache-control": "public, max-age=31536000, immutable"}
    return Response(_content(name), media_type=_TYPES[name], headers=headers)


@cache
def _content(name: str) -> bytes:
    return files("medseg.node.web").joinpath("assets", name).read_bytes()
