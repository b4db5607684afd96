"""The answer to STOW-RS, read without trust: what became of each instance."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from medseg.pacs.dicom_json import JsonDataSet, items_of, number_of, text_of
from medseg.pacs.sending import Outgoing, Sent, SentState, all_answered

_XML = "application/dicom+xml"
_INSTANCE = "ReferencedSOPInstanceUID"
_OUT_OF_RESOURCES = (*range(0xA700, 0xA800), 0x0213)


def stow_answers(files: Sequence[Outgoing], content: bytes, status: int, kind: str) -> list[Sent]:
    """What the response message says of each instance.

    Parameters
    ----------
    files : sequence of Outgoing
        What was sent.
    content : bytes
        The message.
    status : int
        200, 202 or 409.
    kind : str
        Content-Type.

    References
    ----------
    DICOM PS3.18 10.5.3.
    """
    try:
        message = json.loads(content) if content else {}
    except (ValueError, RecursionError):
        if kind.partition(";")[0].strip().lower() != _XML:
            # A page to log in, or of a proxy, is often sent with 200.
            return all_answered(files, "again", f"answered {status} with something that is no DICOM JSON")
        message = {}
    if isinstance(message, list):
        message = message[0] if message else {}
    if not isinstance(message, Mapping):
        message = {}
    stored = {text_of(item, _INSTANCE): item for item in items_of(message, "ReferencedSOPSequence")}
    failed = {text_of(item, _INSTANCE): item for item in items_of(message, "FailedSOPSequence")}
    silent: SentState = "sent" if status == 200 and not (stored or failed) else "again"
    return [_one(file.sop_instance_uid, stored, failed, status, silent) for file in files]


def _one(
    uid: str,
    stored: Mapping[str, JsonDataSet],
    failed: Mapping[str, JsonDataSet],
    status: int,
    silent: SentState,
) -> Sent:
    """What became of one; `silent` where nothing is said of it. What is in both lists has failed."""
    if uid in failed:
        reason = number_of(failed[uid], "FailureReason") or 0
        again = reason in _OUT_OF_RESOURCES
        text = f"the archive answered with failure {reason:04X}"
        return Sent(sop_instance_uid=uid, state="again" if again else "refused", reason=text)
    if uid in stored:
        warning = number_of(stored[uid], "WarningReason")
        text = f"stored with warning {warning:04X}" if warning else ""
        return Sent(sop_instance_uid=uid, state="sent", reason=text)
    text = "" if silent == "sent" else f"answered {status} without a word on this instance"
    return Sent(sop_instance_uid=uid, state=silent, reason=text)
