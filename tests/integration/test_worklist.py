"""A node as a process that performs a work item: claimed, image fetched, lungs found, sent, and told of."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pydicom
import pytest

pytest.importorskip("httpx", reason="needs medseg[node]")
pytest.importorskip("fastapi", reason="needs medseg[node]")
pytest.importorskip("pynetdicom", reason="needs medseg[node]")
from medseg.pacs.dicom_json import items_of, text_of
from tests.unit.node.ups_server import UpsServer, ups_server
from tests.unit.pacs.archives import http_archive

pytestmark = pytest.mark.slow
PATIENT = ("PLANTED^NAME", "PLANTED-NUMBER")
SETTINGS = """
medseg_node: 1
folder: {folder}
http: null
sources:
  - use: ups
    name: list
    url: {url}
    every: 0.5s
    workitems: [{{value: LUNGS, scheme: 99T, rule: chest}}]
rules:
  - {{name: chest, match: {{modality: [CR, DX]}}, model: chest-xray-lungs, engine: torch, send_to: [archive]}}
destinations:
  archive: {{use: dicomweb, url: {archive}}}
studies: {{stable_after: 1s}}
review: {{hold: never}}
storage: {{reserve: 100MB}}
"""


def test_a_work_item_goes_through_a_node_that_is_killed_on_the_way(shared_data, tmp_path: Path):
    place = shared_data / "dicom" / "cr_monochrome1_chest"
    path = next(path for path in sorted(place.rglob("*")) if path.is_file())
    image, sent = pydicom.dcmread(path), io.BytesIO()
    image.PatientName, image.PatientID = PATIENT
    image.save_as(sent, enforce_file_format=True)
    server, stored = UpsServer(), []

    def store(body: bytes):
        stored.append(body)
        return 200, b"", {}

    server.files[(image.StudyInstanceUID, image.SeriesInstanceUID, image.SOPInstanceUID)] = sent.getvalue()
    uid = server.add("2.25.77", code="LUNGS", study=image.StudyInstanceUID)
    with ups_server(server) as url, http_archive(store) as archive:
        settings = tmp_path / "node.yaml"
        settings.write_text(SETTINGS.format(folder=tmp_path / "node", url=url, archive=archive.options().url))
        command = [sys.executable, "-m", "medseg", "serve", str(settings)]
        check = subprocess.run([*command, "--check"], capture_output=True, text=True, check=True, timeout=120)
        assert "work list list: LUNGS (99T) asks for the rule chest" in check.stdout
        for ends in (False, True):
            with (tmp_path / "log.jsonl").open("a") as log:
                process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=log, env=os.environ)
            try:
                reached = "COMPLETED" if ends else "IN PROGRESS"
                wait_for(lambda reached=reached: server.state(uid) == reached, server)
                process.send_signal(signal.SIGTERM if ends else signal.SIGKILL)
                assert process.wait(25) == (0 if ends else -signal.SIGKILL)
            finally:
                process.kill()
                process.wait()
    assert server.history[uid] == ["SCHEDULED", "IN PROGRESS", "COMPLETED"]
    named = [
        text_of(reference, "ReferencedSOPInstanceUID")
        for output in server.outputs(uid)
        for reference in items_of(output, "ReferencedSOPSequence")
    ]
    assert len(named) == 2
    assert all(any(one.encode() in body for body in stored) for one in named)
    written = (tmp_path / "log.jsonl").read_text() + (tmp_path / "node" / "audit.jsonl").read_text()
    for text in (uid, image.StudyInstanceUID, image.SOPInstanceUID, *PATIENT):
        assert text not in written
    outcomes = [one["outcome"] for one in map(json.loads, lines(tmp_path)) if one["event"] == "work_item"]
    assert outcomes[-1] == "completed"


def lines(folder: Path) -> list[str]:
    return (folder / "node" / "audit.jsonl").read_text().splitlines()


def wait_for(condition, server: UpsServer, seconds: float = 120.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, server.requests[-5:]
        time.sleep(0.1)
