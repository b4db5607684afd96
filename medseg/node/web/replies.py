"""Refusals of the HTTP side, and the headers of every reply."""

from __future__ import annotations

from collections.abc import Mapping

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
"""Content-Security-Policy of the page: its own files and nothing else."""

REPORT_POLICY = (
    "sandbox allow-scripts allow-downloads allow-modals; default-src 'none'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'; img-src data: blob:; style-src 'unsafe-inline'; connect-src data: blob:; "
    "script-src 'unsafe-inline' 'wasm-unsafe-eval' blob: data:; worker-src blob:; font-src data:"
)
"""Of a report: in a sandbox without the page's origin. The report's own policy, which names its scripts by their
digests, holds as well."""

HEADERS: Mapping[str, str] = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    # With no-referrer, browsers send `Origin: null` with the page's own forms.
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), microphone=(), geolocation=(), payment=(), usb=()",
    "cache-control": "no-store",
}
"""What every reply carries unless it says otherwise."""

STRICT_TRANSPORT = "max-age=31536000"


class Refused(Exception):
    """A request that is not honoured.

    Parameters
    ----------
    status : int
        HTTP status.
    reason : str
        One sentence for whoever asked; it quotes nothing of the request.
    headers : mapping of str to str, optional
    """

    def __init__(self, status: int, reason: str, *, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(reason)
        self.status, self.reason, self.headers = status, reason, dict(headers or {})
