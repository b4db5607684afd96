"""Instances of all routes -> files and rows; acknowledged when both are on disk."""

from __future__ import annotations

import hashlib
import io
import logging
import zlib
from collections import Counter
from collections.abc import Callable

from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import DeflatedExplicitVRLittleEndian
from sqlalchemy import func, select

from medseg.amounts import bytes_text
from medseg.database import Database
from medseg.deidentification.risks import IdentifiersLeftError
from medseg.errors import ImageReadError, StorageError
from medseg.export.dicom_bytes import encoded
from medseg.io.foreign import PARSER_ERRORS, recorded_warnings
from medseg.io.limits import ReadLimits
from medseg.node.arrival import Arrival, Peer, Receipt, Verdict
from medseg.node.audit import Audit
from medseg.node.clock import Clock
from medseg.node.disk_space import DiskSpace, SpaceState
from medseg.node.instance_file import InstanceFile, new_file, whole_file
from medseg.node.instance_header import InstanceFacts, read_facts
from medseg.node.instance_rows import InstanceRow, Known, RowWriter
from medseg.node.options import StorageOptions
from medseg.node.part10 import arrival_of
from medseg.node.tables import instances, results
from medseg.node.vault import Vault

Deidentifier = Callable[[Dataset], Dataset]
_log = logging.getLogger(__name__)


class Intake:
    """Takes instances in; any number of threads may call `accept`.

    Parameters
    ----------
    options : StorageOptions
    database : Database
    vault : Vault
    audit : Audit
    clock : Clock
    secret : bytes
        Key of the digests that stand for patients.
    deidentify : callable or None
        Takes identifiers out before anything is stored.
    """

    def __init__(
        self,
        options: StorageOptions,
        *,
        database: Database,
        vault: Vault,
        audit: Audit,
        clock: Clock,
        secret: bytes,
        deidentify: Deidentifier | None = None,
    ) -> None:
        self._options, self._vault, self._audit, self._clock = options, vault, audit, clock
        self._database, self._secret, self._deidentify = database, secret, deidentify
        self._limits = ReadLimits(max_file_mb=max(1, options.instance_limit >> 20))
        self._rows = RowWriter(database, vault)
        self._space = DiskSpace(
            vault.folder, reserve=options.reserve, quota=options.quota, held=self._held, clock=clock
        )
        self.counts: Counter[Verdict] = Counter()

    def start(self) -> None:
        """Begin to write rows."""
        self._rows.start()

    def stop(self) -> None:
        """Write the rows that wait, then no more."""
        self._rows.stop()

    def space(self) -> SpaceState:
        """Room on the disk, for the health page."""
        return self._space.state()

    def accept(self, arrival: Arrival) -> Receipt:
        """Store one instance; it blocks until bytes and row are synced.

        Never raises for what a sender does; a failing disk or database is a receipt `no_space`, so that the
        sender keeps its copy and tries again.
        """
        try:
            receipt = self._accept(arrival)
        except StorageError as err:
            _log.error("an instance was not stored: %s", err)
            receipt = Receipt(verdict="no_space", reason="the node cannot store at the moment")
        except Exception as err:
            # One instance must not end its sender's association without an answer; the text may hold identifiers.
            _log.error("an instance was not stored: unexpected %s", type(err).__name__)
            receipt = Receipt(verdict="no_space", reason="the node failed at this instance")
        self.counts[receipt.verdict] += 1
        if receipt.verdict not in ("stored", "duplicate"):
            self._audit.record(
                "instance",
                peer=arrival.peer,
                outcome=receipt.verdict,
                reason=receipt.reason,
                sop_instance_uid=receipt.sop_instance_uid or arrival.sop_instance_uid,
            )
        return receipt

    def take_back(self, path: str) -> Verdict:
        """Take in a file of the vault that no row names, by the rules for one that is sent again.

        `stored`: a row names it now; `duplicate`: the instance has another file and this one is removed. With any
        other verdict the file is not whole, or is not what is stored under its UID; it stays where it is.

        Raises
        ------
        StorageError
            The database cannot be written.
        """
        try:
            content = self._vault.read(path)
            arrival = arrival_of(content, Peer(route="found"))
            facts = self._facts(arrival.data_set, arrival.transfer_syntax_uid)
        except (StorageError, ImageReadError, ValueError):
            return "unreadable"
        head = content[: len(content) - len(arrival.data_set)]
        file = whole_file(path, facts, head, arrival.data_set)
        if file is None:
            return "unreadable"
        row = self._row(facts, file, file.sha256, arrival.peer)
        known = self._rows.add(row)
        if known is None or known.path == path:
            return "stored"
        if not known.is_result and known.sha256 != file.sha256:
            return "conflict"
        if not known.is_result and not self._vault.place(known.path).exists():
            self._rows.move(facts.sop_instance_uid, known.path, path)
            return "stored"
        self._vault.remove(path)
        return "duplicate"

    def reject(self, peer: Peer, reason: str) -> None:
        """Count and write down something that came and is no instance."""
        self.counts["unreadable"] += 1
        self._audit.record("instance", peer=peer, outcome="unreadable", reason=reason)

    def room_for(self, size: int) -> Receipt | None:
        """The refusal of an instance of that size, or None where it would be taken."""
        limit = self._options.instance_limit
        if size > limit:
            reason = f"{bytes_text(size)}, storage.instance_limit is {bytes_text(limit)}"
            return Receipt(verdict="too_large", reason=reason)
        full = self._space.state(size).full
        return Receipt(verdict="no_space", reason=full) if full else None

    def _accept(self, arrival: Arrival) -> Receipt:
        refused = self.room_for(len(arrival.data_set))
        if refused is not None:
            return refused
        try:
            facts = self._facts(arrival.data_set, arrival.transfer_syntax_uid)
        except ImageReadError as err:
            return Receipt(verdict="unreadable", reason=str(err))
        mismatch = _mismatch(arrival, facts)
        if mismatch:
            return _receipt("mismatch", facts, mismatch)
        if self._deidentify is not None and _is_result(self._rows.known(facts.sop_instance_uid)):
            # A result of ours comes back; mapped once more it would not be known.
            return _receipt("duplicate", facts)
        data_set = arrival.data_set
        try:
            if self._deidentify is not None:
                data_set = _changed(new_file(facts, data_set), self._deidentify)
                facts = self._facts(data_set, arrival.transfer_syntax_uid)
        except IdentifiersLeftError as err:
            return Receipt(verdict="refused", reason=str(err))
        except ImageReadError as err:
            return Receipt(verdict="unreadable", reason=str(err))
        return self._store(arrival, facts, data_set)

    def _facts(self, data_set: bytes, transfer_syntax_uid: str) -> InstanceFacts:
        return read_facts(data_set, transfer_syntax_uid, secret=self._secret, limits=self._limits)

    def _store(self, arrival: Arrival, facts: InstanceFacts, data_set: bytes) -> Receipt:
        file = new_file(facts, data_set)
        as_it_came = data_set is arrival.data_set
        digest = file.sha256 if as_it_came else hashlib.sha256(arrival.data_set).hexdigest()
        row = self._row(facts, file, digest, arrival.peer)
        self._space.take(row.size)
        known = self._write(row, file)
        if known is None:
            return _receipt("stored", facts)
        # An archive that forwards everything sends our own results back to us. Of an instance that was taken back
        # nobody knows any more how it came.
        if known.is_result or known.sha256 in (digest, file.sha256):
            return _receipt("duplicate", facts)
        return _receipt(
            "conflict", facts, "this SOP Instance UID was stored before with other content; that one is kept"
        )

    def _row(self, facts: InstanceFacts, file: InstanceFile, sha256: str, peer: Peer) -> InstanceRow:
        return InstanceRow(
            facts=facts,
            path=file.path,
            size=len(file.head) + len(file.data_set),
            sha256=sha256,
            received_at=self._clock.now(),
            route=peer.route,
            peer=peer.name[:64],
        )

    def _write(self, row: InstanceRow, file: InstanceFile) -> Known | None:
        """Write file and row; None, or what was there first, which stays.

        Who sends an instance again, which few do, pays for a file that is written and removed; to ask the database
        before would cost more with each of the others.
        """
        self._vault.add(row.path, file.head, file.data_set)
        try:
            known = self._rows.add(row)
        except StorageError:
            # A commit that failed may still have happened; then the file stays.
            if self._rows.known(row.facts.sop_instance_uid) is None:
                self._vault.remove(row.path)
            raise
        if known is None or known.path == row.path:
            # In the second case another node has found the file before its row was written, and taken it back.
            return None
        self._vault.remove(row.path)
        return known

    def _held(self) -> int:
        with self._database.read() as connection:
            sums = [
                connection.execute(select(func.coalesce(func.sum(table.c.size), 0))).scalar_one()
                for table in (instances, results)
            ]
        return int(sum(sums))


