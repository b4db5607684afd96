"""HTTP archives that answer oddly, falsely, without an end, or send elsewhere."""

from __future__ import annotations

import gzip
import json

import pytest

pytest.importorskip("pynetdicom", reason="needs medseg[pacs]")
pytest.importorskip("httpx", reason="needs medseg[pacs]")

from medseg.errors import PacsRejectedError, PacsUnreachableError
from medseg.pacs.dicomweb_client import DicomwebClient, DicomwebSender
from medseg.pacs.options import DicomwebDestination, HttpServerOptions, SecretOptions
from tests.unit.pacs.archives import http_archive, outgoing
from tests.unit.pacs.raw_http import raw_http

FILES = [outgoing(number) for number in range(2)]
UIDS = [file.sop_instance_uid for file in FILES]
JSON = {"Content-Type": "application/dicom+json"}
OK = b"HTTP/1.1 200 OK\r\n"


def item(uid, **reasons) -> dict:
    tags = {"warning": "00081196", "failure": "00081197"}
    said = {tags[name]: {"vr": "US", "Value": [value]} for name, value in reasons.items()}
    return {"00081155": {"vr": "UI", "Value": [uid]}} | said


def message(stored=(), failed=()) -> bytes:
    lists = {"00081199": list(stored), "00081198": list(failed)}
    return json.dumps({tag: {"vr": "SQ", "Value": items} for tag, items in lists.items() if items}).encode()


def send(status: int, content: bytes, headers: dict[str, str] = JSON) -> list[tuple[str, str]]:
    with http_archive(lambda body: (status, content, headers)) as archive:
        answers = DicomwebSender(archive.options()).send(FILES)
    return [(answer.state, answer.reason) for answer in answers]


@pytest.mark.parametrize("status", [200, 202, 409])
def test_what_is_said_to_be_stored_and_failed_has_failed(status: int):
    both = message([item(uid) for uid in UIDS], [item(UIDS[1], failure=0xC000)])
    assert [state for state, _ in send(status, both)] == ["sent", "refused"]


def test_a_warning_is_told():
    stored = [item(UIDS[0], warning=0xB000), item(UIDS[1], warning=0xB007)]
    expected = [("sent", "stored with warning B000"), ("sent", "stored with warning B007")]
    assert send(202, message(stored)) == expected


def test_an_answer_about_other_instances_is_no_success():
    answers = send(200, message([item("1.2.3"), item(UIDS[0])]))
    assert answers == [("sent", ""), ("again", "answered 200 without a word on this instance")]


@pytest.mark.parametrize(
    ("kind", "content", "state"),
    [
        ("text/html", b"<html>log in</html>", "again"),
        ("", b"<html>log in</html>", "again"),
        ("application/dicom+json", b"{", "again"),
        ("application/dicom+xml; charset=utf-8", b"<NativeDicomModel/>", "sent"),
        ("application/dicom+json", b"{}", "sent"),
        ("text/html", b"", "sent"),
    ],
)
def test_a_page_sent_with_success_is_no_success(kind: str, content: bytes, state: str):
    assert {state for state, _ in send(200, content, {"Content-Type": kind})} == {state}


@pytest.mark.parametrize("reason", [0xA700, 0xA7FF, 0x0213])
def test_an_archive_without_room_is_asked_again(reason: int):
    failed = message(failed=[item(uid, failure=reason) for uid in UIDS])
    assert send(409, failed) == [("again", f"the archive answered with failure {reason:04X}")] * 2


@pytest.mark.parametrize("value", [[1], {"a": 1}, None, 7, 1e999, "1.2" * 1000])
def test_odd_values_in_an_answer_are_passed_over(value):
    odd = [item(value), 3, None, item(UIDS[0])]
    assert [state for state, _ in send(202, message(odd, odd[:3]))] == ["sent", "again"]


@pytest.mark.parametrize("reason", ["x", -1, 10**30, None, [5], 1.5])
def test_an_odd_reason_is_a_failure(reason):
    answers = send(409, message(failed=[item(uid, failure=reason) for uid in UIDS]))
    assert answers == [("refused", "the archive answered with failure 0000")] * 2


