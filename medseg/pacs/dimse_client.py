"""C-STORE, C-ECHO and storage commitment towards an archive, by pynetdicom."""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any

from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import UID, ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import evt
from pynetdicom.association import Association
from pynetdicom.dimse_messages import C_STORE_RSP
from pynetdicom.sop_class import StorageCommitmentPushModel, StorageCommitmentPushModelInstance, Verification
from pynetdicom.status import code_to_category

from medseg.errors import MedsegError, PacsRejectedError, PacsUnreachableError
from medseg.io.foreign import PARSER_ERRORS
from medseg.pacs.association import Context, Handler, Requestor
from medseg.pacs.flight import Flight
from medseg.pacs.options import DimseArchive
from medseg.pacs.sending import Outgoing, Sent, SentState, all_answered, left_for_later
from medseg.pacs.transcode import uncompressed

_NATIVE = (ExplicitVRLittleEndian, ImplicitVRLittleEndian)
_MESSAGE_IDS = 65535
_MAX_CONTEXTS = 127
_FAILURE = 0x0110
_REPORT_WAIT_S = 2.0
_OUT_OF_RESOURCES = range(0xA700, 0xA800)

EventReport = Callable[[Dataset, int], int]
"""Event information and event type of a storage commitment report -> status."""


class DimseSender:
    """Delivers to one archive; every batch has an association of its own.

    Parameters
    ----------
    options : DimseArchive
    report : callable or None
        Takes a report of storage commitment that comes on the same association.
    """

    def __init__(self, options: DimseArchive, *, report: EventReport | None = None) -> None:
        self._requestor = Requestor(options, timeout_s=options.timeout)
        self._place, self._report = self._requestor.place, report

    def echo(self) -> None:
        """C-ECHO.

        Raises
        ------
        PacsUnreachableError
            It does not answer.
        PacsRejectedError
            It refuses the association or the echo.
        """
        with self._associate([(Verification, None)]) as association:
            status = association.send_c_echo()
        if "Status" not in status:
            raise PacsUnreachableError(f"{self._place} took the association but does not answer C-ECHO")
        if int(status.Status) != 0:
            raise PacsRejectedError(f"{self._place} answered C-ECHO with status {int(status.Status):04X}")

    def send(self, files: Sequence[Outgoing], flight: Flight | None = None) -> list[Sent]:
        """C-STORE of each file; see `Sender`."""
        flight, answers = flight or Flight(), []
        for batch in _batches(files):
            answers += self._send_batch(batch, flight)
        return answers

    def ask_commitment(self, files: Sequence[tuple[str, str]], transaction_uid: str) -> None:
        """N-ACTION: ask the archive to promise that it keeps instances.

        Parameters
        ----------
        files : sequence of (SOP class UID, SOP instance UID)
        transaction_uid : str

        Raises
        ------
        PacsUnreachableError, PacsRejectedError
        """
        request = Dataset()
        request.TransactionUID = transaction_uid
        request.ReferencedSOPSequence = [_reference(*file) for file in files]
        with self._associate([(StorageCommitmentPushModel, None)]) as association:
            status, _ = association.send_n_action(
                request, 1, StorageCommitmentPushModel, StorageCommitmentPushModelInstance
            )
            if int(status.get("Status", _FAILURE)) == 0 and self._report is not None:
                # PS3.4 J.3.3: the report may come on this association, as long as it is there.
                association._reactor_checkpoint.served.wait(_REPORT_WAIT_S)
        if "Status" not in status:
            raise PacsUnreachableError(f"{self._place} does not answer the request for storage commitment")
        if int(status.Status) != 0:
            raise PacsRejectedError(
                f"{self._place} refused storage commitment with status {int(status.Status):04X}"
            )

    def _associate(self, contexts: Iterable[Context], *more: Handler) -> AbstractContextManager[Any]:
        reports = [] if self._report is None else [(evt.EVT_N_EVENT_REPORT, self._reported)]
        return self._requestor.associate(contexts, handlers=[*reports, *more])

    def _reported(self, event: Any) -> tuple[int, None]:
        report = self._report
        return (0x0211 if report is None else report(event.event_information, int(event.event_type))), None

    def _send_batch(self, files: Sequence[Outgoing], flight: Flight) -> list[Sent]:
        contexts = [(sop_class, [syntax]) for sop_class, syntax in _contexts(files)]
        answers: list[Sent] = []
        try:
            with self._associate(contexts, (evt.EVT_PDU_SENT, lambda _event: flight.moved())) as association:
                named = _NamedInstances(association)
                for index, file in enumerate(files):
                    if not flight.begin():
                        return answers + left_for_later(files[index:])
                    answers.append(self._store(association, named, file, 1 + index % _MESSAGE_IDS))
                    flight.end(answers[-1:])
                return answers
        except (PacsUnreachableError, PacsRejectedError) as err:
            # A wrong AE title is mended at the archive, not by giving results up.
            return all_answered(files, "again", str(err))

    def _store(
        self, association: Association, named: _NamedInstances, file: Outgoing, message_id: int
    ) -> Sent:
        if not association.is_established:
            return _answer(file, "again", f"{self._place} ended the association")
        try:
            data_set = _acceptable(dcmread(io.BytesIO(file.content)), association)
            begun = time.monotonic()
            status = association.send_c_store(data_set, msg_id=message_id)
        except _NotTakenError as err:
            return _answer(file, "refused", f"{self._place} {err}")
        except (ValueError, AttributeError, RuntimeError, *PARSER_ERRORS) as err:
            if not association.is_established:
                return _answer(file, "again", f"{self._place} ended the association")
            return _answer(file, "refused", f"the file cannot be sent ({type(err).__name__})")
        if "Status" not in status:
            # pynetdicom ends the association in both cases; only the time tells a silent peer from one that hung up.
            if time.monotonic() - begun < self._requestor.timeout_s:
                return _answer(file, "again", f"{self._place} ended the association")
            return _answer(file, "again", f"{self._place} did not answer in {self._requestor.timeout_s:g} s")
        if named.take(message_id) not in ("", data_set.SOPInstanceUID):
            return _answer(file, "again", f"{self._place} answered for another instance")
        return self._judge(file, int(status.Status))

    def _judge(self, file: Outgoing, status: int) -> Sent:
        category = code_to_category(status)
        if category == "Success":
            return _answer(file, "sent", "")
        if category == "Warning":
            return _answer(file, "sent", f"stored with warning {status:04X}")
        if status in _OUT_OF_RESOURCES:
            return _answer(file, "again", f"{self._place} is out of resources (status {status:04X})")
        return _answer(file, "refused", f"{self._place} refused it with status {status:04X}")


