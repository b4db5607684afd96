"""What `medseg bench node` sets up: a served node, an Orthanc beside it, slices, and dcmtk's senders."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from medseg.errors import EnvironmentFailure, MissingPackageError

_STARTS_WITHIN_S = 60.0
_PROCESS = Path("/proc")
_SENT = re.compile(r"Sending file: (.+)$|Received Store Response \((.+)\)$")


def needed_program(name: str) -> str:
    """Where a program is.

    Raises
    ------
    MissingPackageError
        It is not installed.
    """
    # pynetdicom brings a storescu of its own, beside the interpreter.
    own = str(Path(sys.executable).parent)
    folders = [folder for folder in os.environ.get("PATH", "").split(os.pathsep) if folder != own]
    found = shutil.which(name, path=os.pathsep.join([*folders, "/usr/sbin"]))
    if found is None:
        raise MissingPackageError(
            f"the program {name} is not installed (Debian: apt-get install dcmtk orthanc)"
        )
    return found


def free_port() -> int:
    """A port that nobody listens on at the moment."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def write_slices(folder: Path, *, count: int, size: int, study: str, seed: int) -> list[str]:
    """Write CT slices of noise with 12 bits, one series; their SOP Instance UIDs are the names of the files."""
    import numpy as np
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

    folder.mkdir(parents=True)
    pixels = np.random.default_rng(seed).integers(0, 4096, (size, size), np.uint16)
    series, uids = generate_uid(entropy_srcs=[study, str(seed)]), []
    for number in range(count):
        one = Dataset()
        one.SOPClassUID, one.SOPInstanceUID = CTImageStorage, generate_uid(entropy_srcs=[series, str(number)])
        one.StudyInstanceUID, one.SeriesInstanceUID = study, series
        one.PatientID, one.PatientName, one.Modality = "BENCH", "Bench^Phantom", "CT"
        one.InstanceNumber, one.ImagePositionPatient = number + 1, [0, 0, number]
        one.ImageOrientationPatient, one.PixelSpacing = [1, 0, 0, 0, 1, 0], [0.7, 0.7]
        one.Rows = one.Columns = size
        one.BitsAllocated, one.BitsStored, one.HighBit = 16, 12, 11
        one.SamplesPerPixel, one.PixelRepresentation = 1, 0
        one.PhotometricInterpretation = "MONOCHROME2"
        one.PixelData = np.roll(pixels, number, 0).tobytes()
        one["PixelData"].VR = "OW"
        one.file_meta = FileMetaDataset()
        one.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        one.save_as(folder / f"{one.SOPInstanceUID}.dcm", enforce_file_format=True)
        uids.append(str(one.SOPInstanceUID))
    return uids


