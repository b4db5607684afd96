"""Association requests -> acceptance or rejection (PS3.8 7.1)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

from pydicom.uid import UID, AllTransferSyntaxes
from pynetdicom import AllStoragePresentationContexts
from pynetdicom.pdu import A_ASSOCIATE_AC, A_ASSOCIATE_RQ
from pynetdicom.pdu_primitives import (
    A_ASSOCIATE,
    ImplementationClassUIDNotification,
    ImplementationVersionNameNotification,
    MaximumLengthNotification,
    SCP_SCU_RoleSelectionNegotiation,
)
from pynetdicom.presentation import PresentationContext

from medseg.export.dicom_bytes import IMPLEMENTATION_VERSION_NAME
from medseg.export.identity import IMPLEMENTATION_CLASS_UID
from medseg.node.upper_layer import ASSOCIATE_RQ, UpperLayerError

VERIFICATION = "1.2.840.10008.1.1"
STORAGE_COMMITMENT = "1.2.840.10008.1.20.1"
_UNREADABLE = "an association request that cannot be read"
_APPLICATION_CONTEXT = "1.2.840.10008.3.1.1.1"
_STORAGE_ROOT = "1.2.840.10008.5.1.4.1.1."
_FIXED = 68
"""Bytes of a request before its items (PS3.8 9.3.2)."""
_USER_INFORMATION = 0x50
_ITEMS = frozenset({0x10, 0x20, _USER_INFORMATION})
_USER_ITEMS = frozenset(range(0x51, 0x59))
_ACCEPTED, _NO_ABSTRACT_SYNTAX, _NO_TRANSFER_SYNTAX = 0x00, 0x03, 0x04

CALLED_UNKNOWN = (1, 1, 7)
CALLING_UNKNOWN = (1, 1, 3)
WRONG_APPLICATION = (1, 1, 2)
TOO_MANY = (2, 3, 2)
BUSY = (2, 3, 1)
"""Result, source and reason of A-ASSOCIATE-RJ (PS3.8 table 9-21)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """An association request.

    Parameters
    ----------
    primitive : A_ASSOCIATE
        As pynetdicom read it.
    called, calling : str
        AE titles without padding.
    longest : int
        Longest PDU that the peer takes; 0: any.
    """

    primitive: Any
    called: str
    calling: str
    longest: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """An accepted presentation context."""

    abstract_syntax: str
    transfer_syntax: str


def parse_request(body: bytes) -> Request:
    """The body of an A-ASSOCIATE-RQ PDU.

    Raises
    ------
    UpperLayerError
        It is none, or two of its presentation contexts have one identifier.
    """
    pdu = A_ASSOCIATE_RQ()
    body = _known_items(body)
    try:
        pdu.decode(bytes((ASSOCIATE_RQ, 0)) + len(body).to_bytes(4, "big") + body)
        primitive: Any = pdu.to_primitive()
        called, calling = (
            str(title).strip() for title in (primitive.called_ae_title, primitive.calling_ae_title)
        )
        longest = next(
            (
                int(item.maximum_length_received)
                for item in primitive.user_information
                if isinstance(item, MaximumLengthNotification)
            ),
            0,
        )
        offered = [int(one.context_id) for one in primitive.presentation_context_definition_list]
    # What a hostile request makes pynetdicom raise is not listed anywhere.
    except Exception as err:
        raise UpperLayerError(_UNREADABLE, 6) from err
    if len(set(offered)) < len(offered):
        raise UpperLayerError("two presentation contexts with one identifier", 6)
    return Request(primitive=primitive, called=called, calling=calling, longest=longest)


def _known_items(body: bytes) -> bytes:
    """The request without items that are not known, which PS3.8 9.3.1 has us pass over and pynetdicom refuses."""
    kept = bytearray(body[:_FIXED])
    for kind, item in _items(body[_FIXED:]):
        if kind == _USER_INFORMATION:
            known = b"".join(_item(inner, value) for inner, value in _items(item) if inner in _USER_ITEMS)
            kept += _item(kind, known)
        elif kind in _ITEMS:
            kept += _item(kind, item)
    return bytes(kept)


