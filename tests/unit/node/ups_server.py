"""A work list and archive on loopback: UPS-RS as PS3.18 section 11 and PS3.4 Annex CC have it, to the letter."""

from __future__ import annotations

import contextlib
import json
import re
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from pydicom.dataset import Dataset

from medseg.pacs.dicom_json import data_set, element, items_of, text_of
from medseg.pacs.workitem import Code

JSON = "application/dicom+json"
_DATE_TIME = re.compile(r"\d{14}\.\d{6}\+0000")
_RETURNED = (
    "SOPInstanceUID",
    "ProcedureStepState",
    "ScheduledWorkitemCodeSequence",
    "InputReadinessState",
    "WorklistLabel",
    "ScheduledProcedureStepPriority",
    "ScheduledProcedureStepStartDateTime",
)
Answered = tuple[int, bytes, dict[str, str]]


class Cut(Exception):
    """The connection is cut instead of an answer."""


class UpsServer:
    """Work items and instances in memory.

    `requests` are those that came; `cut_at` is the number of one whose connection is cut, `cut_after` whether it was
    heard before; `garbled` holds paths that are answered with what is no JSON.
    """

    def __init__(self) -> None:
        self.items: dict[str, dict[str, Any]] = {}
        self.transactions: dict[str, str] = {}
        self.history: dict[str, list[str]] = {}
        self.progress: list[str] = []
        self.files: dict[tuple[str, str, str], bytes] = {}
        self.requests: list[str] = []
        self.refused: list[str] = []
        self.garbled: set[str] = set()
        self.cut_at, self.cut_after = 0, False
        self.down = self.archive_down = False
        self.before_claim: Callable[[str], None] = lambda uid: None

    # What others do

    def add(
        self, uid: str, *, code: str = "LIVER", scheme: str = "99T", study: str = "", **changed: Any
    ) -> str:
        """A scheduled work item about all instances of a study that the archive has."""
        series: dict[str, list[str]] = {}
        for _study, one, instance in self.files:
            if _study == study:
                series.setdefault(one, []).append(instance)
        inputs = [input_item(study, one, found) for one, found in series.items()]
        values = {
            "SOPInstanceUID": [uid],
            "ProcedureStepState": ["SCHEDULED"],
            "InputReadinessState": ["READY"],
            "WorklistLabel": ["AI"],
            "ScheduledProcedureStepPriority": ["MEDIUM"],
            "InputInformationSequence": inputs,
        } | changed
        made = [element(keyword, *value) for keyword, value in values.items()]
        coded = Code(value=code, scheme=scheme, meaning="a kind of work").sequence(
            "ScheduledWorkitemCodeSequence"
        )
        self.items[uid] = data_set(*made, coded)
        self.history[uid] = ["SCHEDULED"]
        return uid

    def set_state(self, uid: str, state: str) -> None:
        """The manager or another performer changes a state."""
        self.items[uid] |= element("ProcedureStepState", state)
        self.history[uid].append(state)

    def state(self, uid: str) -> str:
        return text_of(self.items[uid], "ProcedureStepState")

    def ask_to_cancel(self, uid: str) -> None:
        """What a server shows that lets a performer who only asks know of a request to cancel."""
        item = data_set(element("ReasonForCancellation", "ordered by mistake"))
        self.items[uid] |= element("ProcedureStepProgressInformationSequence", item)

    def outputs(self, uid: str) -> list[Any]:
        (done,) = items_of(self.items[uid], "UnifiedProcedureStepPerformedProcedureSequence")
        return items_of(done, "OutputInformationSequence")

    # What a performer asks

    def answer(self, method: str, target: str, headers: Any, body: bytes) -> Answered:
        self.requests.append(f"{method} {target}")
        cut = len(self.requests) == self.cut_at
        if self.down or (cut and not self.cut_after):
            raise Cut
        status, content, more = self._route(method, urlsplit(target), headers, body)
        if status >= 400:
            self.refused.append(f"{status} {method} {target}")
        if cut:
            raise Cut
        return status, content, more

    def _route(self, method: str, target: Any, headers: Any, body: bytes) -> Answered:
        parts = target.path.removeprefix("/dicom-web/").split("/")
        if parts[0] == "studies" and method == "GET":
            if self.archive_down:
                raise Cut
            return self._retrieve(parts)
        if parts[0] != "workitems" or len(parts) > 3:
            return 404, b"", {}
        if target.path in self.garbled:
            return 200, b"<html>busy</html>", {}
        if JSON not in headers.get("Accept", ""):
            return 406, b"", {}
        query = parse_qs(target.query, keep_blank_values=True)
        if method == "GET":
            return self._search(query) if len(parts) == 1 else self._read(parts[1])
        if headers.get("Content-Type") != JSON:
            return 415, b"", {}
        if parts[1] not in self.items:
            return 404, b"", {}
        try:
            (given,) = json.loads(body)
            Dataset.from_json(given)
        except Exception:
            return 400, b"", {}
        if method == "PUT" and parts[2:] == ["state"]:
            return self._change(parts[1], given)
        if method == "POST" and len(parts) == 2:
            return self._update(parts[1], given, query)
        return 405, b"", {}

    def _search(self, query: dict[str, list[str]]) -> Answered:
        limit, offset = int(query.pop("limit", ["50"])[0]), int(query.pop("offset", ["0"])[0])
        found = [item for item in self.items.values() if all(_matches(item, *one) for one in query.items())]
        page = found[offset : offset + limit]
        kept = [data_set(*(_kept(item, keyword) for keyword in _RETURNED)) for item in page]
        return (200, json.dumps(kept).encode(), {"Content-Type": JSON}) if kept else (204, b"", {})

    def _read(self, uid: str) -> Answered:
        if uid not in self.items:
            return 404, b"", {}
        # CC.1.1: the Transaction UID is never told.
        return 200, json.dumps([self.items[uid]]).encode(), {"Content-Type": JSON}

    def _update(self, uid: str, given: dict[str, Any], query: dict[str, list[str]]) -> Answered:
        if set(query) - {"transaction-uid"} or "00741000" in given:
            return 400, b"", {}
        said = query.get("transaction-uid", [""])[0]
        if self.state(uid) != "IN PROGRESS" or said != self.transactions[uid]:
            return 409, b"", {}
        if text_of(given, "TransactionUID") not in ("", said):
            return 409, b"", {}
        self.items[uid] |= {tag: value for tag, value in given.items() if tag != "00081195"}
        for one in items_of(given, "ProcedureStepProgressInformationSequence"):
            if told := text_of(one, "ProcedureStepProgressDescription"):
                self.progress.append(told)
        return 200, b"", {}

    def _change(self, uid: str, given: dict[str, Any]) -> Answered:
        """PS3.4 table CC.1.1-2."""
        wanted, said = text_of(given, "ProcedureStepState"), text_of(given, "TransactionUID")
        if wanted == "IN PROGRESS":
            self.before_claim(uid)
        now = self.state(uid)
        if set(given) != {"00741000", "00081195"} or not said:
            return 400, b"", {}
        if wanted == "IN PROGRESS":
            if now != "SCHEDULED":
                return 409, b"", {}
            self.transactions[uid] = said
        elif wanted in ("COMPLETED", "CANCELED"):
            if now == "SCHEDULED" or said != self.transactions.get(uid):
                return 409, b"", {}
            if now == wanted:
                return 200, b"", {"Warning": f"299 - The UPS is already in the requested state of {now}"}
            if now != "IN PROGRESS" or not _may_end(self.items[uid], wanted):
                return 409, b"", {}
        else:
            return 400, b"", {}
        self.set_state(uid, wanted)
        return 200, b"", {}

    def _retrieve(self, parts: list[str]) -> Answered:
        wanted = parts[1::2]
        found = [file for key, file in self.files.items() if list(key[: len(wanted)]) == wanted]
        if not found:
            return 404, b"", {}
        head = b"--b\r\nContent-Type: application/dicom\r\n\r\n"
        content = b"".join(head + file + b"\r\n" for file in found) + b"--b--"
        return 200, content, {"Content-Type": 'multipart/related; type="application/dicom"; boundary=b'}


