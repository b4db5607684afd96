"""Bytes of data sets and of what makes files of them, for objects that are not made here but kept or changed."""

from __future__ import annotations

from typing import Any

from pydicom import config
from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset
from pydicom.uid import UID

from medseg.export.identity import IMPLEMENTATION_CLASS_UID

IMPLEMENTATION_VERSION_NAME = "MEDSEG"
_LONGEST_UID = 64


def file_head(*, transfer_syntax_uid: str, sop_class_uid: str, sop_instance_uid: str) -> bytes:
    """What makes a DICOM file (PS3.10 7.1) of the data set that follows: an empty preamble and file meta information.

    Raises
    ------
    ValueError
        A UID is longer than 64 bytes or none.
    """
    uids = (sop_class_uid, sop_instance_uid, transfer_syntax_uid, IMPLEMENTATION_CLASS_UID)
    elements = [b"\2\0\1\0OB\0\0\2\0\0\0\0\1"]
    elements += [
        _meta_element(tag, b"UI", uid) for tag, uid in zip((0x02, 0x03, 0x10, 0x12), uids, strict=True)
    ]
    elements.append(_meta_element(0x13, b"SH", IMPLEMENTATION_VERSION_NAME))
    group = b"".join(elements)
    return b"\0" * 128 + b"DICM\2\0\0\0UL\4\0" + len(group).to_bytes(4, "little") + group


def _meta_element(element: int, vr: bytes, value: str) -> bytes:
    """An element of group 0002, Explicit VR Little Endian, padded to an even length (PS3.5 6.2, 7.1.2)."""
    if vr == b"UI" and (len(value) > _LONGEST_UID or not UID(value, config.IGNORE).is_valid):
        raise ValueError(
            f"expected a UID for (0002,{element:04X}), found {len(value)} characters that are none"
        )
    content = value.encode("ascii")
    content += (b"\0" if vr == b"UI" else b" ") * (len(content) % 2)
    return b"\2\0" + element.to_bytes(2, "little") + vr + len(content).to_bytes(2, "little") + content


def encoded(data_set: Dataset, *, implicit_vr: bool, little_endian: bool) -> bytes:
    """A data set in a native encoding (PS3.5 A.1 to A.3), without preamble and file meta information."""
    stream: Any = DicomBytesIO()
    stream.is_implicit_VR, stream.is_little_endian = implicit_vr, little_endian
    write_dataset(stream, data_set)
    return bytes(stream.getvalue())
