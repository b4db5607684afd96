"""A served node that is killed, and even loses its last rows, keeps what it acknowledged, and ends each job once."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("pynetdicom", reason="needs medseg[node]")
from sqlalchemy import select

from medseg.bench.node import kill_under_load
from medseg.bench.node_site import needed_program
from medseg.database import Database
from medseg.errors import MissingPackageError
from medseg.node.tables import instances, metadata
from tests.integration.served_node import ServedNode
from tests.integration.test_node_service import wait
from tests.unit.node.listening import ct_slice

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


def test_what_was_acknowledged_survives_the_loss_of_its_rows(tmp_path: Path):
    folder, settings = tmp_path / "node", tmp_path / "node.yaml"
    first = ServedNode(folder, settings=settings)
    first.process.terminate()
    assert first.process.wait(30) == 0
    first.end()
    second = ServedNode(folder, settings=settings)
    sent = [ct_slice(number) for number in range(3)]
    assert second.c_store(sent) == [0, 0, 0]
    second.end()
    # What was committed since the first stop is in this file alone.
    (folder / "node.db-wal").unlink()
    third = ServedNode(folder, settings=settings)
    assert "images without a row 3" in third.log.read_text()
    wait(
        "the instances to be taken back",
        lambda: "taken back 3, set aside 0, removed 0" in third.log.read_text(),
    )
    third.end()
    database = Database.in_file(folder / "node.db", metadata)
    with database.read() as connection:
        kept = set(connection.execute(select(instances.c.sop_instance_uid)).scalars())
    database.close()
    assert kept == {one.SOPInstanceUID for one in sent}