def input_item(study: str, series: str, instances: list[str], *more: dict[str, Any]) -> dict[str, Any]:
    """An item of an Input Information Sequence."""
    references = [
        data_set(
            element("ReferencedSOPClassUID", "1.2.840.10008.5.1.4.1.1.2"),
            element("ReferencedSOPInstanceUID", uid),
        )
        for uid in instances
    ]
    return data_set(
        element("TypeOfInstances", "DICOM"),
        element("StudyInstanceUID", study),
        element("SeriesInstanceUID", series),
        element("ReferencedSOPSequence", *references),
        *more,
    )


def _kept(item: dict[str, Any], keyword: str) -> dict[str, Any]:
    made = element(keyword)
    return {tag: item[tag] for tag in made if tag in item}


def _matches(item: dict[str, Any], key: str, values: list[str]) -> bool:
    sequence, _, keyword = key.rpartition(".")
    places = items_of(item, sequence) if sequence else [item]
    return any(text_of(place, keyword) in values for place in places)


def _may_end(item: dict[str, Any], state: str) -> bool:
    """Final state requirements, codes P and X of PS3.4 table CC.2.5-3."""
    if state == "CANCELED":
        told = items_of(item, "ProcedureStepProgressInformationSequence")
        return len(told) == 1 and (
            _DATE_TIME.fullmatch(text_of(told[0], "ProcedureStepCancellationDateTime")) is not None
            and _coded(told[0], "ProcedureStepDiscontinuationReasonCodeSequence")
        )
    done = items_of(item, "UnifiedProcedureStepPerformedProcedureSequence")
    return len(done) == 1 and all(
        (
            _coded(done[0], "PerformedStationNameCodeSequence"),
            _coded(done[0], "PerformedWorkitemCodeSequence"),
            _DATE_TIME.fullmatch(text_of(done[0], "PerformedProcedureStepStartDateTime")),
            _DATE_TIME.fullmatch(text_of(done[0], "PerformedProcedureStepEndDateTime")),
            items_of(done[0], "OutputInformationSequence"),
            all(map(_accessible, items_of(done[0], "OutputInformationSequence"))),
        )
    )


