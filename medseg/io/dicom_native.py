"""Bytes of an uncompressed frame -> stored values; unused bits removed."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from medseg.errors import ImageReadError
from medseg.io.dicom_format import PixelFormat


def frame_bits(form: PixelFormat) -> int:
    """Bits of one uncompressed frame; frames of single bits follow each other without padding."""
    per_pixel = 2 if form.photometric == "YBR_FULL_422" else form.samples
    return form.rows * form.columns * per_pixel * form.bits_allocated


def check_length(form: PixelFormat, frames: int, actual: int, where: str) -> None:
    """Bytes present against bytes that the header needs; only even padding may be left over.

    Raises
    ------
    ImageReadError
        Fewer or more bytes, both numbers in the message.
    """
    expected = (frames * frame_bits(form) + 7) // 8
    if actual in (expected, expected + expected % 2):
        return
    word = "fewer" if actual < expected else "more"
    count = "" if frames == 1 else f"{frames} frames of "
    raise ImageReadError(
        f"{where}: {count}{form.columns} x {form.rows} x {form.samples} pixels of {form.bits_allocated} bits "
        f"need {expected} bytes, the file has {actual}, {word}: it is truncated or its header is wrong"
    )


def byte_range(form: PixelFormat, frame: int, *, words: bool) -> tuple[int, int]:
    """First and one past the last byte of a frame in the pixel data; whole words where bytes are swapped."""
    bits = frame_bits(form)
    first, last = frame * bits // 8, ((frame + 1) * bits + 7) // 8
    return (first - first % 2, last + last % 2) if words else (first, last)


def swapped_words(form: PixelFormat, *, little_endian: bool, vr: str) -> bool:
    """Whether values of 8 bits or less lie in words whose bytes change places (PS3.5 8.1.1: OW, big endian)."""
    return not little_endian and form.bits_allocated <= 8 and vr == "OW"


def native_frame(
    data: bytes, form: PixelFormat, *, little_endian: bool, words: bool = False, frame: int = 0
) -> NDArray[Any]:
    """Stored values of a frame; a view of `data` where its bytes are the values.

    Parameters
    ----------
    data : bytes
        From `byte_range(form, frame, words=words)`.
    form : PixelFormat
    little_endian : bool
    words : bool, optional
        As `swapped_words` says.
    frame : int, optional
        0-based; where in the first byte a frame of single bits begins depends on it.

    Returns
    -------
    (rows, columns) or (rows, columns, samples) array
        In native byte order; colour as stored, 4:2:2 expanded.
    """
    bits, plain = frame_bits(form), np.frombuffer(data, dtype=np.uint8)
    if words:
        plain = plain.view(np.uint16).byteswap().view(np.uint8)
    skip = frame * bits - byte_range(form, frame, words=words)[0] * 8
    if form.bits_allocated == 1:
        values: NDArray[Any] = np.unpackbits(plain, bitorder="little", count=skip + bits)[skip:]
    else:
        stored = form.dtype.newbyteorder("<" if little_endian else ">")
        values = plain[skip // 8 : (skip + bits) // 8].view(stored).astype(form.dtype, copy=False)
    if form.photometric == "YBR_FULL_422":
        return _expanded(values, form)
    if form.samples == 1:
        return values.reshape(form.rows, form.columns)
    if form.planar:
        return values.reshape(form.samples, form.rows, form.columns).transpose(1, 2, 0)
    return values.reshape(form.rows, form.columns, form.samples)


def _expanded(values: NDArray[Any], form: PixelFormat) -> NDArray[Any]:
    """4:2:2 is stored as Y Y Cb Cr for two pixels (PS3.3 C.7.6.3.1.2)."""
    pairs = values.reshape(-1, 4)
    pixels = np.empty((len(pairs), 2, 3), dtype=values.dtype)
    pixels[:, :, 0] = pairs[:, :2]
    pixels[:, :, 1:] = pairs[:, np.newaxis, 2:]
    return pixels.reshape(form.rows, form.columns, 3)


def used_bits(array: NDArray[Any], form: PixelFormat) -> tuple[NDArray[Any], int]:
    """Keep bits high_bit - bits_stored + 1 to high_bit of each value, sign restored.

    Returns
    -------
    array
        The same one where all values fit.
    int
        How many pixels had other bits set.

    References
    ----------
    DICOM PS3.5 8.1.1: unused high bits have no meaning; old files keep overlays there.
    """
    width = array.dtype.itemsize * 8
    if form.is_float or form.bits_allocated == 1 or form.bits_stored >= width or form.high_bit >= width:
        return array, 0
    low, high = form.stored_range
    if form.high_bit == form.bits_stored - 1 and array.max() <= high and (not low or array.min() >= low):
        return array, 0
    up, down = width - 1 - form.high_bit, width - form.bits_stored
    used: NDArray[Any] = np.right_shift(np.left_shift(array, up), down)
    outside = int(np.count_nonzero(np.right_shift(array, form.high_bit + 1 - form.bits_stored) != used))
    return used, outside
