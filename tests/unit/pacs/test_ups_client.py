"""Dialects and bad manners of work lists."""

from __future__ import annotations

import json

import pytest

pytest.importorskip("httpx", reason="needs medseg[pacs]")
pytest.importorskip("pynetdicom", reason="needs medseg[pacs]")
from medseg.errors import PacsRejectedError, PacsUnreachableError
from medseg.pacs.dicom_json import element, text_of, uid_of
from medseg.pacs.ups_client import UpsClient
from medseg.pacs.workitem import progress
from tests.unit.node.ups_server import UpsServer, ups_server
from tests.unit.pacs.archives import http_archive

ITEM = element("SOPInstanceUID", "2.25.7")


class Answers(UpsServer):
    """A server that gives the same answer to everything."""

    def __init__(self, status: int, content: bytes = b"") -> None:
        super().__init__()
        self.status, self.content, self.bodies = status, content, []

    def _route(self, method, target, headers, body):
        self.bodies.append(body)
        return self.status, self.content, {}


def asked(answers: UpsServer, work, **dialect):
    with ups_server(answers) as url, http_archive(lambda body: (200, b"", {})) as other:
        options = other.options().model_copy(update={"url": url})
        return work(UpsClient(options, timeout_s=2.0, **dialect))


@pytest.mark.parametrize("content", [ITEM, [ITEM]])
def test_an_item_may_come_alone_or_in_an_array(content):
    found = asked(Answers(200, json.dumps(content).encode()), lambda client: client.read("2.25.7"))
    assert text_of(found, "SOPInstanceUID") == "2.25.7"


@pytest.mark.parametrize("status", [404, 410])
def test_an_item_that_is_gone_is_none(status: int):
    assert asked(Answers(status), lambda client: client.read("2.25.7")) is None


@pytest.mark.parametrize("content", [b"", b"[]", b"7", b"[[1]]", b"{" * 9, b"[" * 200_000, b"\xff\xfe"])
def test_what_is_no_item_is_refused_without_its_uid(content: bytes):
    with pytest.raises(PacsRejectedError) as refused:
        asked(Answers(200, content), lambda client: client.read("2.25.7"))
    assert "2.25.7" not in str(refused.value)


def test_an_answer_without_end_is_cut(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("medseg.pacs.ups_client._MAX_ANSWER", 1000)
    with pytest.raises(PacsRejectedError, match="the answer has more than"):
        asked(Answers(200, b" " * 1001), lambda client: client.read("2.25.7"))


@pytest.mark.parametrize(("number", "requests"), [(0, 1), (99, 1), (100, 2)])
def test_a_server_that_knows_no_offset_is_asked_no_third_time(number: int, requests: int):
    page = json.dumps([element("SOPInstanceUID", f"2.25.{one}") for one in range(1, number + 1)])
    answers = Answers(200, page.encode())
    assert len(asked(answers, lambda client: list(client.scheduled({})))) == number
    assert len(answers.requests) == requests


@pytest.mark.parametrize(
    ("status", "answer"), [(200, "done"), (400, "refused"), (409, "refused"), (404, "gone"), (410, "gone")]
)
def test_what_a_server_says_to_a_change(status: int, answer: str):
    def work(client: UpsClient):
        return client.change_state("2.25.7", "IN PROGRESS", "2.25.8"), client.update("2.25.7", {}, "2.25.8")

    assert asked(Answers(status), work) == (answer, answer)


@pytest.mark.parametrize(("status", "error"), [(401, PacsRejectedError), (503, PacsUnreachableError)])
def test_trouble_of_the_server_is_no_answer_to_the_change(status: int, error: type[Exception]):
    with pytest.raises(error, match=str(status)):
        asked(Answers(status), lambda client: client.change_state("2.25.7", "COMPLETED", "2.25.8"))


def test_a_transaction_is_told_in_two_dialects():
    changes = progress(5, "begun")
    for bare, query, in_body in ((False, "transaction-uid=2.25.8", "2.25.8"), (True, "2.25.8", "")):
        answers = Answers(200)
        asked(
            answers,
            lambda client: client.update("2.25.7", changes, "2.25.8"),
            bare_transaction_uid=bare,
        )
        (target,), (body,) = answers.requests, answers.bodies
        assert target == f"POST /dicom-web/workitems/2.25.7?{query}"
        (given,) = json.loads(body)
        assert text_of(given, "TransactionUID") == in_body
        assert changes.items() <= given.items()


@pytest.mark.parametrize(
    "value", ["", "1..2", "1.2/../3", "1.2\n3", "x", "1." * 40 + "1", 7, None, {}, ["1.2"]]
)
def test_what_is_no_uid_is_none(value):
    assert uid_of({"0020000D": {"vr": "UI", "Value": [value]}}, "StudyInstanceUID") == ""
    assert uid_of({"0020000D": value}, "StudyInstanceUID") == ""
