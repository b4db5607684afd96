"""Results: the report in a sandbox, everything else as a download."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Request
from fastapi.responses import Response

from medseg.node.view_rows import ResultRow
from medseg.node.web.gate import Needs, Visitor, web_of
from medseg.node.web.replies import REPORT_POLICY, Refused
from medseg.privacy import safe_name

router = APIRouter()
PAGE_KINDS = ("html", "html_zh")


@router.get("/reports/{result_id}")
def report(request: Request, visitor: Annotated[Visitor, Depends(Needs("view"))], result_id: int) -> Response:
    """The page of a case, as the job wrote it; its scripts run without the rights of this site."""
    found = _result(request, result_id)
    if found.kind not in PAGE_KINDS:
        raise Refused(404, "There is no such report.")
    content = web_of(request).view.content(found)
    return Response(
        content, media_type="text/html; charset=utf-8", headers={"content-security-policy": REPORT_POLICY}
    )


@router.get("/results/{result_id}")
def download(
    request: Request, visitor: Annotated[Visitor, Depends(Needs("act"))], result_id: int
) -> Response:
    """A file of a job; it names the patient, so operators alone have it, and the audit log says who."""
    found = _result(request, result_id)
    web = web_of(request)
    content = web.view.content(found)
    web.audit.record(
        "download",
        account=visitor.account.name,
        address=visitor.address,
        job=found.job_id,
        kind=found.kind,
    )
    name = safe_name(f"job-{found.job_id}-{found.name}")
    kind = "application/dicom" if found.name.endswith(".dcm") else "application/octet-stream"
    headers = {
        "content-disposition": f'attachment; filename="{name}"',
        "content-security-policy": "sandbox; default-src 'none'",
    }
    return Response(content, media_type=kind, headers=headers)


def _result(request: Request, result_id: int) -> ResultRow:
    found = web_of(request).view.result(result_id) if result_id > 0 else None
    if found is None:
        raise Refused(404, "There is no such file; it may have been removed after its time.")
    return found
