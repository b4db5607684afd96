"""Archives that give something else than they were asked for: it is refused, and asked for again."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest

pytest.importorskip("pynetdicom", reason="needs medseg[pacs]")
pytest.importorskip("httpx", reason="needs medseg[pacs]")
from pydicom import dcmwrite
from pydicom.dataset import Dataset
from pydicom.uid import generate_uid

from medseg.errors import PacsRejectedError, PacsUnreachableError
from medseg.node import source_options
from medseg.node.sources.dicomweb import DicomwebSource
from medseg.node.sources.dimse import DimseSource
from medseg.node.sources.marks import Marks
from medseg.node.tables import instances
from tests.unit.node.listening import STUDY, Listener, ct_slice
from tests.unit.node.turned_clock import TurnedClock
from tests.unit.pacs.archives import http_archive
from tests.unit.pacs.query_archives import one_match, query_archive

OTHER = generate_uid()


@pytest.fixture
def node(tmp_path: Path):
    made = Listener(tmp_path)
    yield made
    made.stop()


def held(node: Listener) -> set[str]:
    return {row["sop_instance_uid"] for row in node.rows(instances)}


def uids(*images: Dataset) -> set[str]:
    return {str(image.SOPInstanceUID) for image in images}


def parts(node: Listener) -> dict:
    clock = TurnedClock()
    return {
        "intake": node.intake,
        "marks": Marks(node.database, clock, "source"),
        "clock": clock,
        "file_limit": 1 << 20,
    }


def dimse_source(node: Listener, peer, **changed) -> DimseSource:
    where = {"host": peer.host, "port": peer.port, "called_ae_title": peer.called_ae_title}
    return DimseSource(source_options.DimseSource(name="source", **where, **changed), **parts(node))


def one_study(count: int | None):
    def find(event):
        match = one_match(StudyInstanceUID=STUDY)
        if count is not None:
            match.NumberOfStudyRelatedInstances = count
        yield 0xFF00, match

    return find


def giving(*images: Dataset):
    def get(event):
        yield len(images)
        for image in images:
            yield 0xFF00, image

    return get


def test_a_get_that_gives_another_study_is_refused_and_tried_again(node: Listener):
    good, other = ct_slice(1), ct_slice(2, study=OTHER)
    with query_archive(find=one_study(2), get=giving(good, other)) as peer:
        source = dimse_source(node, peer)
        with pytest.raises(PacsUnreachableError, match="1 instance could not be had by C-GET"):
            source.look()
        assert held(node) == uids(good)
        for _ in range(4):
            with pytest.raises(PacsUnreachableError):
                source.look()
        assert source.look() == 0
    assert any("of another study" in line.get("reason", "") for line in node.audit_lines())


def test_a_get_that_gives_less_than_was_found_is_tried_again(node: Listener):
    images = [ct_slice(1)]

    def get(event):
        yield from giving(*images)(event)

    with query_archive(find=one_study(2), get=get) as peer:
        source = dimse_source(node, peer)
        with pytest.raises(PacsUnreachableError, match="1 of 2 instances of a study came"):
            source.look()
        images.append(ct_slice(2))
        assert source.look() == 1
        assert source.look() == 0
    assert held(node) == uids(*images)


def test_a_move_that_moves_nothing_is_tried_again(node: Listener):
    with query_archive(find=one_study(2)) as peer:
        source = dimse_source(node, peer, retrieve="move")
        with pytest.raises((PacsUnreachableError, PacsRejectedError)):
            source.look()
        with pytest.raises((PacsUnreachableError, PacsRejectedError)):
            source.look()


def as_file(image: Dataset) -> bytes:
    stream = io.BytesIO()
    dcmwrite(stream, image, enforce_file_format=True)
    return stream.getvalue()


class WebArchive:
    """Answers QIDO-RS with `found` and WADO-RS with `files`."""

    def __init__(self, found, files=(), *, end: bytes = b"--b--", status: int = 200) -> None:
        self.found, self.files, self.end, self.status = found, list(files), end, status
        self.content_type = 'multipart/related; type="application/dicom"; boundary=b'
        self.asked: list[str] = []

    def answer(self, body: bytes, path: str) -> tuple[int, bytes, dict[str, str]]:
        self.asked.append(path)
        where = path.split("?")[0]
        if where.endswith("/dicom-web/studies"):
            found = self.found if isinstance(self.found, bytes) else json.dumps(self.found).encode()
            return 200, found if "offset=0" in path else b"[]", {}
        if where.endswith("/instances"):
            return 404, b"", {}
        head = b"--b\r\nContent-Type: application/dicom\r\n\r\n"
        content = b"".join(head + file + b"\r\n" for file in self.files) + self.end
        return self.status, content, {"Content-Type": self.content_type}


@pytest.fixture
def web(node: Listener):
    """Makes a source that asks a `WebArchive`."""
    with http_archive(lambda body, path: archives[-1].answer(body, path)) as server:
        archives: list[WebArchive] = []

        def made(archive: WebArchive) -> DicomwebSource:
            archives.append(archive)
            options = source_options.DicomwebSource(name="source", url=server.options().url)
            return DicomwebSource(options, **parts(node))

        yield made


def study(uid=STUDY, count=2):
    return {"0020000D": {"vr": "UI", "Value": [uid]}, "00201208": {"vr": "IS", "Value": [count]}}


@pytest.mark.parametrize("uid", ["*", "1.2.*", "../../patients", "", 7, None, {"a": 1}, ["1.2"], "1." * 40])
def test_a_study_without_a_valid_uid_is_never_asked_for(node: Listener, web, uid):
    archive = WebArchive([study(uid), 3, None, [study()]])
    assert web(archive).look() == 0
    assert all(path.startswith("/dicom-web/studies?") for path in archive.asked)


def test_urls_in_answers_are_never_called(node: Listener, web):
    with http_archive(lambda body: (200, b"", {})) as canary:
        url = canary.options().url
        found = study() | {"00081190": {"vr": "UR", "Value": [url]}, "7FE00010": {"BulkDataURI": url}}
        image = ct_slice(1)
        image.RetrieveURL = url
        assert web(WebArchive([found], [as_file(image), as_file(ct_slice(2))])).look() == 2
        assert canary.bodies == []


def test_files_of_another_study_are_refused_and_asked_for_again(node: Listener, web):
    good, other = ct_slice(1), ct_slice(2, study=OTHER)
    source = web(WebArchive([study()], [as_file(good), as_file(other)]))
    with pytest.raises(PacsUnreachableError, match="1 of 2 instances of a study came"):
        source.look()
    assert held(node) == uids(good)


def test_what_will_never_be_read_is_not_asked_for_again(node: Listener, web):
    source = web(WebArchive([study()], [as_file(ct_slice(1)), b"no DICOM"]))
    assert source.look() == 1
    assert source.look() == 0


def test_doubled_files_do_not_stand_for_missing_ones(node: Listener, web):
    source = web(WebArchive([study()], [as_file(ct_slice(1))] * 2))
    with pytest.raises(PacsUnreachableError, match="1 of 2 instances"):
        source.look()


@pytest.mark.parametrize("end", [b"", b"--b\r\n", b"--b--"], ids=["cut", "half", "whole"])
def test_a_message_without_its_end_is_not_whole(node: Listener, web, end: bytes):
    source = web(WebArchive([study(count=1)], [as_file(ct_slice(1))], end=end))
    if end == b"--b--":
        assert source.look() == 1
        return
    with pytest.raises(PacsRejectedError, match="truncated"):
        source.look()
    with pytest.raises(PacsRejectedError, match="truncated"):
        source.look()


@pytest.mark.parametrize("kind", ["text/html", "", "multipart/related", "application/json"])
def test_an_answer_that_is_no_multipart_message_is_said(node: Listener, web, kind: str):
    archive = WebArchive([study()], [as_file(ct_slice(1))])
    archive.content_type = kind
    with pytest.raises(PacsRejectedError, match=r"multipart/related with a boundary"):
        web(archive).look()


def test_a_study_that_cannot_be_counted_holds_no_other_up(node: Listener, web):
    uncounted = {"0020000D": {"vr": "UI", "Value": [OTHER]}}
    source = web(WebArchive([uncounted, study()], [as_file(ct_slice(1)), as_file(ct_slice(2))]))
    with pytest.raises(PacsRejectedError, match="answered 404"):
        source.look()
    assert held(node) == uids(ct_slice(1), ct_slice(2))


@pytest.mark.parametrize(
    "content", [b'{"a": 1}', b"[NaN, -Infinity, 1e999]", b"null", b'"x"', b'[{"0020000D": NaN}]']
)
def test_answers_without_a_study_end_a_look(node: Listener, web, content: bytes):
    assert web(WebArchive(content)).look() == 0


@pytest.mark.parametrize(
    "content", [b"[" * 100_000, b"<html>", b"[" + b"9" * 5000], ids=["deep", "html", "huge"]
)
def test_answers_that_are_no_json_are_said(node: Listener, web, content: bytes):
    with pytest.raises(PacsRejectedError, match="an answer is not JSON"):
        web(WebArchive(content)).look()


@pytest.mark.parametrize("count", [-1, 1.5, "x", True, 10**30, [2], None, "2"])
def test_an_odd_number_of_instances_is_asked_for(node: Listener, web, count):
    files = [as_file(ct_slice(1)), as_file(ct_slice(2))]
    source = web(WebArchive([study(count=count)], files))
    if count == "2":
        assert source.look() == 2
        return
    with pytest.raises(PacsRejectedError, match="answered 404"):
        source.look()
