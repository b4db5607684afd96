"""UPS-RS from the side of a performer (DICOM PS3.18 section 11): search, retrieve, claim, update, end."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, Literal

import httpx

from medseg.errors import PacsRejectedError
from medseg.pacs.dicom_json import JsonDataSet, data_set, element, text_of
from medseg.pacs.dicomweb_client import DicomwebClient, read_bounded
from medseg.pacs.options import HttpServerOptions

_JSON = "application/dicom+json"
_PAGE = 100
_PAGES = 20
_MAX_ANSWER = 16 << 20
_GONE = (404, 410)
# PS3.18 11.6.3 and 11.7.3: 409 for a wrong state or Transaction UID; some servers say 400.
_REFUSED = (400, 409)

Answer = Literal["done", "refused", "gone"]
"""done; refused: not ours, not in that state, or without what the state needs; gone: there is no such item."""

State = Literal["IN PROGRESS", "COMPLETED", "CANCELED"]


class UpsClient:
    """A work list that is served over UPS-RS. No text of an error names a work item.

    Parameters
    ----------
    options : HttpServerOptions
        Base URL and how to log in.
    timeout_s : float
        Longest silence.
    bare_transaction_uid : bool
        The query of an update is the Transaction UID and nothing else, and the body lacks it.
    """

    def __init__(
        self, options: HttpServerOptions, *, timeout_s: float, bare_transaction_uid: bool = False
    ) -> None:
        self._client = DicomwebClient(options, timeout_s=timeout_s)
        self._bare = bare_transaction_uid

    def scheduled(self, keys: Mapping[str, str]) -> Iterator[JsonDataSet]:
        """Scheduled work items that match, page by page, to an end.

        Raises
        ------
        PacsUnreachableError, PacsRejectedError
        """
        first = None
        for number in range(_PAGES):
            window = {"limit": str(_PAGE), "offset": str(number * _PAGE)}
            page = self._page({"ProcedureStepState": "SCHEDULED"} | dict(keys) | window)
            begin = text_of(page[0], "SOPInstanceUID") if page else ""
            # A server that knows no offset gives its first page again.
            if not page or (number and begin == first):
                return
            first = first or begin
            yield from page
            if len(page) < _PAGE:
                return

    def read(self, workitem_uid: str) -> JsonDataSet | None:
        """A work item; None where the server has none of that UID.

        Raises
        ------
        PacsUnreachableError, PacsRejectedError
            Also where the answer is malformed.
        """
        with self._client.request("GET", f"/workitems/{workitem_uid}", headers={"Accept": _JSON}) as answer:
            if answer.status_code in _GONE:
                return None
            self._client.check(answer)
            found = _parsed(answer)
        # One data set, or an array of it.
        found = found[0] if isinstance(found, list) and found else found
        if not isinstance(found, Mapping):
            raise PacsRejectedError(f"{self._client.url} answered with no work item")
        return found

    def change_state(self, workitem_uid: str, state: State, transaction_uid: str) -> Answer:
        """Claim a work item, or end it (PS3.18 11.7).

        Raises
        ------
        PacsUnreachableError
            Whether it has happened is not known.
        PacsRejectedError
        """
        body = data_set(element("ProcedureStepState", state), element("TransactionUID", transaction_uid))
        return self._send("PUT", f"/workitems/{workitem_uid}/state", body)

    def update(self, workitem_uid: str, changes: Mapping[str, Any], transaction_uid: str) -> Answer:
        """Write attributes of a work item in progress (PS3.18 11.6).

        Raises
        ------
        PacsUnreachableError, PacsRejectedError
        """
        path, said = f"/workitems/{workitem_uid}", element("TransactionUID", transaction_uid)
        if self._bare:
            return self._send("POST", f"{path}?{transaction_uid}", changes)
        return self._send("POST", f"{path}?transaction-uid={transaction_uid}", data_set(changes, said))

    def _page(self, params: Mapping[str, str]) -> list[JsonDataSet]:
        with self._client.request("GET", "/workitems", params=params, headers={"Accept": _JSON}) as answer:
            self._client.check(answer)
            found = _parsed(answer)
        if found is None:
            return []
        if not isinstance(found, list):
            raise PacsRejectedError(f"{self._client.url} answered a search with no list of work items")
        return [item if isinstance(item, Mapping) else {} for item in found]

    def _send(self, method: str, path: str, body: Mapping[str, Any]) -> Answer:
        headers = {"Accept": _JSON, "Content-Type": _JSON}
        content = json.dumps([body]).encode()
        with self._client.request(method, path, content=content, headers=headers) as answer:
            if answer.status_code in _GONE:
                return "gone"
            if answer.status_code in _REFUSED:
                return "refused"
            self._client.check(answer)
        return "done"


def _parsed(answer: httpx.Response) -> Any:
    """The JSON of an answer, None where it has no content."""
    content = read_bounded(answer, _MAX_ANSWER)
    try:
        return json.loads(content) if content else None
    except (ValueError, RecursionError) as err:
        raise PacsRejectedError("the answer of the work list is not JSON") from err
