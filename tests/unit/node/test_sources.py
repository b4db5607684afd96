"""Folders, an Orthanc's feed, DICOMweb and C-FIND: everything is taken once, and nothing is left out."""

from __future__ import annotations

import errno
import io
import json
import os
import re
from pathlib import Path

import pytest

pytest.importorskip("pynetdicom", reason="needs medseg[pacs]")
pytest.importorskip("httpx", reason="needs medseg[pacs]")
from pydicom import dcmwrite
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian
from pynetdicom import AE, evt
from pynetdicom.sop_class import (
    CTImageStorage,
    StudyRootQueryRetrieveInformationModelFind,
    StudyRootQueryRetrieveInformationModelGet,
)

from medseg.database import Database
from medseg.errors import PacsRejectedError, PacsUnreachableError, StorageError
from medseg.node import source_options
from medseg.node.arrival import Arrival, Receipt
from medseg.node.audit import Audit
from medseg.node.privacy_options import AuditOptions
from medseg.node.sources import folder as folder_module
from medseg.node.sources.archive_query import Fetched, fetch_grown
from medseg.node.sources.dicomweb import DicomwebSource
from medseg.node.sources.dimse import DimseSource
from medseg.node.sources.folder import FolderSource
from medseg.node.sources.marks import Marks
from medseg.node.sources.orthanc import OrthancSource
from medseg.node.tables import metadata
from tests.unit.node.listening import STUDY, ct_slice
from tests.unit.node.turned_clock import TurnedClock
from tests.unit.pacs.archives import http_archive


class Taken:
    """An intake that remembers; `verdicts` are its next answers."""

    def __init__(self) -> None:
        self.uids: list[str] = []
        self.verdicts: list[str] = []
        self.rejected: list[str] = []

    def accept(self, arrival: Arrival) -> Receipt:
        verdict = self.verdicts.pop(0) if self.verdicts else "stored"
        if verdict == "stored":
            self.uids.append(arrival.sop_instance_uid)
        uid = arrival.sop_instance_uid
        return Receipt(verdict=verdict, reason="the disk is full", sop_instance_uid=uid)

    def reject(self, peer, reason: str) -> None:
        self.rejected.append(reason)


def as_file(number: int) -> bytes:
    stream = io.BytesIO()
    dcmwrite(stream, ct_slice(number), enforce_file_format=True)
    return stream.getvalue()


UIDS = [str(ct_slice(number).SOPInstanceUID) for number in range(5)]


class Site:
    def __init__(self, folder: Path) -> None:
        self.folder, self.clock, self.intake = folder, TurnedClock(), Taken()
        self.database = Database.in_file(folder / "node.db", metadata)
        self.audit = Audit(folder, AuditOptions(), self.clock)
        self.drop = folder / "drop"
        self.drop.mkdir()

    def marks(self) -> Marks:
        return Marks(self.database, self.clock, "source")

    def folder_source(self, **changed) -> FolderSource:
        options = source_options.FolderSource(name="source", folder=self.drop, quiet=10.0, **changed)
        return FolderSource(
            options,
            intake=self.intake,
            marks=self.marks(),
            clock=self.clock,
            file_limit=1 << 20,
        )

    def rest(self, source, seconds: float = 11.0) -> int:
        source.look()
        self.clock.turn(seconds)
        return source.look()


@pytest.fixture
def site(tmp_path: Path):
    made = Site(tmp_path)
    yield made
    made.database.close()


def test_a_file_is_taken_when_it_rests_and_never_again(site: Site):
    source = site.folder_source()
    (site.drop / "study").mkdir()
    path = site.drop / "study" / "one.dcm"
    path.write_bytes(as_file(0)[:100])
    assert site.rest(source, 5.0) == 0
    path.write_bytes(as_file(0))
    assert site.rest(source, 5.0) == 0
    site.clock.turn(6.0)
    assert source.look() == 1
    assert site.rest(source) == 0
    assert site.rest(site.folder_source()) == 0
    assert site.intake.uids == UIDS[:1]
    path.write_bytes(as_file(1) + b"\0\0")
    assert site.rest(source) == 1