@dataclass(slots=True)
class Server:
    """A process that takes instances in over DICOM."""

    name: str
    port: int
    process: subprocess.Popen[str]
    folder: Path
    options: dict[str, Any] = field(default_factory=dict)

    def stop(self) -> None:
        """By SIGTERM, and for good after a while."""
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(30)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self._close()

    def kill(self) -> None:
        """By SIGKILL."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        self._close()

    def _close(self) -> None:
        if self.process.stdout is not None:
            self.process.stdout.close()

    def memory(self) -> int:
        """Resident bytes."""
        text = (_PROCESS / str(self.process.pid) / "status").read_text()
        return int(re.findall(r"VmRSS:\s+(\d+) kB", text)[0]) * 1024

    def threads(self) -> int:
        """Number of threads."""
        return len(os.listdir(_PROCESS / str(self.process.pid) / "task"))

    def sockets(self) -> int:
        """Open sockets."""
        folder = _PROCESS / str(self.process.pid) / "fd"
        return sum(
            os.readlink(entry).startswith("socket:") for entry in folder.iterdir() if entry.is_symlink()
        )


def serve(folder: Path, **settings: Any) -> Server:
    """`medseg serve` with a DICOM listener and a rule that no CT matches, unless `settings` say otherwise.

    Raises
    ------
    EnvironmentFailure
        It does not start.
    """
    folder.mkdir(parents=True, exist_ok=True)
    port = free_port()
    used = {
        "medseg_node": 1,
        "folder": str(folder / "node"),
        "dimse": {"port": port, "max_associations": 60},
        "http": None,
        "rules": [{"name": "chest", "match": {"modality": ["DX"]}, "model": "chest-xray-lungs"}],
        "storage": {"reserve": "100MB"},
    } | settings
    path = folder / "node.yaml"
    # JSON is YAML.
    path.write_text(json.dumps(used))
    with (folder / "log.jsonl").open("a") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "medseg", "serve", str(path)],
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )
    if process.stdout is None or not process.stdout.readline():
        said = (folder / "log.jsonl").read_text().strip().splitlines()
        raise EnvironmentFailure(f"medseg serve does not start: {said[-1] if said else 'it says nothing'}")
    return Server("medseg", port, process, folder)


def serve_orthanc(folder: Path) -> Server:
    """Orthanc with its defaults, which sync files (`SyncStorageArea`).

    Raises
    ------
    EnvironmentFailure
        It does not start.
    """
    folder.mkdir(parents=True, exist_ok=True)
    port, http = free_port(), free_port()
    settings = {
        "StorageDirectory": str(folder / "storage"),
        "IndexDirectory": str(folder / "storage"),
        "DicomPort": port,
        "HttpPort": http,
        "DicomAet": "MEDSEG",
        "SyncStorageArea": True,
    }
    path = folder / "orthanc.json"
    path.write_text(json.dumps(settings))
    with (folder / "log.txt").open("w") as log:
        process = subprocess.Popen([needed_program("Orthanc"), str(path)], stdout=log, stderr=log, text=True)
    end = time.monotonic() + _STARTS_WITHIN_S
    while time.monotonic() < end and process.poll() is None:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return Server("Orthanc", port, process, folder, {"http": http})
        time.sleep(0.1)
    process.kill()
    raise EnvironmentFailure("Orthanc does not start; its log: " + (folder / "log.txt").read_text()[-300:])


def stored(server: Server) -> int:
    """How many instances a server says that it has."""
    if server.name == "Orthanc":
        import urllib.request

        with urllib.request.urlopen(f"http://127.0.0.1:{server.options['http']}/statistics") as answer:
            return int(json.load(answer)["CountInstances"])
    return len(stored_rows(server.folder / "node"))


def stored_rows(folder: Path) -> dict[str, str]:
    """SOP Instance UID -> path of the instances of a node."""
    return dict(_rows(folder, "SELECT sop_instance_uid, path FROM instances"))


def series_uids(folder: Path) -> set[str]:
    """The series of a node."""
    return {row[0] for row in _rows(folder, "SELECT series_uid FROM series")}


def ended_jobs(folder: Path) -> dict[str, int]:
    """Series Instance UID -> number of its jobs that ended; superseded ones do not count."""
    query = "SELECT series_uid, count(*) FROM jobs WHERE state IN ({}) GROUP BY series_uid"
    return dict(_rows(folder, query.format("'done', 'held', 'failed', 'given_up'")))


def _rows(folder: Path, query: str) -> list[tuple[Any, ...]]:
    import sqlite3
    from contextlib import closing

    with closing(sqlite3.connect(folder / "node.db", timeout=60)) as connection:
        return connection.execute(query).fetchall()


@dataclass(frozen=True, slots=True)
class Sent:
    """How senders went: seconds of all, UIDs that were acknowledged, and other answers."""

    seconds: float
    acknowledged: frozenset[str]
    refused: tuple[str, ...]


def start_sender(folder: Path, port: int) -> subprocess.Popen[str]:
    """dcmtk's storescu on a folder; it tells of each answer."""
    command = [
        needed_program("storescu"),
        "-v",
        "-nh",
        "-aec",
        "MEDSEG",
        "+sd",
        "127.0.0.1",
        str(port),
        str(folder),
    ]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def ended(senders: Sequence[subprocess.Popen[str]], begun: float) -> Sent:
    """Wait for senders and read what they heard."""
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(len(senders)) as readers:
        outputs = list(readers.map(lambda sender: sender.communicate()[0], senders))
    seconds = time.monotonic() - begun
    acknowledged: set[str] = set()
    refused: list[str] = []
    for output in outputs:
        name = ""
        for line in output.splitlines():
            match = _SENT.search(line.strip())
            if match is None:
                continue
            if match[1]:
                name = Path(match[1]).stem
            elif match[2] == "Success":
                acknowledged.add(name)
            else:
                refused.append(match[2])
    return Sent(seconds, frozenset(acknowledged), tuple(refused))


def send_all(folders: Sequence[Path], port: int) -> Sent:
    """Send folders, each by a sender of its own, all at once."""
    begun = time.monotonic()
    return ended([start_sender(folder, port) for folder in folders], begun)
