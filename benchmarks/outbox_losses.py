"""Results sent to an archive that hangs up in a share of its associations: how many are lost, how many doubled.

    python benchmarks/outbox_losses.py [--results 1000] [--dropped 0.2] [--seed 7]

The archive is a C-STORE SCP on loopback. Of the associations it hangs up in, it does so at a random instance, half of
the time after it has kept that instance, so that the outbox cannot know. Lost: results that the archive does not have.
Doubled: instances that it has more than once, that is under one UID with different content, or that were not sent.
Resent: C-STOREs of instances that it had already; an archive that goes by UIDs, as they do, stays the same.
Exit code 1 where anything is lost or doubled, or a delivery is not settled.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import random
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from pydicom import dcmwrite
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid
from pynetdicom import AE, evt
from pynetdicom.sop_class import ComprehensiveSRStorage

from medseg.database import Database
from medseg.node.clock import Clock
from medseg.pacs.options import DimseDestination
from medseg.pacs.outbox import Outbox
from medseg.pacs.outbox_table import metadata

_LIMIT_S = 480.0


class LossyArchive:
    """Keeps instances by UID; hangs up in a share of the associations."""

    def __init__(self, dropped: float, seed: int) -> None:
        self.kept: dict[str, set[str]] = {}
        self.stores = self.associations = self.hung_up = self.resent = 0
        self._dropped, self._random = dropped, random.Random(seed)
        self._left: dict[Any, int] = {}
        ae = AE(ae_title="ARCHIVE")
        ae.add_supported_context(ComprehensiveSRStorage, [ExplicitVRLittleEndian])
        handlers = [(evt.EVT_ACCEPTED, self._accepted), (evt.EVT_C_STORE, self._store)]
        self.server = ae.start_server(("127.0.0.1", 0), block=False, evt_handlers=handlers)
        self.port = self.server.socket.getsockname()[1]

    def _accepted(self, event: Any) -> None:
        self.associations += 1
        if self._random.random() < self._dropped:
            self._left[event.assoc] = self._random.randrange(50)

    def _store(self, event: Any) -> int:
        self.stores += 1
        left = self._left.get(event.assoc, -1)
        if left != 0 or self._random.random() < 0.5:
            self._keep(event)
        if left == 0:
            self.hung_up += 1
            del self._left[event.assoc]
            event.assoc.abort()
        elif left > 0:
            self._left[event.assoc] = left - 1
        return 0x0000

    def _keep(self, event: Any) -> None:
        uid = str(event.request.AffectedSOPInstanceUID)
        self.resent += uid in self.kept
        content = hashlib.sha256(event.request.DataSet.getvalue()).hexdigest()
        self.kept.setdefault(uid, set()).add(content)


def report_file(uid: str, number: int) -> bytes:
    """A small structured report."""
    data_set = Dataset()
    data_set.file_meta = FileMetaDataset()
    data_set.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data_set.SOPClassUID, data_set.SOPInstanceUID = ComprehensiveSRStorage, uid
    data_set.StudyInstanceUID, data_set.SeriesInstanceUID = generate_uid(), generate_uid()
    data_set.PatientID, data_set.Modality, data_set.InstanceNumber = f"P{number}", "SR", number
    stream = io.BytesIO()
    dcmwrite(stream, data_set, enforce_file_format=True)
    return stream.getvalue()


def deliver(archive: LossyArchive, files: dict[str, bytes], folder: Path) -> dict[str, int]:
    """Send all by an outbox; the states of the deliveries at the end."""
    options = DimseDestination(
        host="127.0.0.1",
        port=archive.port,
        called_ae_title="ARCHIVE",
        kinds=("measurement_sr",),
        first_wait=0.1,
        longest_wait=1.0,
        timeout=2.0,
    )
    database = Database.in_file(folder / "outbox.db", metadata)
    box = Outbox(database, {"archive": options}, read=files.__getitem__, clock=Clock(), owner="bench")
    with database.write() as connection:
        for uid in files:
            box.put(
                connection,
                destination="archive",
                sop_class_uid=ComprehensiveSRStorage,
                sop_instance_uid=uid,
                path=uid,
            )
    box.start()
    end = time.monotonic() + _LIMIT_S
    while box.counts()["archive"].get("sent", 0) < len(files) and time.monotonic() < end:
        time.sleep(0.2)
    box.stop(20.0)
    counts = box.counts()["archive"]
    database.close()
    return counts


def main() -> int:
    """Run it and print the counts."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--results", type=int, default=1000)
    parser.add_argument("--dropped", type=float, default=0.2)
    parser.add_argument("--seed", type=int, default=7)
    arguments = parser.parse_args()
    uids = [str(generate_uid()) for _ in range(arguments.results)]
    files = {uid: report_file(uid, number) for number, uid in enumerate(uids)}
    archive = LossyArchive(arguments.dropped, arguments.seed)
    start = time.monotonic()
    try:
        with tempfile.TemporaryDirectory() as folder:
            counts = deliver(archive, files, Path(folder))
    finally:
        archive.server.shutdown()
    lost = len(set(files) - set(archive.kept))
    doubled = len(set(archive.kept) - set(files)) + sum(len(each) - 1 for each in archive.kept.values())
    print(f"{len(files)} results in {time.monotonic() - start:.1f} s, deliveries: {counts}")
    print(f"{archive.associations} associations, hung up in {archive.hung_up}; {archive.stores} C-STOREs")
    print(f"lost {lost}, doubled {doubled}, resent {archive.resent}")
    return int(lost > 0 or doubled > 0 or counts != {"sent": len(files)})


if __name__ == "__main__":
    sys.exit(main())