def test_taken_files_are_removed_where_that_is_asked_for(site: Site):
    source = site.folder_source(after="remove")
    (site.drop / "good").write_bytes(as_file(0))
    (site.drop / "bad").write_bytes(b"no DICOM" * 100)
    assert site.rest(source) == 1
    assert [path.name for path in site.drop.iterdir()] == ["bad"]
    assert len(site.intake.rejected) == 1
    assert "no DICOM file" in site.intake.rejected[0]


def test_links_pipes_and_hidden_files_are_left_alone(site: Site):
    (site.folder / "secret").write_bytes(as_file(0))
    (site.drop / "link").symlink_to(site.folder / "secret")
    (site.drop / "above").symlink_to(site.folder)
    (site.drop / ".half").write_bytes(as_file(1))
    os.mkfifo(site.drop / "pipe")
    assert site.rest(site.folder_source(after="remove")) == 0
    assert (site.folder / "secret").exists()


def test_without_room_a_file_stays_for_the_next_look(site: Site):
    source = site.folder_source(after="remove")
    (site.drop / "one").write_bytes(as_file(0))
    site.intake.verdicts = ["no_space"]
    with pytest.raises(StorageError, match="the disk is full"):
        site.rest(source)
    assert source.look() == 1


def test_a_file_that_cannot_be_read_waits_alone(site: Site, monkeypatch: pytest.MonkeyPatch):
    for number, name in enumerate(("a", "b", "c")):
        (site.drop / name).write_bytes(as_file(number))
    opened = folder_module.open_regular

    def refusing(path: Path):
        if path.name == "b":
            raise StorageError(f"{path} cannot be read: permission denied")
        return opened(path)

    source = site.folder_source(after="remove")
    with monkeypatch.context() as patched:
        # Root may read everything.
        patched.setattr(folder_module, "open_regular", refusing)
        assert site.rest(source) == 2
        assert source.look() == 0
    assert site.intake.uids == [UIDS[0], UIDS[2]]
    assert [path.name for path in site.drop.iterdir()] == ["b"]
    assert site.intake.rejected == []
    assert source.look() == 1
    assert site.intake.uids[-1] == UIDS[1]


def test_a_file_that_fails_while_it_is_read_waits_alone(site: Site, monkeypatch: pytest.MonkeyPatch):
    for number, name in enumerate(("a", "b")):
        (site.drop / name).write_bytes(as_file(number))
    opened = folder_module.open_regular

    class Failing(io.BytesIO):
        def fileno(self) -> int:
            raise OSError(errno.EIO, "bad sector")

    source = site.folder_source()
    with monkeypatch.context() as patched:
        patched.setattr(
            folder_module, "open_regular", lambda path: Failing() if path.name == "a" else opened(path)
        )
        assert site.rest(source) == 1
    assert source.look() == 1
    assert sorted(site.intake.uids) == sorted(UIDS[:2])


def test_a_file_that_is_too_large_is_told_once_and_left(site: Site):
    (site.drop / "large").write_bytes(as_file(0) + bytes(2 << 20))
    (site.drop / "small").write_bytes(as_file(1))
    source = site.folder_source(after="remove")
    assert site.rest(source) == 1
    assert source.look() == 0
    assert [path.name for path in site.drop.iterdir()] == ["large"]
    (sentence,) = site.intake.rejected
    assert "storage.instance_limit" in sentence


def test_a_folder_that_is_gone_is_named(site: Site):
    site.drop.rmdir()
    with pytest.raises(StorageError, match="drop is not there"):
        site.folder_source().look()


