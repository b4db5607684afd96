"""How the pixels of a data set are stored, also where pydicom does not know the transfer syntax."""

from __future__ import annotations

from pydicom.dataset import Dataset
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

_NATIVE = frozenset(
    {ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian}
)


def transfer_syntax(data_set: Dataset) -> str:
    """Transfer Syntax UID of the data set at hand."""
    return str(data_set.file_meta.TransferSyntaxUID)


def has_native_pixels(data_set: Dataset) -> bool:
    """Whether its pixels are stored as they are, neither compressed nor in items (PS3.5 A)."""
    return transfer_syntax(data_set) in _NATIVE


def is_little_endian(data_set: Dataset) -> bool:
    """Whether the least significant byte comes first."""
    return transfer_syntax(data_set) != str(ExplicitVRBigEndian)


def is_implicit_vr(data_set: Dataset) -> bool:
    """Whether elements go without their value representation."""
    return transfer_syntax(data_set) == str(ImplicitVRLittleEndian)
