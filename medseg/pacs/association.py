"""Associations with an archive that we request, by pynetdicom."""

from __future__ import annotations

import contextlib
import logging
import socket
import ssl
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from pydicom.uid import UID
from pynetdicom import AE, _config, evt
from pynetdicom.pdu import A_ASSOCIATE_RJ

from medseg.amounts import bytes_text
from medseg.errors import PacsRejectedError, PacsUnreachableError
from medseg.pacs.held_line import bound_line, bound_messages, hold_to_requests
from medseg.pacs.options import DimsePeer
from medseg.pacs.reactor import stand_still
from medseg.pacs.tls import client_context

# It logs what is sent, identifiers included.
logging.getLogger("pynetdicom").setLevel(logging.CRITICAL)
_config.LOG_REQUEST_IDENTIFIERS = False
_config.LOG_RESPONSE_IDENTIFIERS = False

_TRANSIENT = 2
_NAMED = 3
_LONGEST_ANSWER = 16 << 20
# PS3.8 9.3.5.1: length, context and control header, then data.
_SHORTEST_PDU = 7

Context = tuple[str, Sequence[str] | None]
"""SOP class and the transfer syntaxes proposed for it; None: pynetdicom's own choice."""

Handler = tuple[Any, Callable[..., Any]]
"""An event of pynetdicom, and what is called on it."""


class Requestor:
    """Opens associations with one archive.

    Parameters
    ----------
    archive : DimsePeer
    timeout_s : float
        Longest silence.
    """

    def __init__(self, archive: DimsePeer, *, timeout_s: float) -> None:
        self.timeout_s = timeout_s
        self.place = archive.place
        self._archive = archive
        self._tls: tuple[ssl.SSLContext, str] | None = None
        if archive.tls is not None:
            context = client_context(archive.tls, field="tls")
            self._tls = (context, archive.tls.server_name or archive.host)

    @contextlib.contextmanager
    def associate(
        self,
        contexts: Iterable[Context],
        *,
        roles: Sequence[Any] = (),
        handlers: Sequence[Handler] = (),
        longest_message: int = _LONGEST_ANSWER,
    ) -> Iterator[Any]:
        """An association of pynetdicom, released when the block ends.

        Parameters
        ----------
        contexts : iterable of Context
            Presentation contexts that are proposed.
        roles : sequence, optional
            Items of SCP/SCU role selection.
        handlers : sequence of Handler, optional
        longest_message : int, optional
            Most bytes of an answer, or of an instance that the archive sends.

        Raises
        ------
        PacsUnreachableError
            No connection, silence, or no room at the moment.
        PacsRejectedError
            The archive lets us not in, accepts none of the contexts, takes no data, or sends more
            than is taken.
        """
        proposed, refusal = list(contexts), _Refusal()
        association = self._requested(proposed, roles, [(evt.EVT_PDU_RECV, refusal.note), *handlers])
        if not association.is_established:
            raise self._failure(association, proposed, refusal)
        if wrong := _wrong_acceptance(association):
            association.abort()
            raise PacsRejectedError(f"{self.place} {wrong}")
        stand_still(association)
        arriving = bound_messages(association, longest_message)
        hold_to_requests(association, arriving)
        try:
            yield association
        except PacsUnreachableError as err:
            if not arriving.too_long:
                raise
            most = bytes_text(longest_message)
            raise PacsRejectedError(f"{self.place} sent an answer or instance of more than {most}") from err
        finally:
            association.release()

    def _requested(
        self, proposed: Sequence[Context], roles: Sequence[Any], handlers: Sequence[Handler]
    ) -> Any:
        try:
            return self._entity(proposed).associate(
                self._archive.host,
                self._archive.port,
                ae_title=self._archive.called_ae_title,
                ext_neg=list(roles),
                evt_handlers=[*_PROMPT, *handlers],
                tls_args=self._tls,
            )
        except (OSError, UnicodeError) as err:
            # The name is looked up before there is a connection that could fail.
            reason = getattr(err, "strerror", None) or "it is no name of a host"
            raise PacsUnreachableError(f"{self.place} does not answer: {reason}") from err

    def _entity(self, contexts: Iterable[Context]) -> Any:
        ae = AE(ae_title=self._archive.calling_ae_title)
        ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = ae.connection_timeout = self.timeout_s
        for sop_class, syntaxes in contexts:
            ae.add_requested_context(sop_class, None if syntaxes is None else list(syntaxes))
        return ae

    def _failure(self, association: Any, proposed: Sequence[Context], refusal: _Refusal) -> Exception:
        if (answer := refusal.answer) is not None:
            if int(answer.result) == _TRANSIENT:
                return PacsUnreachableError(f"{self.place} is busy: {answer.reason_str}")
            return PacsRejectedError(f"{self.place} refused the association: {answer.reason_str}")
        if association.rejected_contexts and not association.accepted_contexts:
            return PacsRejectedError(f"{self.place} accepts none of {_names(proposed)}")
        doubt = (
            "whether it wants TLS" if self._tls is None else "whether each accepts the other's certificate"
        )
        return PacsUnreachableError(
            f"{self.place} does not answer, or ended the connection; look at host and port, and {doubt}"
        )


class _Refusal:
    """The archive's A-ASSOCIATE-RJ, if there is one.

    pynetdicom's own word of it gets lost where the connection is closed before the thread that asked for it looks.
    """

    def __init__(self) -> None:
        self.answer: Any = None

    def note(self, event: Any) -> None:
        """Look at a PDU that has come."""
        if isinstance(event.pdu, A_ASSOCIATE_RJ):
            self.answer = event.pdu.to_primitive()


def _wrong_acceptance(association: Any) -> str:
    """What is wrong with the acceptance of an association; "" where nothing is."""
    most = association.acceptor.maximum_length or 0
    if 0 < most < _SHORTEST_PDU:
        return f"takes PDUs of {most} bytes at most, which hold no data"
    offered = {each.context_id: each.transfer_syntax for each in association.requestor.requested_contexts}
    for context in association.accepted_contexts:
        if context.transfer_syntax[0] not in offered[context.context_id]:
            return f"accepts {UID(context.abstract_syntax).name} in a transfer syntax that was not offered"
    return ""


def _send_at_once(event: Any) -> None:
    """Turn Nagle's algorithm off: the data set must not wait until the command before it is acknowledged."""
    event.assoc.dul.socket.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def _acknowledge_at_once(event: Any) -> None:
    """Archives send the head of an answer alone, and the rest when TCP has acknowledged that (Linux)."""
    connection = event.assoc.dul.socket.socket
    option = getattr(socket, "TCP_QUICKACK", None)
    if connection is not None and option is not None:
        # The kernel forgets it after a while, so it is said after each PDU; a closed socket is noticed elsewhere.
        with contextlib.suppress(OSError):
            connection.setsockopt(socket.IPPROTO_TCP, option, 1)


def _wait_no_more(event: Any) -> None:
    """Let no one wait for an answer on a closed connection: pynetdicom may have lost its own word of that."""
    event.assoc.dimse_timeout = event.assoc.acse_timeout = 0


_PROMPT: tuple[Handler, ...] = (
    (evt.EVT_CONN_OPEN, bound_line),
    (evt.EVT_CONN_OPEN, _send_at_once),
    (evt.EVT_PDU_SENT, _acknowledge_at_once),
    (evt.EVT_CONN_CLOSE, _wait_no_more),
)


def _names(contexts: Sequence[Context]) -> str:
    names = list(dict.fromkeys(UID(sop_class).name for sop_class, _ in contexts))
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more
