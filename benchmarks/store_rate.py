"""C-STOREs a second over one association: small structured reports to an archive that runs already, or to a storescp.

    python benchmarks/store_rate.py [--host 127.0.0.1 --port 4242 --called ORTHANC] [--results 300] [--size 2000]

Without a port, dcmtk's storescp is started on loopback and throws away what it gets. Prints the rate of one batch; what
is slow here is the conversation, as the files are small and in memory.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator

from pydicom import dcmwrite
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid
from pynetdicom.sop_class import ComprehensiveSRStorage

from medseg.errors import MedsegError
from medseg.pacs.dimse_client import DimseSender
from medseg.pacs.options import DimseDestination
from medseg.pacs.sending import Outgoing


def report_file(number: int, size: int) -> Outgoing:
    """A structured report of about so many bytes."""
    data_set = Dataset()
    data_set.file_meta = FileMetaDataset()
    data_set.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data_set.SOPClassUID, data_set.SOPInstanceUID = ComprehensiveSRStorage, generate_uid()
    data_set.StudyInstanceUID, data_set.SeriesInstanceUID = generate_uid(), generate_uid()
    data_set.PatientID, data_set.Modality, data_set.InstanceNumber = f"P{number}", "SR", number
    data_set.add_new(0x00420011, "OB", bytes(size))
    stream = io.BytesIO()
    dcmwrite(stream, data_set, enforce_file_format=True)
    return Outgoing(
        sop_class_uid=ComprehensiveSRStorage,
        sop_instance_uid=data_set.SOPInstanceUID,
        content=stream.getvalue(),
    )


@contextlib.contextmanager
def storescp() -> Iterator[int]:
    """dcmtk's storescp on a free port of loopback."""
    program = shutil.which("storescp", path="/usr/bin:/usr/local/bin")
    if program is None:
        raise SystemExit("storescp of dcmtk is not installed; name an archive by --port")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    process = subprocess.Popen([program, "--ignore", str(port)])
    try:
        yield port
    finally:
        process.terminate()
        process.wait()


def wait_for(sender: DimseSender) -> None:
    """Until the archive answers."""
    for _ in range(100):
        with contextlib.suppress(MedsegError):
            return sender.echo()
        time.sleep(0.1)
    raise SystemExit("the archive does not answer")


def main() -> int:
    """Send and print the rate."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int)
    parser.add_argument("--called", default="ANY-SCP")
    parser.add_argument("--results", type=int, default=300)
    parser.add_argument("--size", type=int, default=2000, help="bytes of each")
    arguments = parser.parse_args()
    files = [report_file(number, arguments.size) for number in range(arguments.results)]
    with contextlib.ExitStack() as stack:
        port = arguments.port or stack.enter_context(storescp())
        sender = DimseSender(
            DimseDestination(host=arguments.host, port=port, called_ae_title=arguments.called, timeout=30.0)
        )
        wait_for(sender)
        begin, cpu = time.monotonic(), time.process_time()
        answers = sender.send(files)
        took, cpu = time.monotonic() - begin, time.process_time() - cpu
    left = [answer for answer in answers if answer.state != "sent"]
    print(
        f"{len(files)} C-STOREs of {arguments.size} bytes in {took:.2f} s: {len(files) / took:.0f} a second"
    )
    print(f"{1000 * took / len(files):.1f} ms each, {1000 * cpu / len(files):.1f} ms of it on the processor")
    for answer in left[:1]:
        print(f"{len(left)} not sent: {answer.reason}")
    return int(bool(left))


if __name__ == "__main__":
    sys.exit(main())
