"""The DICOM listener: C-STORE and C-ECHO, and reports of storage commitment.

An upper layer of its own instead of pynetdicom's server, whose TLS handshake runs in the accept loop and which has
neither a deadline for a whole PDU nor a limit on its length; pynetdicom parses requests and writes acceptances.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import ssl
import threading
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from medseg.node import negotiation, upper_layer
from medseg.node.arrival import IN_FLIGHT, Arrival, Budget, Peer, Receipt
from medseg.node.association import Association, EventReport, Services
from medseg.node.audit import Audit
from medseg.node.callers import Caller, may_call
from medseg.node.intake import Intake
from medseg.node.listen_options import CallerOptions, DimseListenOptions
from medseg.node.tcp_listener import HANDSHAKE_S, TcpListener, cannot_listen
from medseg.node.upper_layer import PeerGone, UpperLayerError

_log = logging.getLogger(__name__)
_STREAM_BUFFER = 1 << 20
_ARTIM_S = 2.0


class DimseServer:
    """Listens in a thread of its own.

    Parameters
    ----------
    options : DimseListenOptions
    callers : sequence of CallerOptions
        Who may call; empty: everybody.
    intake : Intake
    audit : Audit
    tls : ssl.SSLContext or None
    instance_limit : int
        Largest data set, bytes.
    warn_conflict : bool
        See `StorageOptions.on_conflict`.
    report : callable or None
        Takes reports of storage commitment.
    """

    def __init__(
        self,
        options: DimseListenOptions,
        *,
        callers: Sequence[CallerOptions],
        intake: Intake,
        audit: Audit,
        tls: ssl.SSLContext | None = None,
        instance_limit: int,
        warn_conflict: bool = False,
        report: EventReport | None = None,
    ) -> None:
        self._options, self._callers, self._intake, self._audit = options, callers, intake, audit
        self._tls = tls
        self._threads = ThreadPoolExecutor(options.max_associations, thread_name_prefix="store")
        self._services = Services(
            store=self._store,
            report=report,
            longest=options.max_pdu,
            instance_limit=instance_limit,
            within_s=options.idle_timeout,
            budget=Budget(most=max(IN_FLIGHT, instance_limit)),
            warn_conflict=warn_conflict,
        )
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._listener: TcpListener | None = None
        self._open: dict[asyncio.Task[None], Association | None] = {}
        # Connections without an association, the one that has waited longest first.
        self._waiting: dict[asyncio.Task[None], asyncio.StreamWriter] = {}
        self._stopping = False
        self.port = options.port
        self.counts: Counter[str] = Counter()

    @property
    def associations(self) -> int:
        """Open associations."""
        return sum(association is not None for association in list(self._open.values()))

    @property
    def alive(self) -> bool:
        """Whether it listens."""
        running = self._thread is not None and self._thread.is_alive()
        return running and self._listener is not None and self._listener.alive

    def start(self) -> None:
        """Listen.

        Raises
        ------
        StorageError
            The address cannot be listened on.
        """
        options = self._options
        listener = TcpListener(
            self._protocol,
            admit=self._admit,
            refused=self._no_connection,
            tls=self._tls,
            handshake_s=min(HANDSHAKE_S, options.idle_timeout),
        )
        try:
            listener.bind(options.host, options.port)
        except OSError as err:
            raise cannot_listen(options.host, options.port, "dimse", err) from err
        self._listener, self.port = listener, listener.port
        loop = self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=loop.run_forever, name="dimse", daemon=True)
        self._thread.start()
        asyncio.run_coroutine_threadsafe(listener.begin(), loop).result()

    def stop(self, deadline_s: float) -> None:
        """Take no more associations, let the busy ones finish, abort what is left at the deadline."""
        if self._loop is not None:
            asyncio.run_coroutine_threadsafe(self._close(deadline_s), self._loop).result()
            self._end()

    def _end(self) -> None:
        if self._loop is not None and self._thread is not None:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()
        self._threads.shutdown()
        self._loop = None

    def _protocol(self) -> asyncio.StreamReaderProtocol:
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader(limit=_STREAM_BUFFER, loop=loop)
        return asyncio.StreamReaderProtocol(reader, self._connected, loop=loop)

    def _admit(self, handshakes: int) -> bool:
        """Whether there may be one more connection; who has waited longest without a request makes room for it.

        Else whoever opens connections and says nothing would keep all others out.
        """
        if len(self._open) + handshakes < 4 * self._options.max_associations + 16:
            return True
        self.counts["flood"] += 1
        if not self._waiting:
            return False
        self._waiting.pop(next(iter(self._waiting))).transport.abort()
        return True

    async def _close(self, deadline_s: float) -> None:
        self._stopping = True
        if self._listener is not None:
            await self._listener.close()
        loop = asyncio.get_running_loop()
        end = loop.time() + deadline_s
        while any(one is not None and one.busy for one in self._open.values()) and loop.time() < end:
            await asyncio.sleep(0.05)
        for task in list(self._open):
            task.cancel()
        await asyncio.gather(*self._open, return_exceptions=True)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._open[task], self._waiting[task] = None, writer
        peer = Peer(route="dimse", address=str((writer.get_extra_info("peername") or ("",))[0]))
        try:
            await self._serve(task, reader, writer, peer)
        except PeerGone as err:
            self._ended(peer, "lost", str(err), task)
        except UpperLayerError as err:
            self._ended(peer, "aborted", str(err), task)
            writer.write(upper_layer.abort_pdu(err.reason))
        except OSError:
            self._ended(peer, "lost", "the connection ended", task)
        except asyncio.CancelledError:
            writer.write(upper_layer.abort_pdu(0))
        else:
            # It is no association any more, and makes room where there are too many.
            self._open[task], self._waiting[task] = None, writer
            with contextlib.suppress(asyncio.CancelledError):
                await _wait_for_end(reader)
        finally:
            del self._open[task]
            self._waiting.pop(task, None)
            await _close(writer)

    async def _serve(
        self, task: asyncio.Task[None], reader: asyncio.StreamReader, writer: asyncio.StreamWriter, peer: Peer
    ) -> None:
        pdu = await upper_layer.read_pdu(
            reader, longest=self._options.max_pdu, within_s=self._options.idle_timeout
        )
        self._waiting.pop(task, None)
        if pdu.kind != upper_layer.ASSOCIATE_RQ:
            raise UpperLayerError("it does not begin with an association request", 2)
        request = negotiation.parse_request(pdu.body)
        peer = Peer(
            route="dimse", name=request.calling, address=peer.address, certificate=_fingerprint(writer)
        )
        refusal = self._refusal(request, peer)
        if refusal is not None:
            sentence, answer = refusal
            # Who is not let in is always told; being one too many is no such thing.
            crowded = answer in (negotiation.TOO_MANY, negotiation.BUSY)
            self._ended(peer, "refused", sentence, task, always=not crowded)
            writer.write(upper_layer.reject_pdu(*answer))
            return
        answer_pdu, contexts = negotiation.accept(request, longest=self._options.max_pdu)
        association = Association(
            reader,
            writer,
            contexts=contexts,
            peer=peer,
            peer_longest=request.longest,
            services=self._services,
        )
        # Before the answer: who has heard it is counted.
        self._open[task] = association
        self.counts["accepted"] += 1
        writer.write(answer_pdu)
        await writer.drain()
        await association.serve()
        self._ended(peer, "released", "", task)

    def _refusal(self, request: negotiation.Request, peer: Peer) -> tuple[str, tuple[int, int, int]] | None:
        if not negotiation.has_application_context(request):
            return "another application context", negotiation.WRONG_APPLICATION
        if not may_call(
            Caller(ae_title=request.calling, address=peer.address, certificate=peer.certificate),
            self._callers,
        ):
            return "the caller is not in `callers`", negotiation.CALLING_UNKNOWN
        if request.called != self._options.ae_title:
            return "another AE title was called", negotiation.CALLED_UNKNOWN
        if self._stopping:
            return "the node is stopping", negotiation.BUSY
        if self.associations >= self._options.max_associations:
            return "dimse.max_associations are open", negotiation.TOO_MANY
        return None

    def _no_connection(self, address: str, reason: str) -> None:
        self._ended(Peer(route="dimse", address=address), "refused", reason, None)

    def _ended(
        self, peer: Peer, outcome: str, reason: str, task: asyncio.Task[None] | None, *, always: bool = False
    ) -> None:
        self.counts[outcome] += 1
        association = self._open.get(task) if task is not None else None
        counts = dict(association.counts) if association is not None else {}
        if outcome == "released" and not counts:
            # An echo, over and over; the counter has it.
            return
        if not (always or counts or self._audit.is_told("association", outcome, peer.address)):
            return

        def write() -> None:
            self._audit.record("association", peer=peer, outcome=outcome, reason=reason, instances=counts)

        asyncio.get_running_loop().run_in_executor(self._threads, write)

    async def _store(self, arrival: Arrival) -> Receipt:
        return await asyncio.get_running_loop().run_in_executor(self._threads, self._intake.accept, arrival)


def _fingerprint(writer: asyncio.StreamWriter) -> str:
    """SHA-256 of the peer's certificate, hex; "" without TLS or certificate."""
    secured = writer.get_extra_info("ssl_object")
    certificate = None if secured is None else secured.getpeercert(binary_form=True)
    return hashlib.sha256(certificate).hexdigest() if certificate else ""


async def _wait_for_end(reader: asyncio.StreamReader) -> None:
    """After a rejection or the reply to a release the peer closes (PS3.8 9.2.3, ARTIM); what it sends is dropped.

    Whoever is hung up on at once may hear of that before it has read the last PDU.
    """
    with contextlib.suppress(OSError, TimeoutError):
        async with asyncio.timeout(_ARTIM_S):
            while await reader.read(_STREAM_BUFFER):
                pass


async def _close(writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError, TimeoutError, asyncio.CancelledError):
        writer.close()
        async with asyncio.timeout(1.0):
            await writer.wait_closed()
    writer.transport.abort()
