"""STOW-RS (DICOM PS3.18 10.5): the instances of a request -> the intake -> a response; no web framework in it."""

from __future__ import annotations

import json
from collections.abc import AsyncIterable, Awaitable, Callable
from dataclasses import dataclass, replace
from email.message import Message
from typing import Any

from medseg.amounts import bytes_text
from medseg.node.arrival import Arrival, Budget, Peer, Receipt, Verdict
from medseg.node.part10 import arrival_of
from medseg.pacs.multipart import PartFeed, PartTooLargeError

DICOM, JSON = "application/dicom", "application/dicom+json"
_FAILURE: dict[Verdict, int] = {
    "conflict": 0x0111,
    "mismatch": 0xA900,
    "unreadable": 0xC000,
    "refused": 0x0122,
    "no_space": 0xA700,
    "too_large": 0xA700,
}
"""Failure Reason (0008,1197) of each verdict (PS3.18 table 10.5.3-1, PS3.7 Annex C)."""

Store = Callable[[Arrival], Awaitable[Receipt]]


@dataclass(frozen=True, slots=True, kw_only=True)
class StowAnswer:
    """Status, body and content type of the response."""

    status: int
    body: bytes
    content_type: str = JSON


async def store_request(
    content_type: str,
    chunks: AsyncIterable[bytes],
    *,
    store: Store,
    peer: Peer,
    part_limit: int,
    body_limit: int,
    budget: Budget,
    study_uid: str = "",
) -> StowAnswer:
    """Take in the instances of a request, each as soon as it is complete.

    Parameters
    ----------
    content_type : str
        The header of that name: multipart/related of application/dicom.
    chunks : async iterable of bytes
        The body.
    store : callable
        Takes an arrival in.
    peer : Peer
    part_limit, body_limit : int
        Most bytes of an instance, and of the request.
    budget : Budget
        Shared by all requests.
    study_uid : str
        Of the resource that was posted to; instances of other studies are refused. "": any.

    Returns
    -------
    StowAnswer
        200 all stored, 202 some, 409 none; 400 malformed, 413 too large, 415 another content type, 503 too much at
        a time, 507 no space.
    """
    if not _is_of_dicom_files(content_type):
        return _plain(415, "expected Content-Type multipart/related; type=application/dicom")
    receipts: list[Receipt] = []
    held = 0
    try:
        feed, size = PartFeed(content_type, part_limit=part_limit), 0
        async for chunk in chunks:
            size += len(chunk)
            if size > body_limit:
                return _plain(413, f"the request has more than {bytes_text(body_limit)} (http.body_limit)")
            if not budget.take(len(chunk)):
                return _plain(503, "too many instances at a time; try again")
            held += len(chunk)
            for part in feed.take(chunk):
                receipts.append(await _part(part.content_type, part.content, store, peer, study_uid))
            budget.give_back(held - feed.held)
            held = feed.held
        feed.end()
    except PartTooLargeError as err:
        return _plain(413, f"{err} (storage.instance_limit)")
    except ValueError as err:
        # What was stored of it before stays; the sender does it again, and it counts as duplicate.
        return _plain(400, str(err))
    finally:
        budget.give_back(held)
    return response(receipts)


def _is_of_dicom_files(content_type: str) -> bool:
    message = Message()
    message["Content-Type"] = content_type
    # Many senders leave the type of the parts out; some name metadata and bulk data, which would fail one by one.
    kind = message.get_param("type", DICOM)
    return message.get_content_type() == "multipart/related" and str(kind).lower() == DICOM


async def _part(kind: str, content: bytes, store: Store, peer: Peer, study_uid: str) -> Receipt:
    if kind not in (DICOM, ""):
        return Receipt(verdict="unreadable", reason="a part that is not application/dicom")
    try:
        arrival = arrival_of(content, peer)
    except ValueError as err:
        return Receipt(verdict="unreadable", reason=str(err))
    return await store(replace(arrival, study_uid=study_uid))


def response(receipts: list[Receipt]) -> StowAnswer:
    """The response message of a request (PS3.18 10.5.3)."""
    if not receipts:
        return _plain(400, "the request has no part")
    stored = [receipt for receipt in receipts if receipt.acknowledged]
    failed = [receipt for receipt in receipts if not receipt.acknowledged]
    message: dict[str, Any] = {}
    if stored:
        message["00081199"] = {"vr": "SQ", "Value": [_item(receipt) for receipt in stored]}
    if failed:
        message["00081198"] = {"vr": "SQ", "Value": [_failed(receipt) for receipt in failed]}
    full = bool(failed) and all(receipt.verdict == "no_space" for receipt in failed)
    status = 200 if not failed else 202 if stored else 507 if full else 409
    return StowAnswer(status=status, body=json.dumps(message).encode())


def _item(receipt: Receipt) -> dict[str, Any]:
    item: dict[str, Any] = {}
    if receipt.sop_class_uid:
        item["00081150"] = {"vr": "UI", "Value": [receipt.sop_class_uid]}
    if receipt.sop_instance_uid:
        item["00081155"] = {"vr": "UI", "Value": [receipt.sop_instance_uid]}
    return item


def _failed(receipt: Receipt) -> dict[str, Any]:
    return _item(receipt) | {"00081197": {"vr": "US", "Value": [_FAILURE[receipt.verdict]]}}


def _plain(status: int, text: str) -> StowAnswer:
    return StowAnswer(status=status, body=(text + "\n").encode(), content_type="text/plain; charset=utf-8")