@pytest.mark.parametrize(
    ("said", "wait"), [("7", 7.0), ("0", None), ("-1", None), ("soon", None), ("", None)]
)
def test_an_archive_says_when_to_come_again_but_not_at_once(said: str, wait: float | None):
    with http_archive(lambda body: (503, b"", {"Retry-After": said})) as archive:
        answers = DicomwebSender(archive.options()).send(FILES)
    assert [(answer.state, answer.retry_after_s) for answer in answers] == [("again", wait)] * 2


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_not_followed(status: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PACS_TOKEN", "hidden")
    with http_archive(lambda body: (200, b"[]", JSON)) as canary:
        headers = {"Location": canary.options().url}
        with http_archive(lambda body: (status, b"", headers)) as archive:
            options = archive.options(token=SecretOptions(env="PACS_TOKEN"))
            assert {answer.state for answer in DicomwebSender(options).send(FILES)} == {"again"}
            with pytest.raises(PacsRejectedError, match="a redirect"):
                DicomwebSender(options).echo()
        assert canary.headers == []


BOMB = gzip.compress(b" " * 10_000_000)


@pytest.mark.parametrize("encoding", ["gzip", "gzip, gzip", "deflate", "br", "zstd", "x"])
def test_a_packed_answer_is_not_unpacked(encoding: str):
    headers = JSON | {"Content-Encoding": encoding}
    with http_archive(lambda body: (200, BOMB, headers)) as archive:
        client = DicomwebClient(archive.options(), timeout_s=2)
        with pytest.raises(PacsRejectedError, match="answers packed"):
            client.find("/studies", {})
        assert {answer.state for answer in DicomwebSender(archive.options()).send(FILES)} == {"again"}
        assert {headers["Accept-Encoding"] for headers in archive.headers} == {"identity"}


PART = b"--b\r\nContent-Type: application/dicom\r\n\r\nfile\r\n"
MULTIPART = OK + b"Content-Type: multipart/related; boundary=b\r\n\r\n"


def client(url: str) -> DicomwebClient:
    return DicomwebClient(HttpServerOptions(url=url), timeout_s=2)


@pytest.mark.parametrize(
    "head",
    [OK + b"\r\n", OK + b"Transfer-Encoding: chunked\r\n\r\n"],
    ids=["until closed", "chunked"],
)
def test_an_answer_without_an_end_is_not_read_to_it(head: bytes, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("medseg.pacs.dicomweb_client._MAX_ANSWER", 100_000)
    piece = b"10000\r\n" + bytes(0x10000) + b"\r\n" if b"chunked" in head else bytes(0x10000)
    with (
        raw_http(head, for_ever=piece) as server,
        pytest.raises(PacsRejectedError, match="more than 100000 bytes"),
    ):
        client(server.url).find("/studies", {})


def test_what_follows_the_last_boundary_is_not_read_to_its_end():
    with raw_http(MULTIPART, PART, b"--b--\r\n", for_ever=bytes(0x10000)) as server:
        assert list(client(server.url).retrieve("/studies/1.2", part_limit=100)) == [b"file"]


@pytest.mark.parametrize(
    "pieces",
    [(), (b"--b\r\nContent-Type: x\r\n\r\n",), (b"--b\r\nA: ",), (b"--b",)],
    ids=["preamble", "part", "head", "boundary"],
)
def test_a_part_without_an_end_is_not_read_to_it(pieces):
    with (
        raw_http(MULTIPART, *pieces, for_ever=b"x" * 0x10000) as server,
        pytest.raises(PacsRejectedError, match=r"more than 100 bytes|no boundary|followed by something"),
    ):
        list(client(server.url).retrieve("/studies/1.2", part_limit=100))


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"HTTP/1.1 200",
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"HTTP/1.1 99999 x\r\n\r\n",
        OK + b"Content-Length: 100\r\n\r\n[]",
        OK + b"Content-Length: -5\r\n\r\n[]",
        OK + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n[]",
        OK + b"Transfer-Encoding: chunked\r\n\r\nFFFFFFFFFFFFFFFFFFFF\r\n[]",
        OK + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n[]",
        OK + b"X: " + b"y" * 1_000_000 + b"\r\n\r\n[]",
        OK + b"X: y\r\n" * 100_000 + b"\r\n[]",
    ],
    ids=range(11),
)
def test_what_is_no_answer_of_http_is_none(answer: bytes):
    with raw_http(answer) as server:
        with pytest.raises(PacsUnreachableError, match="does not answer"):
            client(server.url).find("/studies", {})
        sender = DicomwebSender(DicomwebDestination(url=server.url, timeout=2.0))
        assert {answer.state for answer in sender.send(FILES)} == {"again"}
