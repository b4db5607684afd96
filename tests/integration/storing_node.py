"""Takes instances in and ends a job, and says on standard output what it has acknowledged; run under a tracer.

Started as ``storing_node.py FOLDER KEY`` with KEY empty or the letters of a key.
"""

from __future__ import annotations

import hashlib
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from sqlalchemy import update

from medseg.database import Database
from medseg.node.arrival import Arrival, Peer
from medseg.node.audit import Audit
from medseg.node.clock import Clock
from medseg.node.intake import Intake
from medseg.node.job_queue import Finished, JobQueue, NewJob, ResultFile
from medseg.node.options import StorageOptions
from medseg.node.privacy_options import AuditOptions
from medseg.node.retention import Retention
from medseg.node.tables import metadata, studies
from medseg.node.vault import Vault
from tests.unit.node.listening import ct_slice, encoded

STUDIES, SLICES = 3, 6


def say(text: str) -> None:
    os.write(1, f"{text}\n".encode())


def main() -> None:
    folder, key = Path(sys.argv[1]), sys.argv[2].encode() or None
    vault, database = Vault(folder, key), Database.in_file(folder / "node.db", metadata)
    clock, options = Clock(), StorageOptions(reserve=1)
    audit = Audit(folder, AuditOptions(), clock)
    parts = {"database": database, "vault": vault, "audit": audit, "clock": clock}
    intake = Intake(options, secret=b"s" * 32, **parts)
    queue = JobQueue(database, clock, "here", deliver=lambda *_: None, attempts=1, first_wait_s=1.0)
    intake.start()

    def take(number: int) -> None:
        study = f"1.2.{number % STUDIES + 1}"
        one = ct_slice(number, uid=f"{study}.{number + 1}", study=study)
        one.SeriesInstanceUID, one.Rows, one.Columns = f"{study}.0", 16, 16
        one.PixelData = bytes([number]) * 512
        syntax = one.file_meta.TransferSyntaxUID
        arrival = Arrival(data_set=encoded(one), transfer_syntax_uid=syntax, peer=Peer(route="dimse"))
        assert intake.accept(arrival).verdict == "stored"
        say(f"stored {one.SOPInstanceUID}")

    with ThreadPoolExecutor(3) as pool:
        list(pool.map(take, range(STUDIES * SLICES // 2)))
    finish_one(vault, database, queue)
    # A study goes while others come: its folders are removed.
    with database.write() as connection:
        connection.execute(update(studies).where(studies.c.study_uid == "1.2.3").values(state="settled"))
    say("purging 1.2.3")
    Retention(options, **parts).purge_instances("1.2.3")
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(take, range(STUDIES * SLICES // 2, STUDIES * SLICES)))
    intake.stop()
    database.close()
    say("end")


def finish_one(vault: Vault, database: Database, queue: JobQueue) -> None:
    new = NewJob(study_uid="1.2.1", series_uid="1.2.1.0", rule="ct", model="m", input="i", instances=3)
    with database.write() as connection:
        queue.put(connection, new)
    job = queue.claim()
    assert job is not None
    content = b"SEG" * 700
    vault.write("jobs/1/1/segmentation.dcm", content)
    digest = hashlib.sha256(content).hexdigest()
    file = ResultFile(kind="dicom_seg", path="jobs/1/1/segmentation.dcm", size=2100, sha256=digest)
    assert queue.finish(job, Finished(folder="jobs/1/1", files=(file,), verdict="pass"))
    say("finished 1")


if __name__ == "__main__":
    main()
