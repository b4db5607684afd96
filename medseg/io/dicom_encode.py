"""Stored values of one frame -> a lossless compressed frame."""

from __future__ import annotations

import struct
from typing import Any

import imagecodecs
import numpy as np
from numpy.typing import NDArray
from pydicom import uid

from medseg.errors import ConfigError
from medseg.io.dicom_header import uid_name

_RLE_HEADER = struct.Struct("<16L")
_HTJ2K = frozenset({uid.HTJ2KLossless, uid.HTJ2KLosslessRPCL})
_LOSSLESS_JPEG = frozenset({uid.JPEGLossless, uid.JPEGLosslessSV1})


def encode_frame(frame: NDArray[Any], syntax: str, *, bits_stored: int) -> bytes:
    """Compress a frame without loss: RLE, JPEG Lossless, JPEG 2000 or HTJ2K.

    Parameters
    ----------
    frame : (rows, columns) or (rows, columns, 3) array
        8 or 16 bits, signed or unsigned.
    syntax : str
        Transfer Syntax UID.
    bits_stored : int
        Bits Stored of the header, which the compressed frame has as its precision; HTJ2K has 8 or 16.

    Returns
    -------
    bytes
        Of even length, ready to be an item of encapsulated pixel data.

    Raises
    ------
    ConfigError
        A transfer syntax that is not written.
    """
    plain = np.ascontiguousarray(frame)
    if syntax == uid.RLELossless:
        data = _run_length(plain)
    elif syntax in _LOSSLESS_JPEG:
        data = _jpeg(plain, bits_stored)
    elif syntax == uid.JPEG2000Lossless:
        options: dict[str, Any] = {"codecformat": "j2k", "reversible": True, "bitspersample": bits_stored}
        data = bytes(imagecodecs.jpeg2k_encode(plain, level=0, mct=plain.ndim == 3, **options))
    elif syntax in _HTJ2K:
        data = bytes(imagecodecs.htj2k_encode(plain, reversible=True))
    else:
        raise ConfigError(f"frames are not written as {uid_name(syntax)}; use RLE Lossless")
    return data + b"\0" * (len(data) % 2)


def _jpeg(frame: NDArray[Any], bits_stored: int) -> bytes:
    """JPEG has no signs: the stored bits are kept as they are (PS3.5 8.2.1)."""
    unsigned = frame.view(f"u{frame.itemsize}") & ((1 << bits_stored) - 1)
    options: dict[str, Any] = {"lossless": True, "predictor": 1, "bitspersample": bits_stored}
    return bytes(imagecodecs.jpeg8_encode(unsigned, **options))


def _run_length(frame: NDArray[Any]) -> bytes:
    """One segment per byte of a sample, most significant first; runs end with the row (PS3.5 annex G)."""
    samples = frame[..., np.newaxis] if frame.ndim == 2 else frame
    planes = samples.astype(frame.dtype.newbyteorder(">"), copy=False).view(np.uint8)
    segments = []
    for plane in range(planes.shape[2]):
        rows = np.ascontiguousarray(planes[:, :, plane])
        segment = bytes(imagecodecs.packbits_encode(rows, axis=-1))
        segments.append(segment + b"\0" * (len(segment) % 2))
    starts = 64 + np.cumsum([0, *(len(segment) for segment in segments[:-1])])
    header = [len(segments), *(int(start) for start in starts), *([0] * (15 - len(segments)))]
    return _RLE_HEADER.pack(*header) + b"".join(segments)