def _is_result(known: Known | None) -> bool:
    return known is not None and known.is_result


def _receipt(verdict: Verdict, facts: InstanceFacts, reason: str = "") -> Receipt:
    return Receipt(
        verdict=verdict,
        reason=reason,
        sop_class_uid=facts.sop_class_uid,
        sop_instance_uid=facts.sop_instance_uid,
    )


def _mismatch(arrival: Arrival, facts: InstanceFacts) -> str:
    if arrival.sop_class_uid and arrival.sop_class_uid != facts.sop_class_uid:
        return "the data set is of another SOP class than its command says"
    if arrival.sop_instance_uid and arrival.sop_instance_uid != facts.sop_instance_uid:
        return "the data set is another SOP instance than its command says"
    if arrival.study_uid and arrival.study_uid != facts.study_uid:
        return "the instance is of another study than the one it was posted to"
    return ""


def _changed(file: InstanceFile, change: Deidentifier) -> bytes:
    """The data set of a file, changed, in the same transfer syntax."""
    try:
        with recorded_warnings():
            before = dcmread(io.BytesIO(file.head + file.data_set))
            syntax = before.file_meta.TransferSyntaxUID
            after = change(before)
            content = encoded(after, implicit_vr=syntax.is_implicit_VR, little_endian=syntax.is_little_endian)
    except PARSER_ERRORS as err:
        raise ImageReadError(f"its identifiers cannot be taken out ({type(err).__name__})") from err
    return _deflated(content) if syntax == DeflatedExplicitVRLittleEndian else content


def _deflated(data_set: bytes) -> bytes:
    """PS3.5 A.5: raw deflate, padded to an even length."""
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    packed = packer.compress(data_set) + packer.flush()
    return packed + b"\0" * (len(packed) % 2)