class FeedOfOrthanc:
    """Changes and files as Orthanc's REST interface gives them."""

    def __init__(self) -> None:
        self.changes: list[tuple[str, str]] = []
        self.files: dict[str, bytes] = {}
        self.asked: list[str] = []

    def add(self, number: int) -> str:
        identifier = "-".join(f"{number:08x}" for _ in range(5))
        self.changes.append(("NewInstance", identifier))
        self.files[identifier] = as_file(number)
        return identifier

    def answer(self, path: str) -> tuple[int, bytes, dict[str, str]]:
        self.asked.append(path)
        if found := re.search(r"/changes\?since=(\d+)&limit=(\d+)", path):
            since, limit = map(int, found.groups())
            page = list(enumerate(self.changes, 1))[since : since + limit]
            changes = [{"ChangeType": kind, "ID": ident, "Seq": seq} for seq, (kind, ident) in page]
            last = page[-1][0] if page else len(self.changes)
            body = {"Changes": changes, "Last": last, "Done": last == len(self.changes)}
            return 200, json.dumps(body).encode(), {}
        found = re.search(r"/instances/([0-9a-f-]+)/file", path)
        if found and found[1] in self.files:
            return 200, self.files[found[1]], {}
        return 404, b"", {}


@pytest.fixture
def feed(site: Site):
    orthanc = FeedOfOrthanc()
    with http_archive(lambda body, path: orthanc.answer(path)) as server:
        url = server.options().url.removesuffix("/dicom-web")
        options = source_options.OrthancSource(name="source", url=url)

        def made() -> OrthancSource:
            return OrthancSource(
                options, intake=site.intake, marks=site.marks(), clock=site.clock, file_limit=1 << 20
            )

        yield orthanc, made


def test_every_new_instance_of_an_orthanc_is_taken_once(site: Site, feed):
    orthanc, made = feed
    orthanc.add(0)
    orthanc.changes.append(("StableStudy", "whatever"))
    orthanc.add(1)
    assert made().look() == 2
    assert made().look() == 0
    orthanc.add(2)
    assert made().look() == 1
    assert site.intake.uids == UIDS[:3]


def test_the_place_in_the_feed_stays_until_the_instance_is_stored(site: Site, feed):
    orthanc, made = feed
    for number in range(3):
        orthanc.add(number)
    site.intake.verdicts = ["stored", "no_space"]
    with pytest.raises(StorageError):
        made().look()
    assert made().look() == 2
    assert site.intake.uids == UIDS[:3]


def test_deleted_and_odd_changes_of_a_feed_are_passed_over(site: Site, feed):
    orthanc, made = feed
    del orthanc.files[orthanc.add(0)]
    orthanc.changes.append(("NewInstance", "../../etc/passwd"))
    orthanc.add(1)
    assert made().look() == 1
    assert not any("passwd" in path for path in orthanc.asked)


def test_an_orthanc_that_begins_anew_is_read_from_its_beginning(site: Site, feed):
    orthanc, made = feed
    for number in range(3):
        orthanc.add(number)
    made().look()
    orthanc.changes.clear()
    orthanc.add(4)
    assert made().look() == 1
    assert site.intake.uids[-1] == UIDS[4]


def test_what_is_no_orthanc_is_said(site: Site):
    with http_archive(lambda body: (200, b"[]", {})) as server:
        options = source_options.OrthancSource(name="source", url=server.options().url)
        source = OrthancSource(
            options, intake=site.intake, marks=site.marks(), clock=site.clock, file_limit=1
        )
        with pytest.raises(PacsRejectedError, match="is not that of an Orthanc"):
            source.look()


def test_a_study_of_a_dicomweb_archive_is_read_again_when_it_has_grown(site: Site):
    held = [0, 1]

    def answer(body, path):
        if path.split("?")[0].endswith("/dicom-web/studies"):
            study = {"0020000D": {"Value": [STUDY]}, "00201208": {"Value": [len(held)]}}
            return 200, json.dumps([study]).encode(), {}
        head = b"--b\r\nContent-Type: application/dicom\r\n\r\n"
        parts = b"".join(head + as_file(number) + b"\r\n" for number in held) + b"--b--"
        return 200, parts, {"Content-Type": 'multipart/related; type="application/dicom"; boundary=b'}

    with http_archive(answer) as server:
        options = source_options.DicomwebSource(
            name="source", url=server.options().url, query=source_options.QueryOptions(modality=("CT", "MR"))
        )
        source = DicomwebSource(
            options, intake=site.intake, marks=site.marks(), clock=site.clock, file_limit=1 << 20
        )
        assert source.look() == 2
        assert source.look() == 0
        held.append(2)
        assert source.look() == 3


