"""DIMSE command sets (PS3.7 E): a few elements of Implicit VR Little Endian."""

from __future__ import annotations

from dataclasses import dataclass

from medseg.node.upper_layer import UpperLayerError

C_STORE_RQ, C_ECHO_RQ, C_CANCEL_RQ, N_EVENT_REPORT_RQ = 0x0001, 0x0030, 0x0FFF, 0x0100
REPLY = 0x8000
NO_DATA_SET = 0x0101

SUCCESS = 0x0000
OUT_OF_RESOURCES = 0xA700
DATA_SET_MISMATCH = 0xA900
CANNOT_UNDERSTAND = 0xC000
COERCED = 0xB000
CLASS_NOT_SUPPORTED = 0x0122
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
    found = _elements(data)
    try:
        return Command(
            field=_number(found[0x0100]),
            message_id=_number(found.get(0x0110, b"")),
            has_data_set=_number(found[0x0800]) != NO_DATA_SET,
            sop_class_uid=_uid(found.get(0x0002, b"")),
            sop_instance_uid=_uid(found.get(0x1000, b"")),
            event_type=_number(found.get(0x1002, b"")),
        )
    except (KeyError, UnicodeDecodeError) as err:
        raise UpperLayerError("a command set that cannot be read", 6) from err


def _elements(data: bytes) -> dict[int, bytes]:
    """Element number of group 0000 -> value."""
    found, at = {}, 0
    while at < len(data):
        head, value = data[at : at + 8], at + 8
        length = int.from_bytes(head[4:], "little")
        if len(head) < 8 or head[:2] != b"\0\0" or length > len(data) - value:
            raise UpperLayerError("a command set that cannot be read", 6)
        found[int.from_bytes(head[2:4], "little")] = data[value : value + length]
        at = value + length
    return found


def _number(value: bytes) -> int:
    return int.from_bytes(value[:2], "little")


def _uid(value: bytes) -> str:
    return value.decode("ascii").strip("\0 ")


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
