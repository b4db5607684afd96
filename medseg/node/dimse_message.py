"""DIMSE command sets (PS3.7 E): those of requests are parsed with pydicom, the short replies are packed."""

from __future__ import annotations

import io
from dataclasses import dataclass

from pydicom.dataset import Dataset
from pydicom.filereader import read_dataset

from medseg.io.foreign import PARSER_ERRORS
from medseg.node.upper_layer import UpperLayerError

C_STORE_RQ, C_ECHO_RQ, C_CANCEL_RQ, N_EVENT_REPORT_RQ = 0x0001, 0x0030, 0x0FFF, 0x0100
REPLY = 0x8000
NO_DATA_SET = 0x0101

SUCCESS = 0x0000
OUT_OF_RESOURCES = 0xA700
DATA_SET_MISMATCH = 0xA900
CANNOT_UNDERSTAND = 0xC000
COERCED = 0xB000
UNRECOGNISED_OPERATION = 0x0211


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """A request: what it asks for and about what."""

    field: int
    message_id: int
    has_data_set: bool
    sop_class_uid: str
    sop_instance_uid: str
    event_type: int


def parse_command(data: bytes) -> Command:
    """A command set, Implicit VR Little Endian.

    Raises
    ------
    UpperLayerError
        It is none.
    """
    try:
        found = read_dataset(io.BytesIO(data), True, True)
        return Command(
            field=int(found.CommandField),
            message_id=int(found.get("MessageID") or 0),
            has_data_set=int(found.CommandDataSetType) != NO_DATA_SET,
            sop_class_uid=_uid(found, "AffectedSOPClassUID"),
            sop_instance_uid=_uid(found, "AffectedSOPInstanceUID"),
            event_type=int(found.get("EventTypeID") or 0),
        )
    except PARSER_ERRORS as err:
        raise UpperLayerError("a command set that cannot be read", 6) from err


def _uid(found: Dataset, keyword: str) -> str:
    return str(found.get(keyword) or "").strip("\0 ")


def reply(command: Command, status: int, *, comment: str = "") -> bytes:
    """The command set of the reply to a request.

    Parameters
    ----------
    command : Command
    status : int
        PS3.7 Annex C.
    comment : str
        Error Comment; cut to its 64 characters of ASCII.
    """
    elements = [
        _element(0x0002, command.sop_class_uid.encode("ascii", "replace"), pad=b"\0"),
        _short(0x0100, command.field | REPLY),
        _short(0x0120, command.message_id),
        _short(0x0800, NO_DATA_SET),
        _short(0x0900, status),
    ]
    if comment:
        elements.append(_element(0x0902, comment.encode("ascii", "replace")[:64], pad=b" "))
    if command.sop_instance_uid:
        elements.append(_element(0x1000, command.sop_instance_uid.encode("ascii", "replace"), pad=b"\0"))
    if command.field == N_EVENT_REPORT_RQ:
        elements.append(_short(0x1002, command.event_type))
    body = b"".join(elements)
    return _element(0x0000, len(body).to_bytes(4, "little")) + body


def _short(element: int, value: int) -> bytes:
    return _element(element, value.to_bytes(2, "little"))


def _element(element: int, value: bytes, *, pad: bytes = b"\0") -> bytes:
    value += pad * (len(value) % 2)
    return b"\0\0" + element.to_bytes(2, "little") + len(value).to_bytes(4, "little") + value
