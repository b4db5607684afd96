"""SIGTERM while a job runs: it ends in its grace, or goes back to the queue; the whole stop stays within 25 s."""

from __future__ import annotations

import copy
import signal
import sqlite3
import time
from pathlib import Path
from typing import Any

import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import generate_uid

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
    # The first job loads the model; the second is long enough to be met, and short enough for its grace.
    first, *others = (of_study(image, number) for number in (1, *[2] * 4))
    jobs = {"threads": 1, "stop_grace": grace_s}
    (tmp_path / "node").mkdir(mode=0o755)
    node = ServedNode(
        tmp_path / "node", settings=tmp_path / "node.yaml", rules=[RULE], jobs=jobs, review={"hold": "never"}
    )
    try:
        assert node.c_store([first]) == [0]
        wait("a job that is done", lambda: job(node) == ("done", 1), 60)
        assert node.c_store(others) == [0] * 4
        wait("a job that runs", lambda: job(node) == ("running", 1), 30)
        begin = time.monotonic()
        node.process.send_signal(signal.SIGTERM)
        assert node.process.wait(25) == 0, node.log.read_text()
        assert time.monotonic() - begin < 25
        assert job(node) == ends
        files = [path for path in node.folder.rglob("*") if path.is_file()]
        assert [path for path in files if path.stat().st_mode & 0o077] == [], "for other users"
        finished, returned = (2, 0) if ends[0] == "done" else (1, 1)
        assert f"stopped: finished {finished}, returned {returned} to the queue" in node.log.read_text()
    finally:
        node.end()


def of_study(image: Dataset, number: int) -> Dataset:
    """A copy that is an instance of its own."""
    one = copy.deepcopy(image)
    one.SOPInstanceUID = one.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    one.StudyInstanceUID, one.SeriesInstanceUID = f"1.2.3.{number}", f"1.2.3.{number}.1"
    return one


def job(node: ServedNode) -> Any:
    """State and tries of the latest job."""
    connection = sqlite3.connect(node.folder / "node.db")
    try:
        return connection.execute("SELECT state, attempts FROM jobs ORDER BY id DESC").fetchone()
    finally:
        connection.close()
