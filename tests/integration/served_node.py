"""A node as a process, with any settings."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
from pydicom import Dataset
from pynetdicom import AE

from tests.integration.test_node_service import free_port

SENDER, VIEWER = "sender-token-0123456789", "viewer-token-0123456789"
ACCOUNTS = [
    {"name": "sven", "role": "sender", "token": {"env": "SENDER_TOKEN"}},
    {"name": "vera", "role": "viewer", "token": {"env": "VIEWER_TOKEN"}},
]
RULE = {"name": "chest", "match": {"modality": ["DX"]}, "model": "chest-xray-lungs"}


class ServedNode:
    """`medseg serve` in a folder; it listens when this is made."""

    def __init__(self, folder: Path, *, settings: Path, **changed: Any) -> None:
        self.folder, self.dimse, self.http = folder, free_port(), free_port()
        given: dict[str, Any] = {
            "medseg_node": 1,
            "folder": str(folder),
            "dimse": {"port": self.dimse},
            "http": {"port": self.http, "stow": True, "accounts": ACCOUNTS},
            "rules": [RULE],
            "studies": {"stable_after": "1s"},
            "storage": {"reserve": "100MB"},
        }
        # JSON is YAML.
        settings.write_text(json.dumps(given | changed))
        self.log = settings.with_suffix(".jsonl")
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "medseg", "serve", str(settings)],
                env=os.environ | {"SENDER_TOKEN": SENDER, "VIEWER_TOKEN": VIEWER},
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        assert self.process.stdout is not None
        assert self.process.stdout.readline(), self.log.read_text()

    def end(self) -> None:
        self.process.kill()
        self.process.wait()
        if self.process.stdout is not None:
            self.process.stdout.close()

    def get(self, path: str) -> httpx.Response:
        headers = {"Authorization": f"Bearer {VIEWER}"}
        return httpx.get(f"http://127.0.0.1:{self.http}{path}", headers=headers, timeout=10)

    def stow(self, content: bytes) -> httpx.Response:
        body = b"--b\r\nContent-Type: application/dicom\r\n\r\n" + content + b"\r\n--b--\r\n"
        headers = {
            "Content-Type": 'multipart/related; type="application/dicom"; boundary=b',
            "Authorization": f"Bearer {SENDER}",
        }
        url = f"http://127.0.0.1:{self.http}/dicom-web/studies"
        return httpx.post(url, content=body, headers=headers, timeout=30)

    def c_store(self, images: list[Dataset]) -> list[int]:
        """Statuses of one association, which ends with a C-ECHO."""
        caller = AE(ae_title="SCANNER")
        caller.add_requested_context(images[0].SOPClassUID, images[0].file_meta.TransferSyntaxUID)
        caller.add_requested_context("1.2.840.10008.1.1")
        association = caller.associate("127.0.0.1", self.dimse, ae_title="MEDSEG")
        assert association.is_established
        statuses = [association.send_c_store(image).Status for image in images]
        assert association.send_c_echo().Status == 0
        association.release()
        return statuses
