"""What archives answer, and what the sender makes of it."""

from __future__ import annotations

import json
import socket
import threading
import time
from pathlib import Path

import pytest

pytest.importorskip("pynetdicom", reason="needs medseg[pacs]")
from pydicom.uid import ImplicitVRLittleEndian, RLELossless
from pynetdicom.sop_class import MRImageStorage
from pynetdicom.transport import AssociationSocket

from medseg.errors import ConfigError, PacsRejectedError, PacsUnreachableError
from medseg.pacs.dicomweb_client import DicomwebClient, DicomwebSender
from medseg.pacs.dimse_client import DimseSender
from medseg.pacs.options import DicomwebDestination, DimseDestination, SecretOptions
from medseg.pacs.secret import read_secret
from tests.unit.pacs.archives import dimse_archive, http_archive, outgoing


def states(answers) -> list[str]:
    return [answer.state for answer in answers]


def test_a_batch_goes_in_one_association_and_arrives():
    with dimse_archive() as archive:
        files = [outgoing(number) for number in range(3)]
        answers = DimseSender(archive.options()).send(files)
        assert states(answers) == ["sent"] * 3
        assert archive.taken == [file.sop_instance_uid for file in files]


@pytest.mark.parametrize(
    ("status", "state", "reason"),
    [
        (0xB000, "sent", "stored with warning B000"),
        (0xA700, "again", "out of resources (status A700)"),
        (0xA900, "refused", "refused it with status A900"),
        (0xC123, "refused", "refused it with status C123"),
    ],
)
def test_each_status_is_judged(status: int, state: str, reason: str):
    with dimse_archive(lambda event: status) as archive:
        (answer,) = DimseSender(archive.options()).send([outgoing(1)])
        assert answer.state == state
        assert reason in answer.reason


def test_what_an_archive_does_not_take_is_refused_alone():
    with dimse_archive() as archive:
        answers = DimseSender(archive.options()).send([outgoing(1, sop_class=MRImageStorage), outgoing(2)])
        assert states(answers) == ["refused", "sent"]
        assert "does not take MR Image Storage" in answers[0].reason


def test_an_archive_that_takes_implicit_alone_gets_implicit():
    with dimse_archive(syntaxes=[ImplicitVRLittleEndian]) as archive:
        assert states(DimseSender(archive.options()).send([outgoing(1)])) == ["sent"]


def test_an_archive_that_takes_neither_native_syntax_is_told():
    with dimse_archive(syntaxes=[RLELossless]) as archive:
        (answer,) = DimseSender(archive.options()).send([outgoing(1)])
        assert answer.state == "again"
        assert "accepts none of CT Image Storage" in answer.reason


def test_a_peer_that_hangs_up_at_once_is_not_called_silent():
    def hang_up(event) -> int:
        event.assoc.abort()
        return 0

    with dimse_archive(hang_up) as archive:
        (answer,) = DimseSender(archive.options()).send([outgoing(1)])
        assert answer.state == "again"
        assert "ended the association" in answer.reason


def test_a_peer_that_hangs_up_in_the_middle_loses_nothing():
    def hang_up(event) -> int:
        if len(archive.taken) == 1:
            event.assoc.abort()
        return 0

    with dimse_archive(hang_up) as archive:
        answers = DimseSender(archive.options()).send([outgoing(number) for number in range(4)])
        assert answers[0].state == "sent"
        assert set(states(answers[2:])) == {"again"}


# pynetdicom leaves the socket of a connection that failed to the garbage collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_silent_peer_and_a_closed_port_are_tried_again():
    with socket.create_server(("127.0.0.1", 0)) as silent:
        options = DimseDestination(
            host="127.0.0.1", port=silent.getsockname()[1], called_ae_title="X", timeout=0.3
        )
        assert states(DimseSender(options).send([outgoing(1)])) == ["again"]
        port = silent.getsockname()[1]
    closed = DimseDestination(host="127.0.0.1", port=port, called_ae_title="X", timeout=0.3)
    with pytest.raises(
        PacsUnreachableError, match=r"does not answer.*host and port, and whether it wants TLS"
    ):
        DimseSender(closed).echo()


@pytest.mark.parametrize("host", ["no.such.host", "a..b"])
def test_a_host_that_nobody_knows_is_tried_again(monkeypatch: pytest.MonkeyPatch, host: str):
    def look_up(name, *more, **options):
        if name == "no.such.host":
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return known(name, *more, **options)

    known = socket.getaddrinfo
    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    sender = DimseSender(DimseDestination(host=host, called_ae_title="X", timeout=1.0))
    (answer,) = sender.send([outgoing(1)])
    assert answer.state == "again"
    with pytest.raises(
        PacsUnreachableError, match=r"does not answer: (Name or service not known|it is no name)"
    ):
        sender.echo()