def _coded(item: Any, keyword: str) -> bool:
    codes = [Code.read(one) for one in items_of(item, keyword)]
    return bool(codes) and all(code.value and code.scheme and code.meaning for code in codes)


def _accessible(output: Any) -> bool:
    """PS3.3 table 10-3b: what of which class, and one way at least to have it."""
    references = items_of(output, "ReferencedSOPSequence")
    names = ("ReferencedSOPClassUID", "ReferencedSOPInstanceUID")
    ways = [
        *(text_of(one, "RetrieveAETitle") for one in items_of(output, "DICOMRetrievalSequence")),
        *(text_of(one, "RetrieveURL") for one in items_of(output, "WADORSRetrievalSequence")),
    ]
    return (
        text_of(output, "TypeOfInstances") == "DICOM"
        and all(text_of(output, name) for name in ("StudyInstanceUID", "SeriesInstanceUID"))
        and bool(references)
        and all(text_of(one, name) for one in references for name in names)
        and bool(ways)
        and all(ways)
    )


@contextlib.contextmanager
def ups_server(server: UpsServer) -> Iterator[str]:
    """The base URL of a server that runs."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            try:
                status, content, headers = server.answer(self.command, self.path, self.headers, body)
            except Cut:
                self.close_connection = True
                return
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            if status != 204:
                self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_POST = do_PUT = do_GET

        def log_message(self, *_args: object) -> None:
            pass

    listening = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    listening.daemon_threads = True
    thread = threading.Thread(target=listening.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listening.server_address[1]}/dicom-web"
    finally:
        listening.shutdown()
        listening.server_close()
        thread.join()
