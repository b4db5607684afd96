"""Archives that are asked for studies, and answer oddly, falsely, without an end, or not at all."""

from __future__ import annotations

import itertools
import logging
import threading
import time

import pytest

pytest.importorskip("pynetdicom", reason="needs medseg[pacs]")
from pydicom.dataset import Dataset
from pynetdicom.dimse_primitives import C_FIND, C_GET, C_MOVE
from pynetdicom.sop_class import BasicTextSRStorage

from medseg.errors import PacsRejectedError, PacsUnreachableError
from medseg.pacs import query as query_module
from medseg.pacs.query import FoundStudy, QueryClient
from tests.unit.node.listening import STUDY, ct_slice
from tests.unit.pacs.query_archives import nothing, one_match, query_archive

# The archives of these tests are made with values that pydicom warns of.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


def client(peer, *, timeout_s: float = 5.0, **more) -> QueryClient:
    return QueryClient(peer, timeout_s=timeout_s, **more)


def answering(*matches: Dataset):
    def find(event):
        for match in matches:
            yield 0xFF00, match

    return find


@pytest.mark.parametrize(
    "uid", ["", "*", "1.2.*", "1.2\\1.3", "1..2", "../..", "1." + "2" * 70, None], ids=repr
)
def test_a_match_without_a_valid_uid_is_never_asked_for(uid):
    bad = one_match(NumberOfStudyRelatedInstances=3)
    if uid is not None:
        bad.StudyInstanceUID = uid
    good = one_match(StudyInstanceUID="1.2.3", NumberOfStudyRelatedInstances=4)
    with query_archive(find=answering(bad, good)) as peer:
        assert client(peer).find_studies({}) == [FoundStudy(study_uid="1.2.3", instances=4)]


@pytest.mark.parametrize("said", ["x", "-4", "1\\2", "9" * 12, "1.5", ""])
def test_an_odd_number_of_instances_is_not_believed(said: str):
    match = one_match(StudyInstanceUID="1.2.3")
    # Of another VR, so that it goes over the line as it is.
    match.add_new(0x00201208, "LO", said)
    with query_archive(find=answering(match)) as peer:
        (found,) = client(peer).find_studies({})
    assert found.study_uid == "1.2.3"
    assert found.instances in (None, 1)


def test_thousands_of_matches_are_read():
    matches = [one_match(StudyInstanceUID=f"1.2.{number}") for number in range(1, 2001)]
    with query_archive(find=answering(*matches)) as peer:
        assert len(client(peer).find_studies({})) == 2000


