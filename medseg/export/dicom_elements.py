"""Data elements as bytes, Explicit VR Little Endian: for the items that a file has thousands of.

A data set of pydicom costs some 20 us an element; the functional groups of a segmentation with a
thousand frames have twenty thousand. Sequences and items have defined lengths.

References
----------
DICOM PS3.5 7.1.2 and 7.5; Table 6.2-1 for the padding of each VR.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable

_LONG = frozenset({b"OB", b"OW", b"SQ", b"UT", b"UN"})
_ZERO_PADDED = frozenset({b"UI", b"OB"})
_ITEM = struct.pack("<HH", 0xFFFE, 0xE000)
MAX_LENGTH = 0xFFFFFFFE
"""Largest defined length of a value: even, and not the mark of an undefined one."""


def element(tag: int, vr: bytes, value: bytes) -> bytes:
    """One data element, its value padded to an even length."""
    if len(value) % 2:
        value += b"\0" if vr in _ZERO_PADDED else b" "
    return element_head(tag, vr, len(value)) + value


def element_head(tag: int, vr: bytes, length: int) -> bytes:
    """Tag, VR and length of a data element whose value follows."""
    if vr in _LONG:
        return struct.pack("<HH2sHI", tag >> 16, tag & 0xFFFF, vr, 0, length)
    return struct.pack("<HH2sH", tag >> 16, tag & 0xFFFF, vr, length)


def item(*elements: bytes) -> bytes:
    """One item of a sequence; the elements in order of their tags."""
    value = b"".join(elements)
    return _ITEM + struct.pack("<I", len(value)) + value


def sequence(tag: int, items: Iterable[bytes]) -> bytes:
    """A sequence of items made by `item`."""
    return element(tag, b"SQ", b"".join(items))


def text(tag: int, vr: bytes, *values: str) -> bytes:
    """An element of ASCII text (UI, CS, DS, IS, SH, LO), several values parted by a backslash."""
    return element(tag, vr, "\\".join(values).encode("ascii"))


def unsigned(tag: int, vr: bytes, *values: int) -> bytes:
    """An element of VR US or UL."""
    return element(tag, vr, struct.pack(f"<{len(values)}{'H' if vr == b'US' else 'I'}", *values))


def code(tag: int, value: str, scheme: str, meaning: str) -> bytes:
    """A code sequence of one item (PS3.3 8.8-1); ASCII only."""
    return sequence(
        tag,
        [
            item(
                text(0x00080100, b"SH", value),
                text(0x00080102, b"SH", scheme),
                text(0x00080104, b"LO", meaning),
            )
        ],
    )


def decimal_text(value: float, decimals: int) -> str:
    """A number as VR DS wants it: at most 16 characters, no trailing zeros, never "-0"."""
    plain = f"{value:.{decimals}f}".rstrip("0").rstrip(".") if decimals else f"{value:.0f}"
    if plain in ("-0", ""):
        return "0"
    return plain if len(plain) <= 16 else f"{value:.9g}"