class _NamedInstances:
    """The instances that answers to C-STORE name, which pynetdicom does not hand on (PS3.7 9.1.1.1.4: optional)."""

    def __init__(self, association: Association) -> None:
        self._by_message: dict[int, str] = {}
        association.bind(evt.EVT_DIMSE_RECV, self._received)

    def take(self, message_id: int) -> str:
        """The instance that the answer to a message named, "" where it named none."""
        return self._by_message.pop(message_id, "")

    def _received(self, event: Any) -> None:
        if isinstance(event.message, C_STORE_RSP):
            command = event.message.command_set
            uid = str(command.get("AffectedSOPInstanceUID") or "").strip("\0 ")
            # Of two answers to a message the first is taken.
            self._by_message.setdefault(int(command.MessageIDBeingRespondedTo), uid)


class _NotTakenError(Exception):
    """No accepted presentation context fits the file."""


def _answer(file: Outgoing, state: SentState, reason: str) -> Sent:
    return Sent(sop_instance_uid=file.sop_instance_uid, state=state, reason=reason)


def _batches(files: Sequence[Outgoing]) -> Iterator[list[Outgoing]]:
    """Parts whose presentation contexts fit into one association."""
    batch: list[Outgoing] = []
    asked: set[tuple[str, str]] = set()
    for file in files:
        wanted = set(_contexts([file]))
        if len(asked | wanted) > _MAX_CONTEXTS:
            yield batch
            batch, asked = [], set()
        batch.append(file)
        asked |= wanted
    if batch:
        yield batch


def _contexts(files: Sequence[Outgoing]) -> list[tuple[str, str]]:
    """A context for each SOP class and syntax: peers choose one of each context, so one each."""
    asked: dict[tuple[str, str], None] = {}
    for file in files:
        for syntax in (_syntax_of(file.content), *_NATIVE):
            asked[file.sop_class_uid, str(syntax)] = None
    return list(asked)


def _syntax_of(content: bytes) -> str:
    meta = dcmread(io.BytesIO(content), specific_tags=["SOPClassUID"], stop_before_pixels=True).file_meta
    return str(meta.TransferSyntaxUID)


def _acceptable(data_set: Dataset, association: Association) -> Dataset:
    """The data set in a transfer syntax that the archive took; never with loss."""
    sop_class, own = data_set.SOPClassUID, data_set.file_meta.TransferSyntaxUID
    taken = {
        UID(str(context.transfer_syntax[0]))
        for context in association.accepted_contexts
        if context.abstract_syntax == sop_class
    }
    if not taken:
        raise _NotTakenError(f"does not take {UID(str(sop_class)).name}")
    if own in taken:
        return data_set
    name = UID(str(own)).name
    if not taken.intersection(_NATIVE):
        raise _NotTakenError(f"takes {UID(str(sop_class)).name}, but not in {name} or uncompressed")
    try:
        return uncompressed(data_set)
    except MedsegError as err:
        raise _NotTakenError(f"does not take {name}: {err}") from err


def _reference(sop_class_uid: str, sop_instance_uid: str) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = sop_class_uid, sop_instance_uid
    return item
