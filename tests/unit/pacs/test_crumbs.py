"""Archives with very small PDUs, in one direction or the other."""

from __future__ import annotations

import pytest

pytest.importorskip("pynetdicom", reason="needs medseg[pacs]")

from medseg.errors import PacsRejectedError
from medseg.pacs.dimse_client import DimseSender
from medseg.pacs.query import FoundStudy, QueryClient
from tests.unit.node.listening import STUDY, ct_slice
from tests.unit.pacs.archives import dimse_archive, outgoing
from tests.unit.pacs.changed_line import changed_line, crumbs
from tests.unit.pacs.query_archives import one_match, query_archive


def test_acknowledgements_in_crumbs_are_put_together():
    files = [outgoing(1), outgoing(2)]
    with dimse_archive() as archive, changed_line(archive.port, crumbs) as line:
        answers = DimseSender(archive.options(port=line.port, timeout=20.0)).send(files)
    assert [answer.state for answer in answers] == ["sent", "sent"]


def test_matches_and_images_in_crumbs_are_put_together():
    image = ct_slice(1)
    image.Rows = image.Columns = 8
    image.PixelData = bytes(range(128))
    taken: list[bytes] = []

    def find(event):
        yield 0xFF00, one_match(StudyInstanceUID=STUDY, NumberOfStudyRelatedInstances=1)

    def get(event):
        yield 1
        yield 0xFF00, image

    with query_archive(find=find, get=get) as peer, changed_line(peer.port, crumbs) as line:
        client = QueryClient(peer.model_copy(update={"port": line.port}), timeout_s=20)
        assert client.find_studies({}) == [FoundStudy(study_uid=STUDY, instances=1)]
        assert client.get_study(STUDY, lambda data, *names: taken.append(data) or 0) == 1
    assert taken[0].endswith(bytes(range(128)))


@pytest.mark.parametrize("length", [0, 7, 64, 2**32 - 1])
def test_whatever_length_an_archive_takes_is_kept_to(length: int):
    with dimse_archive() as archive:
        archive.server.ae.maximum_pdu_size = length
        (answer,) = DimseSender(archive.options(timeout=20.0)).send([outgoing(1)])
    assert answer.state == "sent"


@pytest.mark.parametrize("length", [1, 5, 6])
def test_an_archive_that_takes_no_data_is_said(length: int):
    with dimse_archive() as archive:
        archive.server.ae.maximum_pdu_size = length
        sender = DimseSender(archive.options())
        (answer,) = sender.send([outgoing(1)])
        assert answer.state == "again"
        with pytest.raises(
            PacsRejectedError, match=f"takes PDUs of {length} bytes at most, which hold no data"
        ):
            sender.echo()