def test_endless_matches_are_not_read_for_ever(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(query_module, "_MOST_FOUND", 50)
    stop = threading.Event()

    def endless(event):
        for number in itertools.count(1):
            if stop.is_set() or event.assoc.is_aborted:
                return
            yield 0xFF00, one_match(StudyInstanceUID=f"1.2.{number}")

    with query_archive(find=endless) as peer:
        with pytest.raises(PacsRejectedError, match="more than 50 matches; ask for fewer days"):
            client(peer).find_studies({})
        stop.set()


def test_instances_are_counted_by_their_uids():
    asked: list[Dataset] = []

    def find(event):
        asked.append(event.identifier)
        if event.identifier.QueryRetrieveLevel == "SERIES":
            for uid in ("1.1", "1.2", "1.2", "", "*"):
                yield 0xFF00, one_match(SeriesInstanceUID=uid)
            yield 0xFF00, one_match()
        else:
            for uid in ("9.1", "9.2", "9.2"):
                yield 0xFF00, one_match(SOPInstanceUID=f"{event.identifier.SeriesInstanceUID}.{uid}")

    with query_archive(find=find) as peer:
        assert client(peer).count_instances(STUDY) == 4
    assert [each.SeriesInstanceUID for each in asked[1:]] == ["1.1", "1.2"]


def test_a_late_answer_to_one_query_is_none_to_the_next():
    asked: list[int] = []

    def find(event):
        asked.append(event.request.MessageID)
        if len(asked) == 1:
            yield 0xFF00, one_match(SeriesInstanceUID="1.1")
            return
        # The query before is told once more that it has its end.
        late = C_FIND()
        late.MessageIDBeingRespondedTo, late.Status = asked[0], 0x0000
        late.AffectedSOPClassUID = event.request.AffectedSOPClassUID
        event.assoc.dimse.send_msg(late, event.context.context_id)
        yield 0xFF00, one_match(SOPInstanceUID="9.1")

    with query_archive(find=find) as peer:
        assert client(peer).count_instances(STUDY) == 1


@pytest.mark.parametrize("status", [0xA700, 0xA900, 0xC001, 0xFE00, 0xB001, 0x0122])
def test_a_query_that_fails_is_said(status: int):
    def find(event):
        yield 0xFF00, one_match(StudyInstanceUID="1.2.3")
        yield status, None

    with (
        query_archive(find=find) as peer,
        pytest.raises(PacsRejectedError, match=f"answered C-FIND with status {status:04X}"),
    ):
        client(peer).find_studies({})


def test_a_query_that_is_aborted_is_no_end_of_the_matches():
    def find(event):
        yield 0xFF01, one_match(StudyInstanceUID="1.2.3")
        event.assoc.abort()
        yield 0xFF01, one_match(StudyInstanceUID="1.2.4")

    with (
        query_archive(find=find) as peer,
        pytest.raises(PacsUnreachableError, match="ended C-FIND before it was done"),
    ):
        client(peer).find_studies({})


class Stored:
    def __init__(self, *statuses: int) -> None:
        self.uids: list[str] = []
        self.statuses = list(statuses)

    def __call__(self, data_set: bytes, syntax: str, sop_class_uid: str, sop_instance_uid: str) -> int:
        self.uids.append(sop_instance_uid)
        return self.statuses.pop(0) if self.statuses else 0x0000


def giving(*images: Dataset, said: int | None = None):
    def get(event):
        yield len(images) if said is None else said
        for image in images:
            yield 0xFF00, image

    return get


def report(number: int) -> Dataset:
    """An object that is no image."""
    made = ct_slice(number)
    made.SOPClassUID = BasicTextSRStorage
    del made.PixelData
    return made


def test_a_report_in_the_study_is_taken_and_passed_over():
    stored, images = Stored(), [ct_slice(1), report(2), ct_slice(3)]
    with query_archive(get=giving(*images)) as peer:
        assert client(peer).get_study(STUDY, stored) == 3
    assert stored.uids == [images[0].SOPInstanceUID, images[2].SOPInstanceUID]


def test_every_context_of_a_get_is_in_one_request():
    offered = (*query_module.IMAGES, *query_module._OTHERS)
    assert len(set(offered)) == len(offered) <= 127


def test_doubled_instances_are_one():
    with query_archive(get=giving(ct_slice(1), ct_slice(1))) as peer:
        assert client(peer).get_study(STUDY, Stored()) == 1


def test_a_get_that_says_success_and_gives_nothing_gave_nothing():
    with query_archive(get=giving(said=0)) as peer:
        assert client(peer).get_study(STUDY, Stored()) == 0


def test_instances_that_are_refused_have_not_come():
    with (
        query_archive(get=giving(ct_slice(1), ct_slice(2))) as peer,
        pytest.raises(PacsUnreachableError, match="1 instance could not be had by C-GET"),
    ):
        client(peer).get_study(STUDY, Stored(0xA900))


def test_an_instance_above_the_limit_ends_the_get():
    stored = Stored()
    with (
        query_archive(get=giving(ct_slice(1), ct_slice(2))) as peer,
        pytest.raises(PacsRejectedError, match=r"sent an answer or instance of more than 1 kB"),
    ):
        client(peer, instance_limit=1000).get_study(STUDY, stored)
    assert stored.uids == []


def last_words(kind, status: int, **numbers: int):
    """A C-GET or C-MOVE whose only answer is a status with numbers of sub-operations."""

    def answer(event):
        said = kind()
        said.MessageIDBeingRespondedTo, said.Status = event.request.MessageID, status
        said.AffectedSOPClassUID = event.request.AffectedSOPClassUID
        for name, number in numbers.items():
            setattr(said, f"NumberOf{name}Suboperations", number)
        event.assoc.dimse.send_msg(said, event.context.context_id)
        yield from nothing(event)

    return answer


@pytest.mark.parametrize(
    ("status", "numbers", "moved"),
    [
        (0x0000, {"Completed": 3, "Failed": 0}, 3),
        (0x0000, {"Completed": 0}, 0),
        (0x0000, {}, None),
        (0xB000, {"Completed": 2, "Warning": 1, "Failed": 0}, 3),
    ],
)
def test_what_a_move_says_that_it_did(status: int, numbers: dict[str, int], moved: int | None):
    with query_archive(move=last_words(C_MOVE, status, **numbers)) as peer:
        assert client(peer).move_study(STUDY, "MEDSEG") == moved


@pytest.mark.parametrize(
    ("status", "numbers", "error"),
    [
        (0xB000, {"Completed": 2, "Failed": 1}, PacsUnreachableError),
        (0xB000, {}, PacsUnreachableError),
        (0x0000, {"Completed": 2, "Failed": 1}, PacsUnreachableError),
        (0xA801, {}, PacsRejectedError),
        (0xFE00, {"Completed": 1}, PacsRejectedError),
        (0xB007, {"Completed": 1}, PacsRejectedError),
        (0xC123, {}, PacsRejectedError),
    ],
)
@pytest.mark.parametrize(("kind", "name"), [(C_MOVE, "move"), (C_GET, "get")])
def test_a_retrieval_that_failed_is_said(kind, name: str, status: int, numbers: dict[str, int], error):
    with query_archive(**{name: last_words(kind, status, **numbers)}) as peer:
        asked = client(peer)
        retrieve = {"move": asked.move_study, "get": asked.get_study}[name]
        with pytest.raises(error):
            retrieve(STUDY, {"move": "MEDSEG", "get": Stored()}[name])


def test_an_answer_to_another_message_ends_no_move():
    def move(event):
        said = C_MOVE()
        said.MessageIDBeingRespondedTo, said.Status = event.request.MessageID + 1, 0x0000
        said.AffectedSOPClassUID = event.request.AffectedSOPClassUID
        event.assoc.dimse.send_msg(said, event.context.context_id)
        yield from last_words(C_MOVE, 0xA702)(event)

    with query_archive(move=move) as peer, pytest.raises(PacsRejectedError, match="status A702"):
        client(peer).move_study(STUDY, "MEDSEG")


def test_a_silent_archive_is_waited_for_as_long_as_said():
    done = threading.Event()

    def silent(event):
        done.wait(20)
        yield 0x0000, None

    begun = time.monotonic()
    with query_archive(find=silent) as peer:
        with pytest.raises(PacsUnreachableError, match="ended C-FIND before it was done"):
            client(peer, timeout_s=0.5).find_studies({})
        took = time.monotonic() - begun
        done.set()
    assert took < 8


def test_nothing_of_an_answer_stands_in_a_log(caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.DEBUG)
    match = one_match(StudyInstanceUID="no-uid-Doe^Jane", PatientName="Doe^Jane")
    with query_archive(find=answering(match)) as peer:
        assert client(peer).find_studies({"StudyDescription": "x"}) == []
    assert "Doe" not in caplog.text