class QueryArchive:
    """Answers C-FIND with one study and C-GET with its instances."""

    def __init__(self) -> None:
        self.held, self.asked = [0, 1], []
        ae = AE(ae_title="ARCHIVE")
        ae.add_supported_context(StudyRootQueryRetrieveInformationModelFind)
        ae.add_supported_context(StudyRootQueryRetrieveInformationModelGet)
        ae.add_supported_context(CTImageStorage, ExplicitVRLittleEndian, scu_role=True, scp_role=True)
        handlers = [(evt.EVT_C_FIND, self._find), (evt.EVT_C_GET, self._get)]
        self.server = ae.start_server(("127.0.0.1", 0), block=False, evt_handlers=handlers)
        self.port = self.server.socket.getsockname()[1]

    def _find(self, event):
        self.asked.append(event.identifier)
        found = Dataset()
        found.QueryRetrieveLevel, found.StudyInstanceUID = "STUDY", STUDY
        found.NumberOfStudyRelatedInstances = len(self.held)
        yield 0xFF00, found

    def _get(self, event):
        yield len(self.held)
        for number in self.held:
            yield 0xFF00, ct_slice(number)


def test_a_study_of_an_archive_is_found_and_got_once(site: Site):
    archive = QueryArchive()
    options = source_options.DimseSource(
        name="source",
        host="127.0.0.1",
        port=archive.port,
        called_ae_title="ARCHIVE",
        query=source_options.QueryOptions(modality=("CT",), description="*thorax*"),
    )
    source = DimseSource(
        options, intake=site.intake, marks=site.marks(), clock=site.clock, file_limit=1 << 20
    )
    assert source.look() == 2
    assert source.look() == 0
    archive.held.append(2)
    site.intake.verdicts = ["duplicate", "duplicate"]
    assert source.look() == 1
    assert site.intake.uids == UIDS[:3]
    assert archive.asked[0].ModalitiesInStudy == "CT"
    assert archive.asked[0].StudyDescription == "*thorax*"
    assert re.fullmatch(r"\d{8}-\d{8}", archive.asked[0].StudyDate)
    site.intake.verdicts = ["no_space"]
    archive.held.append(3)
    with pytest.raises(StorageError, match="the disk is full"):
        source.look()
    assert source.look() == 4
    # What is refused for good is asked for no more.
    archive.held.append(4)
    site.intake.verdicts = ["refused"]
    source.look()
    assert source.look() == 0
    archive.server.shutdown()


def test_a_study_that_cannot_be_had_holds_no_other_up_and_is_left_in_the_end(site: Site):
    tried: list[str] = []

    def fetch(study: str) -> Fetched:
        tried.append(study)
        if study == "bad":
            raise PacsUnreachableError("1 instance could not be had")
        return Fetched(taken=1, came=2 if study == "half" else 3)

    def look(*studies: str) -> int:
        return fetch_grown([(study, 3) for study in studies], site.marks(), count=len, fetch=fetch)

    for number in range(8):
        if number < 5:
            with pytest.raises(PacsUnreachableError):
                look("bad", "half", f"good {number}")
        else:
            assert look("bad", "half", f"good {number}") == 1
    assert (tried.count("bad"), tried.count("half")) == (5, 5)
    assert sum(study.startswith("good") for study in tried) == 8
    with pytest.raises(PacsUnreachableError):
        fetch_grown([("bad", 4)], site.marks(), count=len, fetch=fetch)


def test_a_study_whose_instances_cannot_be_counted_holds_no_other_up(site: Site):
    def count(study: str) -> int:
        raise PacsRejectedError("no such study")

    def fetch(study: str) -> Fetched:
        return Fetched(taken=2, came=None)

    fetched: list[str] = []
    with pytest.raises(PacsRejectedError, match="no such study"):
        fetch_grown(
            [("uncounted", None), ("good", 2)],
            site.marks(),
            count=count,
            fetch=lambda study: fetched.append(study) or fetch(study),
        )
    assert fetched == ["good"]