def test_a_refusal_that_is_over_before_anybody_looks_is_heard(monkeypatch: pytest.MonkeyPatch):
    class LateEvent(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            there = super().wait(timeout)
            time.sleep(0.5)
            return there

    make = AssociationSocket.__init__

    def make_late(line: AssociationSocket, *given, **named) -> None:
        make(line, *given, **named)
        line._ready = LateEvent()

    monkeypatch.setattr(AssociationSocket, "__init__", make_late)
    with dimse_archive() as archive:
        sender = DimseSender(archive.options(called_ae_title="OTHER"))
        with pytest.raises(PacsRejectedError, match="refused the association"):
            sender.echo()


def test_a_wrong_ae_title_waits_for_a_person():
    with dimse_archive() as archive:
        sender = DimseSender(archive.options(called_ae_title="OTHER"))
        (answer,) = sender.send([outgoing(1)])
        assert answer.state == "again"
        with pytest.raises(PacsRejectedError, match="refused the association"):
            sender.echo()
        DimseSender(archive.options()).echo()


def message(stored=(), failed=()) -> bytes:
    content = {}
    if stored:
        content["00081199"] = {"vr": "SQ", "Value": [{"00081155": {"Value": [uid]}} for uid in stored]}
    if failed:
        content["00081198"] = {
            "vr": "SQ",
            "Value": [{"00081155": {"Value": [uid]}, "00081197": {"Value": [code]}} for uid, code in failed],
        }
    return json.dumps(content).encode()


FILES = [outgoing(number) for number in range(3)]
UIDS = [file.sop_instance_uid for file in FILES]


@pytest.mark.parametrize(
    ("status", "content", "expected"),
    [
        (200, message(stored=UIDS), ["sent", "sent", "sent"]),
        (200, b"", ["sent", "sent", "sent"]),
        (202, message(UIDS[:1], [(UIDS[1], 0xA900), (UIDS[2], 0xA700)]), ["sent", "refused", "again"]),
        (202, message(UIDS[:1]), ["sent", "again", "again"]),
        (409, message(failed=[(uid, 0xC000) for uid in UIDS]), ["refused"] * 3),
        (409, b"not json", ["again"] * 3),
        (202, b"[" * 200_000, ["again"] * 3),
        (202, b"[7]", ["again"] * 3),
        (401, b"", ["again"] * 3),
        (503, b"", ["again"] * 3),
        (302, b"", ["again"] * 3),
        (413, b"", ["refused"] * 3),
    ],
)
def test_each_answer_to_stow_is_judged(status: int, content: bytes, expected: list[str]):
    headers = {"Location": "http://127.0.0.1:1/elsewhere", "Retry-After": "7"}
    with http_archive(lambda body: (status, content, headers)) as archive:
        answers = DicomwebSender(archive.options()).send(FILES)
        assert states(answers) == expected
        if status == 503:
            assert {answer.retry_after_s for answer in answers} == {7.0}


@pytest.mark.parametrize(
    ("status", "advice"),
    [
        (401, "user, password or token are not accepted"),
        (404, "no DICOMweb at this URL"),
        (405, "takes STOW-RS alone has no queries"),
        (302, "set the URL that it leads to"),
    ],
)
def test_a_status_comes_with_what_to_do(status: int, advice: str):
    with http_archive(lambda body: (status, b"", {})) as archive:
        (answer,) = DicomwebSender(archive.options()).send(FILES[:1])
        assert f"answered {status}" in answer.reason
        assert advice in answer.reason


def test_https_to_a_server_without_tls_says_so():
    with http_archive(lambda body: (200, b"", {})) as archive:
        options = archive.options().model_copy(
            update={"url": archive.options().url.replace("http:", "https:")}
        )
        with pytest.raises(PacsUnreachableError, match="what listens there speaks no TLS"):
            DicomwebSender(options).echo()


def test_stow_carries_the_files_as_they_are_and_the_login(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PACS_TOKEN", "hidden")
    with http_archive(lambda body: (200, b"", {})) as archive:
        options = archive.options(token=SecretOptions(env="PACS_TOKEN"))
        DicomwebSender(options).send(FILES)
        assert all(file.content in archive.bodies[0] for file in FILES)
        assert archive.headers[0]["Authorization"] == "Bearer hidden"


@pytest.mark.parametrize("content", [b"<html>", b"[" * 200_000, b"\xff"])
def test_an_answer_without_json_is_said(content: bytes):
    with (
        http_archive(lambda body: (200, content, {})) as archive,
        pytest.raises(PacsRejectedError, match="not JSON"),
    ):
        DicomwebClient(archive.options(), timeout_s=2).find("/studies", {})


def test_an_endless_answer_is_not_read(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("medseg.pacs.dicomweb_client._MAX_ANSWER", 1000)
    with http_archive(lambda body: (200, bytes(2000), {})) as archive:
        (answer,) = DicomwebSender(archive.options()).send(FILES[:1])
        assert (answer.state, answer.reason) == ("again", "the answer has more than 1000 bytes")


def test_a_url_with_a_password_in_it_is_refused():
    with pytest.raises(ValueError, match="url"):
        DicomwebDestination(url="https://me:secret@pacs.example.org/")


@pytest.mark.parametrize("content", ["", "  \n"])
def test_an_empty_secret_is_refused(tmp_path: Path, content: str):
    (tmp_path / "key").write_text(content)
    (tmp_path / "key").chmod(0o600)
    with pytest.raises(ConfigError, match="is empty"):
        read_secret(SecretOptions(file=tmp_path / "key"), field="token")


def test_a_secret_that_everybody_may_read_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "key").write_text("hidden\n")
    (tmp_path / "key").chmod(0o644)
    with pytest.raises(ConfigError, match="everybody may read") as refused:
        read_secret(SecretOptions(file=tmp_path / "key"), field="token")
    assert "hidden" not in str(refused.value)
    (tmp_path / "key").chmod(0o600)
    assert read_secret(SecretOptions(file=tmp_path / "key"), field="token") == "hidden"
    monkeypatch.delenv("NOT_SET", raising=False)
    with pytest.raises(ConfigError, match="NOT_SET is not set"):
        read_secret(SecretOptions(env="NOT_SET"), field="token")
