"""One association: what a peer sends is stored, echoed or refused."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from medseg.node import dimse_message as dimse
from medseg.node import upper_layer
from medseg.node.arrival import Arrival, Budget, Peer, Receipt, Verdict
from medseg.node.dimse_message import Command
from medseg.node.negotiation import STORAGE_COMMITMENT, VERIFICATION, Context
from medseg.node.upper_layer import Pdv, UpperLayerError

_MAX_COMMAND = 64 * 1024
# After so many values the others have their turn: one peer that sends the smallest of them keeps the event loop busy.
_IN_A_ROW = 64

STATUS: dict[Verdict, int] = {
    "stored": dimse.SUCCESS,
    "duplicate": dimse.SUCCESS,
    "conflict": dimse.DATA_SET_MISMATCH,
    "mismatch": dimse.DATA_SET_MISMATCH,
    "unreadable": dimse.CANNOT_UNDERSTAND,
    "refused": dimse.CANNOT_UNDERSTAND,
    "no_space": dimse.OUT_OF_RESOURCES,
    "too_large": dimse.OUT_OF_RESOURCES,
}
"""C-STORE status (PS3.4 B.2.3) of each verdict."""

EventReport = Callable[[bytes, str, int], int]
"""Data set, transfer syntax and event type of a storage commitment report -> status."""


@dataclass(slots=True, kw_only=True)
class Services:
    """What associations share.

    Parameters
    ----------
    store : callable
        Takes an arrival in, somewhere else than in the event loop.
    report : callable or None
        Takes a report of storage commitment.
    longest, instance_limit : int
        Bytes of a PDU, of a data set.
    within_s : float
        Deadline of a PDU.
    budget : Budget
    warn_conflict : bool
        Whether a conflict is a warning.
    """

    store: Callable[[Arrival], Awaitable[Receipt]]
    report: EventReport | None
    longest: int
    instance_limit: int
    within_s: float
    budget: Budget
    warn_conflict: bool = False


@dataclass(slots=True)
class _Incoming:
    """A message that is on its way: command, then data set."""

    context_id: int
    command_set: bytearray = field(default_factory=bytearray)
    command: Command | None = None
    # Not a list: a peer may cut what it sends into fragments of a byte or of none.
    data_set: bytearray = field(default_factory=bytearray)
    refused: Receipt | None = None


class Association:
    """Serves one peer until it releases or aborts.

    Parameters
    ----------
    reader, writer
        The connection, after the negotiation.
    contexts : dict
        Accepted presentation contexts.
    peer : Peer
    peer_longest : int
        Longest PDU that the peer takes; 0: any.
    services : Services
    """

    def __init__(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        *,
        contexts: dict[int, Context],
        peer: Peer,
        peer_longest: int,
        services: Services,
    ) -> None:
        self._reader, self._writer, self._contexts, self._peer = reader, writer, contexts, peer
        self._peer_longest, self._services = peer_longest, services
        self._incoming: _Incoming | None = None
        self.counts: Counter[Verdict] = Counter()
        self.busy = False

    async def serve(self) -> None:
        """Until the peer releases.

        Raises
        ------
        UpperLayerError
            The peer aborted, vanished or broke the protocol.
        """
        services, values = self._services, 0
        try:
            while True:
                pdu = await upper_layer.read_pdu(
                    self._reader, longest=services.longest, within_s=services.within_s
                )
                if pdu.kind == upper_layer.DATA_TF:
                    for value in upper_layer.values_of(pdu.body):
                        await self._take(value)
                        values += 1
                        if values % _IN_A_ROW == 0:
                            await asyncio.sleep(0)
                elif pdu.kind == upper_layer.RELEASE_RQ:
                    await self._send(upper_layer.release_reply())
                    return
                elif pdu.kind == upper_layer.ABORT:
                    raise upper_layer.PeerGone("the peer aborted")
                else:
                    raise UpperLayerError("a PDU that has no place in an association", 2)
        finally:
            self._drop()

    async def _take(self, value: Pdv) -> None:
        incoming = self._incoming
        if incoming is None:
            if value.context_id not in self._contexts:
                raise UpperLayerError("a presentation context that was not accepted", 6)
            incoming = self._incoming = _Incoming(value.context_id)
            self.busy = True
        if value.context_id != incoming.context_id or value.is_command != (incoming.command is None):
            raise UpperLayerError("fragments of a message out of order", 6)
        if value.is_command:
            await self._take_command(incoming, value)
        else:
            await self._take_data(incoming, value)

    async def _take_command(self, incoming: _Incoming, value: Pdv) -> None:
        incoming.command_set += value.data
        if len(incoming.command_set) > _MAX_COMMAND:
            raise UpperLayerError(f"a command of more than {_MAX_COMMAND} bytes", 6)
        if not value.is_last:
            return
        incoming.command = dimse.parse_command(bytes(incoming.command_set))
        if not incoming.command.has_data_set:
            await self._answer(incoming, incoming.command)

    async def _take_data(self, incoming: _Incoming, value: Pdv) -> None:
        count = len(value.data)
        if incoming.refused is None:
            incoming.refused = self._no_room(incoming, count)
            if incoming.refused is not None:
                self._forget_data(incoming)
        # What is refused is read on, for the protocol has no way to say so before its end.
        if incoming.refused is None:
            incoming.data_set += value.data
        if value.is_last and incoming.command is not None:
            await self._answer(incoming, incoming.command)

    def _no_room(self, incoming: _Incoming, count: int) -> Receipt | None:
        services = self._services
        if len(incoming.data_set) + count > services.instance_limit:
            limit = services.instance_limit
            return Receipt(verdict="too_large", reason=f"more than storage.instance_limit, {limit} bytes")
        if not services.budget.take(count):
            return Receipt(verdict="no_space", reason="too many instances at a time; try again")
        return None

    async def _answer(self, incoming: _Incoming, command: Command) -> None:
        status, comment = await self._status(incoming, command)
        self._forget_data(incoming)
        self._incoming = None
        if command.field != dimse.C_CANCEL_RQ:
            message = dimse.reply(command, status, comment=comment)
            for pdu in upper_layer.data_pdus(
                incoming.context_id, message, is_command=True, longest=self._peer_longest
            ):
                await self._send(pdu)
        self.busy = False

    async def _status(self, incoming: _Incoming, command: Command) -> tuple[int, str]:
        if command.field == dimse.C_ECHO_RQ:
            return dimse.SUCCESS, ""
        context = self._contexts[incoming.context_id]
        if command.field == dimse.C_STORE_RQ:
            if context.abstract_syntax in (VERIFICATION, STORAGE_COMMITMENT):
                return dimse.CLASS_NOT_SUPPORTED, "not a class of objects that are stored"
            receipt = incoming.refused or await self._store(incoming, command)
            self.counts[receipt.verdict] += 1
            conflict = receipt.verdict == "conflict" and self._services.warn_conflict
            return dimse.COERCED if conflict else STATUS[receipt.verdict], receipt.reason
        if command.field == dimse.N_EVENT_REPORT_RQ and self._services.report is not None:
            if context.abstract_syntax != STORAGE_COMMITMENT:
                return dimse.CLASS_NOT_SUPPORTED, ""
            data, syntax = bytes(incoming.data_set), context.transfer_syntax
            return await asyncio.to_thread(self._services.report, data, syntax, command.event_type), ""
        return dimse.UNRECOGNISED_OPERATION, ""

    async def _store(self, incoming: _Incoming, command: Command) -> Receipt:
        context = self._contexts[incoming.context_id]
        if command.sop_class_uid != context.abstract_syntax:
            return Receipt(verdict="mismatch", reason="the command names another SOP class than its context")
        return await self._services.store(
            Arrival(
                data_set=bytes(incoming.data_set),
                transfer_syntax_uid=context.transfer_syntax,
                sop_class_uid=command.sop_class_uid,
                sop_instance_uid=command.sop_instance_uid,
                peer=self._peer,
            )
        )

    def _forget_data(self, incoming: _Incoming) -> None:
        self._services.budget.give_back(len(incoming.data_set))
        incoming.data_set = bytearray()

    def _drop(self) -> None:
        if self._incoming is not None:
            self._forget_data(self._incoming)
            self._incoming = None

    async def _send(self, data: bytes) -> None:
        try:
            self._writer.write(data)
            async with asyncio.timeout(self._services.within_s):
                await self._writer.drain()
        except (TimeoutError, ConnectionError, OSError) as err:
            raise upper_layer.PeerGone("the peer takes no answer") from err
