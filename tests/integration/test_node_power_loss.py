"""Whenever the power fails: what was acknowledged is there, what has a row is whole, and the database opens."""

from __future__ import annotations

import hashlib
import io
import random
import shutil
import subprocess
import sys
from pathlib import Path

import pydicom
import pytest

pytest.importorskip("sqlalchemy", reason="needs medseg[node]")
from sqlalchemy import select
from traced_disk import CALLS, TracedDisk

from medseg.database import Database
from medseg.node.audit import Audit
from medseg.node.clock import Clock
from medseg.node.intake import Intake
from medseg.node.leftovers import Leftovers
from medseg.node.options import StorageOptions
from medseg.node.privacy_options import AuditOptions
from medseg.node.tables import instances, jobs, metadata, results
from medseg.node.vault import Vault

pytestmark = pytest.mark.slow
SEED, PARTS = 5, 2
KEY = "k" * 32


@pytest.fixture(scope="module", params=["", KEY], ids=["plain", "encrypted"])
def traced(request, tmp_path_factory) -> tuple[str, str, str]:
    """Folder of a node that took instances in, its system calls, and its key."""
    if shutil.which("strace") is None:
        pytest.skip("needs strace (Debian: strace)")
    place = tmp_path_factory.mktemp("traced")
    (place / "node").mkdir()
    storing = [
        sys.executable,
        str(Path(__file__).parent / "storing_node.py"),
        str(place / "node"),
        request.param,
    ]
    tracing = [
        "strace",
        "-f",
        "-y",
        "-xx",
        "-s",
        "1000000",
        "-e",
        f"trace={CALLS}",
        "-o",
        str(place / "trace"),
    ]
    done = subprocess.run([*tracing, *storing], capture_output=True, text=True, check=False, timeout=200)
    if "ptrace" in done.stderr:
        pytest.skip("no right to trace")
    assert done.stdout.endswith("end\n"), done.stderr
    return str(place / "node"), (place / "trace").read_text(), request.param


def test_what_was_acknowledged_survives_a_power_loss_at_any_moment(traced, tmp_path: Path):
    folder, trace, key = traced
    disk, chance, moments = TracedDisk(folder), random.Random(SEED), 0
    for call in disk.replay(trace):
        # Between two of these what is on the disk for certain does not change; what may be there does.
        if call not in ("fsync", "fdatasync", "write", "unlink", "rename", "rmdir"):
            continue
        moments += 1
        for part in range(PARTS):
            left = tmp_path / "left"
            disk.after_power_loss(left, chance if part else None)
            look(left, b"".join(disk.said).decode().splitlines(), key)
            shutil.rmtree(left)
    assert b"".join(disk.said).endswith(b"end\n")
    assert moments > 100


def start_again(left: Path, vault: Vault, database: Database) -> None:
    parts = {"database": database, "vault": vault}
    audit, clock = Audit(left, AuditOptions(), Clock()), Clock()
    intake = Intake(StorageOptions(reserve=1), secret=b"s" * 32, audit=audit, clock=clock, **parts)
    intake.start()
    leftovers = Leftovers(intake=intake, audit=audit, **parts)
    leftovers.look()
    leftovers.settle()
    intake.stop()


def look(left: Path, said: list[str], key: str) -> None:
    vault, database = Vault(left, key.encode() or None), Database.in_file(left / "node.db", metadata)
    try:
        with database.read() as connection:
            before = set(connection.execute(select(instances.c.sop_instance_uid)).scalars())
        start_again(left, vault, database)
        with database.read() as connection:
            found = {row.sop_instance_uid: row for row in connection.execute(select(instances))}
            made = connection.execute(select(results)).all()
            ended = connection.execute(select(jobs.c.state)).scalars().all()
    finally:
        database.close()
    files = {path.relative_to(left).as_posix() for path in (left / "instances").rglob("*") if path.is_file()}
    purged = "purging 1.2.3" in said
    promised = {line.removeprefix("stored ") for line in said if line.startswith("stored ")}
    if purged:
        old = said[: said.index("purging 1.2.3")]
        going = {line.removeprefix("stored ") for line in old if line.startswith("stored 1.2.3.")}
        promised -= going
        # A purge that was under way is done or not done; nothing of it comes back.
        assert going & set(found) == going & before
    assert promised <= set(found)
    assert files <= {row.path for row in found.values()}
    for uid, row in found.items():
        if purged and row.study_uid == "1.2.3" and uid not in promised:
            continue
        image = pydicom.dcmread(io.BytesIO(vault.read(row.path)))
        assert image.SOPInstanceUID == uid
        assert image.PixelData == bytes([int(uid.rsplit(".", 1)[1]) - 1]) * 512
    if "finished 1" in said:
        assert ended == ["done"]
    for row in made:
        assert hashlib.sha256(vault.read(row.path)).hexdigest() == row.sha256
