"""The conformance statement says what the node negotiates."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

pytest.importorskip("pynetdicom", reason="needs medseg[node]")
from pydicom.uid import UID, AllTransferSyntaxes, ExplicitVRLittleEndian
from pynetdicom import AE, AllStoragePresentationContexts, sop_class
from pynetdicom.sop_class import CTImageStorage, StorageCommitmentPushModel, Verification

from medseg.amounts import parse_bytes, parse_seconds
from medseg.node.listen_options import DimseListenOptions
from medseg.pacs.query import IMAGES
from tests.unit.node.listening import Listener

STATEMENT = " ".join(
    (Path(__file__).parents[3] / "docs" / "dicom-conformance.md").read_text(encoding="utf-8").split()
)
STORAGE = [str(context.abstract_syntax) for context in AllStoragePresentationContexts]
NO_SERVICE = [
    sop_class.StudyRootQueryRetrieveInformationModelFind,
    sop_class.StudyRootQueryRetrieveInformationModelMove,
    sop_class.StudyRootQueryRetrieveInformationModelGet,
    sop_class.ModalityWorklistInformationFind,
    sop_class.ModalityPerformedProcedureStep,
    sop_class.UnifiedProcedureStepPull,
    "1.3.12.2.1107.5.9.1",  # a maker's own class
]


@pytest.fixture
def listener(tmp_path: Path):
    opened = Listener(tmp_path)
    yield opened
    opened.stop()


def results(listener: Listener, offered: list[tuple[str, list[str]]]) -> list[tuple[int, str]]:
    """Result and transfer syntax of each context, in its order."""
    ae, found = AE(ae_title="SENDER"), []
    ae.add_requested_context(Verification)
    for abstract, syntaxes in offered:
        ae.add_requested_context(abstract, syntaxes)
    association = ae.associate("127.0.0.1", listener.server.port, ae_title="MEDSEG")
    assert association.is_established
    answers = [*association.accepted_contexts, *association.rejected_contexts]
    by_class = {str(one.abstract_syntax): one for one in answers}
    for abstract, _ in offered:
        one = by_class[abstract]
        found.append((int(one.result or 0), str(one.transfer_syntax[0]) if one.transfer_syntax else ""))
    association.release()
    return found


def test_every_storage_class_is_accepted_and_no_other_service(listener: Listener):
    for begin in range(0, len(STORAGE), 100):
        some = STORAGE[begin : begin + 100]
        answers = results(listener, [(one, [ExplicitVRLittleEndian]) for one in some])
        assert answers == [(0, ExplicitVRLittleEndian)] * len(some)
    outside = [one for one in STORAGE if not one.startswith("1.2.840.10008.5.1.4.1.1.")]
    assert all(one in STATEMENT for one in outside)
    answers = results(listener, [(one, [ExplicitVRLittleEndian]) for one in NO_SERVICE])
    assert [result for result, _ in answers] == [3] * len(NO_SERVICE)
    # For reports: there the archive calls.
    assert results(listener, [(StorageCommitmentPushModel, [ExplicitVRLittleEndian])])[0][0] == 0


def test_every_standard_transfer_syntax_is_accepted_and_the_first_that_is_known_taken(listener: Listener):
    for syntax in AllTransferSyntaxes:
        assert results(listener, [(CTImageStorage, [syntax])]) == [(0, syntax)]
    makers_own = "1.2.840.113619.5.2"
    assert results(listener, [(CTImageStorage, [makers_own])])[0][0] == 4
    known = str(AllTransferSyntaxes[-1])
    both = [makers_own, known, ExplicitVRLittleEndian]
    assert results(listener, [(CTImageStorage, both)]) == [(0, known)]


def test_the_statement_has_the_numbers_of_the_settings():
    defaults = DimseListenOptions()
    port, title = re.search(r"AE title `(\w+)` unless set otherwise, TCP port (\d+)", STATEMENT).group(2, 1)
    assert (int(port), title) == (defaults.port, defaults.ae_title)
    open_ones = re.search(r"`dimse\.max_associations`, (\d+)", STATEMENT)[1]
    assert int(open_ones) == defaults.max_associations
    pdu = re.search(r"(\d+ \w+) received \(`dimse\.max_pdu`\)", STATEMENT)[1]
    assert parse_bytes(pdu) == defaults.max_pdu
    idle = re.search(r"within `dimse\.idle_timeout`, ([\d]+ s)", STATEMENT)[1]
    assert parse_seconds(idle) == defaults.idle_timeout


def test_the_statement_names_what_c_get_asks_for():
    names = [UID(image).name.replace(" Storage", "").replace(" Image", "") for image in IMAGES]
    assert [name for name in names if name not in STATEMENT] == []
