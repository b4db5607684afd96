"""JPEG Lossless, first-order prediction (process 14, selection value 1), for synthetic DICOM images.

The form of compression that CT and MR archives of the 2000s are full of; the packages that write
DICOM have no encoder for it.
"""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
from numpy.typing import NDArray

_CATEGORIES = 17
# 17 codes of these lengths fill the tree but for its last leaf, which JPEG keeps free.
_LENGTHS = (2, 3, 3, 3, 3, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14)


def encode_jpeg_lossless(frame: NDArray[Any], *, bits: int) -> bytes:
    """One gray frame as a JPEG stream.

    Parameters
    ----------
    frame : (rows, columns) 16-bit integer array
        Signed values are coded by their bit pattern, as DICOM wants.
    bits : int
        Bits stored, 2 to 16.

    Returns
    -------
    bytes
        From SOI to EOI.

    References
    ----------
    ITU-T T.81, annex H; DICOM PS3.5 A.4.1.
    """
    samples = frame.astype(np.int64) & (2**bits - 1)
    differences = _differences(samples, bits)
    category = np.zeros(differences.shape, dtype=np.int64)
    magnitude = np.abs(differences)
    for power in range(16):
        category += magnitude >= 1 << power
    codes = _huffman_codes()
    extra = np.where(category < 16, category, 0)  # H.1.2.2: category 16 has no bits of its own
    value = np.where(differences < 0, differences + (1 << category) - 1, differences) & ((1 << extra) - 1)
    words = (codes[category] << extra) | value
    widths = np.asarray(_LENGTHS)[category] + extra
    return _head(frame.shape, bits) + _pack(words, widths) + b"\xff\xd9"


def _differences(samples: NDArray[np.int64], bits: int) -> NDArray[np.int64]:
    """Each sample less its prediction, modulo 2^16 in -32767..32768, in scan order (T.81 H.1.2.1)."""
    prediction = np.empty_like(samples)
    prediction[:, 1:] = samples[:, :-1]
    prediction[1:, 0] = samples[:-1, 0]
    prediction[0, 0] = 1 << (bits - 1)
    wrapped = (samples - prediction) & 0xFFFF
    return np.where(wrapped > 32768, wrapped - 65536, wrapped).ravel()


def _huffman_codes() -> NDArray[np.int64]:
    """Canonical codes of the categories, which stand in order of their length."""
    codes, code = [], 0
    for index, length in enumerate(_LENGTHS):
        if index:
            code = (code + 1) << (length - _LENGTHS[index - 1])
        codes.append(code)
    return np.array(codes, dtype=np.int64)


def _head(shape: tuple[int, ...], bits: int) -> bytes:
    """SOI, Huffman table, frame and scan header."""
    counts = bytes(_LENGTHS.count(length) for length in range(1, 17))
    table = b"\x00" + counts + bytes(range(_CATEGORIES))
    frame = struct.pack(">BHHBBBB", bits, shape[0], shape[1], 1, 1, 0x11, 0)
    scan = bytes([1, 1, 0, 1, 0, 0])
    parts = ((0xC4, table), (0xC3, frame), (0xDA, scan))
    return b"\xff\xd8" + b"".join(
        struct.pack(">BBH", 0xFF, name, len(body) + 2) + body for name, body in parts
    )


def _pack(words: NDArray[np.int64], widths: NDArray[np.int64]) -> bytes:
    """Words of different widths one after the other, ones to fill, a zero byte after each 0xFF."""
    starts = np.cumsum(widths) - widths
    owner = np.repeat(np.arange(len(words)), widths)
    place = np.arange(len(owner)) - starts[owner]
    bits = (words[owner] >> (widths[owner] - 1 - place)) & 1
    bits = np.concatenate([bits, np.ones(-len(bits) % 8, dtype=np.int64)])
    return np.packbits(bits.astype(np.uint8)).tobytes().replace(b"\xff", b"\xff\x00")
