"""A served node that is killed while dcmtk sends to it keeps what it acknowledged, and ends each job once."""

from __future__ import annotations

import pytest

pytest.importorskip("pynetdicom", reason="needs medseg[node]")
from medseg.bench.node import kill_under_load
from medseg.bench.node_site import needed_program
from medseg.errors import MissingPackageError

pytestmark = pytest.mark.slow


def test_what_was_acknowledged_survives_kills(tmp_path):
    try:
        needed_program("storescu")
    except MissingPackageError as err:
        pytest.skip(str(err))
    found = kill_under_load(tmp_path, 3, seed=11, senders=4, slices=40)
    assert found["acknowledged"] > 0
    assert (found["lost"], found["broken"], found["orphans"]) == (0, 0, 0)
    assert found["series"] == found["jobs ended"] > 0
    assert (found["open"], found["twice"]) == (0, 0)
