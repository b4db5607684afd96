"""Two whole nodes on one PostgreSQL and one folder: one is killed, and each study is segmented and delivered once."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pydicom
import pytest

pytest.importorskip("psycopg", reason="needs medseg[postgresql]")
pytest.importorskip("pynetdicom", reason="needs medseg[node]")
from postgresql_server import postgresql
from pydicom.uid import generate_uid
from pynetdicom import AE, evt
from pynetdicom.sop_class import Comprehensive3DSRStorage, SegmentationStorage
from sqlalchemy import select

from medseg.database import Database
from medseg.node.tables import deliveries, instances, jobs, metadata, nodes
from medseg.node.tables import results as result_rows
from tests.integration.test_node_service import free_port, wait

pytestmark = pytest.mark.slow
STUDIES = 20
SETTINGS = """
medseg_node: 1
name: {name}
folder: {folder}
database: {{use: postgresql, url: {{env: NODE_DATABASE}}}}
dimse: {{port: {dimse}, ae_title: MEDSEG}}
http: null
rules:
  - {{name: chest, match: {{modality: [CR]}}, model: chest-xray-lungs, engine: torch, send_to: [archive]}}
destinations:
  archive: {{use: dimse, host: 127.0.0.1, port: {archive}, called_ae_title: ARCHIVE, first_wait: 1s}}
studies: {{stable_after: 1s}}
review: {{hold: never}}
jobs: {{threads: 1}}
storage: {{reserve: 100MB}}
"""


class Archive:
    """A storage SCP that counts what it got."""

    def __init__(self) -> None:
        self.got: Counter[str] = Counter()
        entity = AE(ae_title="ARCHIVE")
        for sop_class in (SegmentationStorage, Comprehensive3DSRStorage):
            entity.add_supported_context(sop_class)
        self.server = entity.start_server(
            ("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_C_STORE, self._store)]
        )
        self.port = self.server.socket.getsockname()[1]

    def _store(self, event: evt.Event) -> int:
        self.got[str(event.request.AffectedSOPInstanceUID)] += 1
        return 0x0000


class Served:
    """A node of the pair as a process."""

    def __init__(self, name: str, folder: Path, *, database: str, archive: int) -> None:
        self.port = free_port()
        settings = folder / f"{name}.yaml"
        values = {"name": name, "folder": folder / "node", "dimse": self.port, "archive": archive}
        settings.write_text(SETTINGS.format(**values))
        self.log = folder / f"{name}.jsonl"
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "medseg", "serve", str(settings)],
                env=os.environ | {"NODE_DATABASE": database},
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )

    def wait_listening(self) -> None:
        assert self.process.stdout is not None
        assert json.loads(self.process.stdout.readline() or "{}"), self.log.read_text()

    def send(self, images: list[pydicom.Dataset]) -> list[int]:
        caller = AE(ae_title="SCANNER")
        caller.add_requested_context(images[0].SOPClassUID, images[0].file_meta.TransferSyntaxUID)
        association = caller.associate("127.0.0.1", self.port, ae_title="MEDSEG")
        assert association.is_established
        statuses = [association.send_c_store(image).Status for image in images]
        association.release()
        return statuses

    def end(self) -> None:
        self.process.kill()
        self.process.wait()
        if self.process.stdout is not None:
            self.process.stdout.close()


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with postgresql() as data:
        yield f"postgresql://postgres@/postgres?host={data}"


@pytest.fixture
def studies(shared_data: Path) -> list[pydicom.Dataset]:
    """The same radiograph as that of so many patients."""
    place = shared_data / "dicom" / "cr_monochrome1_chest"
    made = []
    for number in range(STUDIES):
        image = next(pydicom.dcmread(path) for path in sorted(place.rglob("*")) if path.is_file())
        image.PatientID = f"PAIR-{number}"
        image.StudyInstanceUID, image.SeriesInstanceUID = generate_uid(), generate_uid()
        image.SOPInstanceUID = image.file_meta.MediaStorageSOPInstanceUID = generate_uid()
        made.append(image)
    return made


@pytest.fixture
def pair(tmp_path: Path, server: str) -> Iterator[tuple[Served, Served, Archive, Database]]:
    database = Database(server, metadata, make=False)
    metadata.drop_all(database.engine)
    archive = Archive()
    # Both at once: tables, keys and folders are made by whoever comes first.
    nodes = [Served(name, tmp_path, database=server, archive=archive.port) for name in ("a", "b")]
    try:
        for node in nodes:
            node.wait_listening()
        yield nodes[0], nodes[1], archive, database
    finally:
        for node in nodes:
            node.end()
        archive.server.shutdown()
        database.close()


def rows(database: Database, table: Any) -> list[Any]:
    with database.read() as connection:
        return list(connection.execute(select(table)).mappings())


def states(database: Database, table: Any) -> Counter[str]:
    return Counter(row["state"] for row in rows(database, table))


def test_one_is_killed_and_each_study_is_segmented_and_delivered_once(pair, studies, tmp_path):
    first, second, archive, database = pair
    said: dict[Served, list[int]] = {}

    def send(node: Served) -> None:
        said[node] = node.send(studies)

    senders = [threading.Thread(target=send, args=(node,)) for node in (first, second)]
    for sender in senders:
        sender.start()
    for sender in senders:
        sender.join()
    assert said == {first: [0] * STUDIES, second: [0] * STUDIES}
    assert len(rows(database, instances)) == STUDIES
    files = [path for path in (tmp_path / "node" / "instances").rglob("*") if path.is_file()]
    assert len(files) == STUDIES

    wait("half of the jobs", lambda: states(database, jobs)["done"] >= STUDIES // 3)
    owners = {row["owner"] for row in rows(database, jobs) if row["state"] == "running"}
    (killed,) = {row["node_id"] for row in rows(database, nodes) if row["name"] == "a"}
    first.process.send_signal(signal.SIGKILL)
    assert first.process.wait() == -signal.SIGKILL
    assert owners
    # Within seconds: the other one lives and looks.
    (living,) = {row["node_id"] for row in rows(database, nodes)} - {killed}
    scratch = tmp_path / "node" / "scratch"
    wait(
        "no plain copies of the dead",
        lambda: {path.name for path in scratch.glob("node-*")} <= {f"node-{living}"},
    )
    wait("all jobs", lambda: states(database, jobs) == {"done": STUDIES})
    wait("all deliveries", lambda: states(database, deliveries) == {"sent": 2 * STUDIES})

    made = rows(database, result_rows)
    assert Counter(row["kind"] for row in made)["dicom_seg"] == STUDIES
    uids = {row["sop_instance_uid"] for row in made if row["sop_instance_uid"]}
    assert set(archive.got) == uids
    # What was on its way when the node was killed is offered again, under the same UID.
    again = [uid for uid, count in archive.got.items() if count > 1]
    assert len(again) <= 2, archive.got
    assert max(archive.got.values()) <= 2

    begin = time.monotonic()
    second.process.send_signal(signal.SIGTERM)
    assert second.process.wait(25) == 0, second.log.read_text()
    assert time.monotonic() - begin < 25
    assert not list(scratch.glob("node-*"))


def test_a_node_with_a_folder_of_its_own_does_not_start(pair, tmp_path, server):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    stranger = Served("stranger", elsewhere, database=server, archive=1)
    assert stranger.process.wait(60) == 2
    assert "nodes that share a database share `folder`" in stranger.log.read_text()
    stranger.end()