def _items(data: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at < len(data):
        begins = at + 4
        at = begins + int.from_bytes(data[at + 2 : begins], "big")
        if begins > len(data) or at > len(data):
            raise UpperLayerError(_UNREADABLE, 6)
        yield data[begins - 4], data[begins:at]


def _item(kind: int, value: bytes) -> bytes:
    return bytes((kind, 0)) + len(value).to_bytes(2, "big") + value


def has_application_context(request: Request) -> bool:
    """Whether the request is for DICOM."""
    return str(request.primitive.application_context_name) == _APPLICATION_CONTEXT


def accept(request: Request, *, longest: int) -> tuple[bytes, dict[int, Context]]:
    """A-ASSOCIATE-AC, and the accepted contexts by their identifier.

    Of each context the first transfer syntax that a reader knows is taken, since instances are stored as they come.

    Parameters
    ----------
    request : Request
    longest : int
        Longest PDU that we take.

    Raises
    ------
    UpperLayerError
        What it asks for cannot be answered.
    """
    try:
        return _accept(request, longest)
    # As above.
    except Exception as err:
        raise UpperLayerError(_UNREADABLE, 6) from err


def _accept(request: Request, longest: int) -> tuple[bytes, dict[int, Context]]:
    contexts: dict[int, Context] = {}
    results = []
    for offered in request.primitive.presentation_context_definition_list:
        answer, context = _answer(offered)
        results.append(answer)
        if context is not None:
            contexts[int(offered.context_id)] = context
    primitive = A_ASSOCIATE()
    primitive.application_context_name = _APPLICATION_CONTEXT
    primitive.called_ae_title = request.primitive.called_ae_title
    primitive.calling_ae_title = request.primitive.calling_ae_title
    primitive.presentation_context_definition_results_list = results
    primitive.user_information = [*_about_us(longest), *_roles(request)]
    return bytes(A_ASSOCIATE_AC(primitive).encode()), contexts


def _answer(offered: PresentationContext) -> tuple[PresentationContext, Context | None]:
    abstract = str(offered.abstract_syntax)
    known = [syntax for syntax in offered.transfer_syntax if str(syntax) in _known_syntaxes()]
    answer = PresentationContext()
    answer.context_id = offered.context_id
    answer.abstract_syntax = offered.abstract_syntax
    # A rejected context has a transfer syntax, too; it means nothing (PS3.8 9.3.3.2).
    answer.transfer_syntax = [(known or offered.transfer_syntax or [UID("1.2.840.10008.1.2")])[0]]
    if abstract not in (VERIFICATION, STORAGE_COMMITMENT) and not _is_storage(abstract):
        answer.result = _NO_ABSTRACT_SYNTAX
    elif not known:
        answer.result = _NO_TRANSFER_SYNTAX
    else:
        answer.result = _ACCEPTED
        return answer, Context(abstract_syntax=abstract, transfer_syntax=str(known[0]))
    return answer, None


def _is_storage(abstract: str) -> bool:
    return abstract.startswith(_STORAGE_ROOT) or abstract in _storage_classes()


@cache
def _storage_classes() -> frozenset[str]:
    return frozenset(str(context.abstract_syntax) for context in AllStoragePresentationContexts)


@cache
def _known_syntaxes() -> frozenset[str]:
    return frozenset(str(syntax) for syntax in AllTransferSyntaxes)


def _about_us(longest: int) -> list[Any]:
    length, implementation = MaximumLengthNotification(), ImplementationClassUIDNotification()
    length.maximum_length_received = longest
    implementation.implementation_class_uid = UID(IMPLEMENTATION_CLASS_UID)
    version = ImplementationVersionNameNotification()
    version.implementation_version_name = IMPLEMENTATION_VERSION_NAME
    return [length, implementation, version]


def _roles(request: Request) -> list[Any]:
    """An archive that reports on storage commitment calls us as its SCP would; we are the SCU."""
    answers = []
    for item in request.primitive.user_information:
        if not isinstance(item, SCP_SCU_RoleSelectionNegotiation):
            continue
        answer = SCP_SCU_RoleSelectionNegotiation()
        answer.sop_class_uid = item.sop_class_uid
        commitment = str(item.sop_class_uid) == STORAGE_COMMITMENT
        answer.scu_role = bool(item.scu_role) and not commitment
        answer.scp_role = bool(item.scp_role) and commitment
        # Neither role cannot be said: without an answer the default roles hold (PS3.7 D.3.3.4).
        if answer.scu_role or answer.scp_role:
            answers.append(answer)
    return answers
