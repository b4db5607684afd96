"""Which decoder reads a compressed frame, and whether the frame is what the header says."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from pydicom import uid
from pydicom.dataset import Dataset
from pydicom.encaps import get_frame, parse_basic_offsets
from pydicom.pixels import get_decoder

from medseg.errors import ImageReadError, MissingPackageError
from medseg.io.codestream import StreamSize, jpeg2000_size, jpeg_size
from medseg.io.dicom_format import PixelFormat
from medseg.io.dicom_header import uid_name
from medseg.io.foreign import foreign_parser, recorded_warnings

_JPEG = frozenset({uid.JPEGBaseline8Bit, uid.JPEGExtended12Bit, uid.JPEGLossless, uid.JPEGLosslessSV1})
JPEG_LS = frozenset(uid.JPEGLSTransferSyntaxes)
JPEG_2000 = frozenset(uid.JPEG2000TransferSyntaxes)
_END_OF_IMAGE = b"\xff\xd9"
_TAIL = 16  # the end marker and what writers pad after it
# One decoder for each syntax, first one that is there: decoders of lossy JPEG differ by one level, and
# the pixels must not depend on which optional package is installed. GDCM last: bad files can abort it;
# pylibjpeg-rle not at all: bad files make it panic past every except clause.
_DECODERS: tuple[tuple[frozenset[Any], tuple[str, ...], str], ...] = (
    (frozenset({uid.JPEGBaseline8Bit}), ("pillow", "pylibjpeg", "gdcm"), "pip install pillow"),
    (_JPEG, ("pylibjpeg", "gdcm"), "pip install 'medseg[jpeg]'"),
    (JPEG_LS, ("pyjpegls", "pylibjpeg", "gdcm"), "pip install pyjpegls"),
    (JPEG_2000, ("pylibjpeg", "pillow", "gdcm"), "pip install pylibjpeg pylibjpeg-openjpeg"),
    (frozenset({uid.RLELossless}), ("pydicom",), "pip install pydicom"),
)


def choose_decoder(syntax: Any, form: PixelFormat, path: Path) -> str:
    """Name of the decoder for a compressed transfer syntax.

    Raises
    ------
    ImageReadError
        The syntax is no still image.
    MissingPackageError
        None is installed; the message says what to install.
    """
    known = next((row for row in _DECODERS if syntax in row[0]), None)
    if known is None:
        raise ImageReadError(
            f"{path}: pixels stored as {uid_name(syntax)} are not read; export single images"
        )
    available = available_decoders(syntax)
    if syntax == uid.JPEGExtended12Bit and form.bits_stored > 8:
        available = tuple(name for name in available if name == "pylibjpeg")
    for name in known[1]:
        if name in available:
            return name
    raise MissingPackageError(f"{path}: no decoder for {uid_name(syntax)} is installed; {known[2]}")


def available_decoders(syntax: Any) -> tuple[str, ...]:
    """Names of the decoders that are installed for a transfer syntax."""
    return tuple(get_decoder(syntax).available_plugins)


def check_frame(dataset: Dataset, form: PixelFormat, path: Path, notes: list[str]) -> PixelFormat:
    """Compare the compressed frame with the header; the format with the bits that the frame really has."""
    value, syntax = dataset.PixelData, dataset.file_meta.TransferSyntaxUID
    with foreign_parser(path, "the compressed frame cannot be found"), recorded_warnings():
        offsets = parse_basic_offsets(value)
        frame = get_frame(value, 0, number_of_frames=1)
    if len(offsets) > 1:
        raise ImageReadError(f"{path}: the header says one frame, the offset table lists {len(offsets)}")
    if syntax == uid.RLELossless:
        return form
    size = jpeg2000_size(frame) if syntax in JPEG_2000 else jpeg_size(frame)
    if size is None:
        raise ImageReadError(f"{path}: the compressed frame is not {uid_name(syntax)}; the file is damaged")
    if syntax in _JPEG and _END_OF_IMAGE not in frame[-_TAIL:]:
        raise ImageReadError(
            f"{path}: the compressed frame of {len(frame)} bytes has no end: the file is truncated"
        )
    found = (size.columns, size.rows, size.samples)
    if found != (form.columns, form.rows, form.samples):
        raise ImageReadError(
            f"{path}: the header says {form.columns} x {form.rows} x {form.samples}, "
            f"the compressed frame has {found[0]} x {found[1]} x {found[2]}"
        )
    if size.precision > form.bits_allocated:
        raise ImageReadError(
            f"{path}: the header allocates {form.bits_allocated} bits, the frame has {size.precision}"
        )
    return _with_bits_of(form, size, notes, container=8 if syntax in _JPEG and size.precision <= 8 else None)


def _with_bits_of(
    form: PixelFormat, size: StreamSize, notes: list[str], *, container: int | None
) -> PixelFormat:
    """The format with the precision of the frame, where that says something else than the header."""
    allocated = container or form.bits_allocated
    if size.precision <= form.bits_stored <= allocated:
        return replace(form, bits_allocated=allocated)
    notes.append(
        f"the header says {form.bits_stored} bits, the compressed frame has {size.precision}, which were used"
    )
    return replace(form, bits_allocated=allocated, bits_stored=size.precision, high_bit=size.precision - 1)
