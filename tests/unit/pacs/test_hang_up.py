"""An archive that hangs up costs no time-out, wherever it does."""

from __future__ import annotations

import time

import pytest

pytest.importorskip("pynetdicom", reason="needs medseg[pacs]")

from medseg.pacs.dimse_client import DimseSender
from tests.unit.pacs.archives import dimse_archive, outgoing
from tests.unit.pacs.cut_line import cut_line

_FILES = [outgoing(number) for number in range(5)]
_TIMEOUT_S = 20.0


@pytest.mark.parametrize("how", ["close", "reset", "abort"])
@pytest.mark.parametrize(
    ("pdus", "more", "sent"),
    [(0, 0, 0), (0, 9, 0), (1, 0, 0), (1, 3, 0), (1, 40, 0), (3, 0, 2), (3, 60, 2), (6, 0, 5), (6, 4, 5)],
)
def test_a_cut_line_costs_no_time_out(pdus: int, more: int, sent: int, how: str):
    with dimse_archive() as archive, cut_line(archive.port, pdus=pdus, more=more, how=how) as line:
        begin = time.monotonic()
        answers = DimseSender(archive.options(port=line.port, timeout=_TIMEOUT_S)).send(_FILES)
        took = time.monotonic() - begin
    assert [answer.state for answer in answers] == ["sent"] * sent + ["again"] * (len(_FILES) - sent)
    assert all("ended the" in answer.reason for answer in answers[sent:])
    assert took < _TIMEOUT_S / 4
