"""SIGTERM while a job runs: it ends in its grace, or goes back to the queue; the whole stop stays within 25 s."""

from __future__ import annotations

import signal
import sqlite3
import time
from pathlib import Path
from typing import Any

import pydicom
import pytest

pytest.importorskip("httpx", reason="needs medseg[node]")
pytest.importorskip("pynetdicom", reason="needs medseg[node]")
from tests.integration.served_node import ServedNode
from tests.integration.test_node_service import wait

pytestmark = pytest.mark.slow
RULE = {"name": "chest", "match": {"modality": ["CR"]}, "model": "chest-xray-lungs", "engine": "torch"}


@pytest.mark.parametrize(
    ("grace_s", "ends"),
    [(15.0, ("done", 1)), (0.1, ("queued", 0))],
    ids=["in its grace", "back to the queue"],
)
def test_a_stop_while_a_job_runs(shared_data: Path, tmp_path: Path, grace_s: float, ends: tuple[str, int]):
    place = shared_data / "dicom" / "cr_monochrome1_chest"
    image = next(pydicom.dcmread(path) for path in sorted(place.rglob("*")) if path.is_file())
    jobs = {"threads": 1, "stop_grace": grace_s}
    node = ServedNode(
        tmp_path / "node", settings=tmp_path / "node.yaml", rules=[RULE], jobs=jobs, review={"hold": "never"}
    )
    try:
        assert node.c_store([image]) == [0]
        wait("a job that runs", lambda: job(node) == ("running", 1), 30)
        begin = time.monotonic()
        node.process.send_signal(signal.SIGTERM)
        assert node.process.wait(25) == 0, node.log.read_text()
        assert time.monotonic() - begin < 25
        assert job(node) == ends
        finished, returned = (1, 0) if ends[0] == "done" else (0, 1)
        assert f"stopped: finished {finished}, returned {returned} to the queue" in node.log.read_text()
    finally:
        node.end()


def job(node: ServedNode) -> Any:
    """State and tries of the only job."""
    connection = sqlite3.connect(node.folder / "node.db")
    try:
        return connection.execute("SELECT state, attempts FROM jobs").fetchone()
    finally:
        connection.close()
