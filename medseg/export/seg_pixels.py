"""Pixel Data of a segmentation, written frame by frame: packed bits, bytes, words or RLE.

References
----------
DICOM PS3.5 8.1.1 (bit 0 first, frames follow each other without padding), A.4 (encapsulation and
the Basic Offset Table) and annex G (RLE).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from itertools import islice
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from pydicom.uid import RLELossless

from medseg.errors import InputError
from medseg.export.dicom_elements import MAX_LENGTH, element_head
from medseg.io.dicom_encode import encode_frame

_PIXEL_DATA = 0x7FE00010
_ITEM, _END = struct.pack("<HH", 0xFFFE, 0xE000), struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)
_UNDEFINED = 0xFFFFFFFF
_ROWS_AT_ONCE = 8  # frames of any size together have a whole number of bytes


def native_length(frames: int, rows: int, columns: int, bits: int) -> int:
    """Bytes of uncompressed pixel data, padding to an even number included.

    Raises
    ------
    InputError
        More than the length field of Pixel Data can say.
    """
    needed = (frames * rows * columns * bits + 7) // 8
    if needed > MAX_LENGTH:
        raise InputError(
            f"the DICOM SEG would have {needed / 2**30:.1f} GiB of pixel data in {frames} frames, one object holds "
            "less than 4; write kind labelmap or compression rle, or split the structures over several objects"
        )
    return needed + needed % 2


def write_native(stream: BinaryIO, frames: Iterator[NDArray[Any]], *, length: int, bits: int) -> None:
    """Pixel Data as it is: 1 bit (bool frames), 8 or 16 (frames of that type).

    Parameters
    ----------
    stream : binary file
        Stands where the element begins.
    frames : iterator of (rows, columns) arrays
    length : int
        From `native_length`.
    bits : {1, 8, 16}
    """
    stream.write(element_head(_PIXEL_DATA, b"OW" if bits == 16 else b"OB", length))
    written = 0
    for block in _packed(frames) if bits == 1 else frames:
        written += stream.write(np.ascontiguousarray(block).data)
    if not length - 1 <= written <= length:
        raise InputError(
            f"the frames have {written} bytes, {length} were announced: a mask changed meanwhile"
        )
    stream.write(b"\0" * (length - written))


def _packed(frames: Iterator[NDArray[Any]]) -> Iterator[NDArray[np.uint8]]:
    """Bits of the frames, least significant first, across their borders where these are within a byte."""
    while group := list(islice(frames, _ROWS_AT_ONCE)):
        if group[0].size % 8:
            yield np.packbits(np.concatenate([frame.ravel() for frame in group]), bitorder="little")
        else:
            yield from (np.packbits(frame.ravel(), bitorder="little") for frame in group)


def write_rle(stream: BinaryIO, frames: Iterator[NDArray[Any]], *, count: int, frame_bytes: int) -> None:
    """Pixel Data as RLE frames, one fragment each, with an offset table where its 32 bits suffice."""
    stream.write(element_head(_PIXEL_DATA, b"OB", _UNDEFINED))
    with_table = count * (frame_bytes * 129 // 128 + 256) < _UNDEFINED
    stream.write(_ITEM + struct.pack("<I", 4 * count if with_table else 0))
    table = stream.tell()
    offsets = np.zeros(count if with_table else 0, dtype="<u4")
    stream.write(offsets.tobytes())
    first = stream.tell()
    for n, frame in enumerate(frames):
        if with_table:
            offsets[n] = stream.tell() - first
        data = encode_frame(frame, RLELossless, bits_stored=8 * frame.dtype.itemsize)
        stream.write(_ITEM + struct.pack("<I", len(data)) + data)
    stream.write(_END)
    stream.seek(table)
    stream.write(offsets.tobytes())
    stream.seek(0, 2)
