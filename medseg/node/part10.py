"""DICOM files as they come by HTTP or lie in a folder -> arrivals."""

from __future__ import annotations

import io

from pydicom.dataset import Dataset
from pydicom.filereader import read_dataset
from pydicom.uid import UID

from medseg.io.foreign import PARSER_ERRORS, recorded_warnings
from medseg.node.arrival import Arrival, Peer

_KEYWORDS = ("TransferSyntaxUID", "MediaStorageSOPClassUID", "MediaStorageSOPInstanceUID")


def arrival_of(content: bytes, peer: Peer) -> Arrival:
    """A DICOM file as an arrival: its data set, without preamble and file meta information.

    Raises
    ------
    ValueError
        It is no DICOM file, or does not say its transfer syntax.
    """
    if content[128:132] != b"DICM":
        raise ValueError("no DICOM file: DICM is missing after the preamble")
    end = _meta_end(content)
    try:
        with recorded_warnings():
            meta = read_dataset(io.BytesIO(content[132:end]), False, True)
            syntax, sop_class, instance = (_text(meta, keyword) for keyword in _KEYWORDS)
            known = UID(syntax).is_valid
    except PARSER_ERRORS as err:
        raise ValueError("its file meta information cannot be read") from err
    if not known:
        raise ValueError("its file meta information has no Transfer Syntax UID")
    return Arrival(
        data_set=content[end:],
        transfer_syntax_uid=syntax,
        sop_class_uid=sop_class,
        sop_instance_uid=instance,
        peer=peer,
    )


def data_set_of(content: bytes) -> bytes:
    """The data set of a DICOM file, as it is encoded.

    Raises
    ------
    ValueError
        Its file meta information does not say where it ends.
    """
    return content[_meta_end(content) :]


def _text(meta: Dataset, keyword: str) -> str:
    return str(meta.get(keyword) or "").strip("\0 ")


def _meta_end(content: bytes) -> int:
    """Where the data set begins (PS3.10 7.1: the group length comes first)."""
    if content[132:140] != b"\x02\x00\x00\x00UL\x04\x00":
        raise ValueError("its file meta information does not begin with its length")
    end = 144 + int.from_bytes(content[140:144], "little")
    if end > len(content):
        raise ValueError("it is truncated in its file meta information")
    return end
