"""Data sets in a transfer syntax that an archive does not take -> the same values uncompressed, little endian."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from pydicom import uid
from pydicom.dataset import Dataset
from pydicom.encaps import generate_frames

from medseg.errors import ImageReadError
from medseg.io.dicom_codec import DEFLATED_FRAME, DecodedFrame, decode_frame
from medseg.io.dicom_format import PixelFormat, frame_format, number_of_frames
from medseg.io.dicom_header import DicomHeader, uid_name
from medseg.io.foreign import foreign_parser
from medseg.io.limits import DEFAULT_LIMITS

_ENCAPSULATED = "1.2.840.10008.1.2.1.98"
_NATIVE = (uid.ExplicitVRLittleEndian, uid.ImplicitVRLittleEndian)
_LOSSLESS = frozenset(
    {
        uid.RLELossless,
        uid.JPEGLossless,
        uid.JPEGLosslessSV1,
        uid.JPEGLSLossless,
        uid.JPEG2000Lossless,
        uid.HTJ2KLossless,
        uid.HTJ2KLosslessRPCL,
        DEFLATED_FRAME,
        _ENCAPSULATED,
    }
)
# Widths of the values of VRs that pydicom keeps as bytes (PS3.5 7.3: they change places with the byte order).
_WIDTHS = {"OW": 2, "OF": 4, "OL": 4, "OD": 8, "OV": 8}
_TABLES = ("ExtendedOffsetTable", "ExtendedOffsetTableLengths", "EncapsulatedPixelDataValueTotalLength")
_WHERE = Path("the file")


def uncompressed(dataset: Dataset) -> Dataset:
    """A data set for Explicit or Implicit VR Little Endian; values stay what they are, so the instance is the same.

    Parameters
    ----------
    dataset : Dataset
        As pydicom read it, with its Transfer Syntax UID in `file_meta`; it may be changed.

    Raises
    ------
    ImageReadError
        The pixels are compressed with loss or by an unknown syntax, or are damaged.
    MissingPackageError
        The installed imagecodecs lacks the codec.
    """
    syntax = dataset.file_meta.TransferSyntaxUID
    if syntax in _NATIVE:
        return dataset
    plain = dataset
    if syntax == uid.ExplicitVRBigEndian:
        plain = _little_endian(dataset)
    elif syntax in _LOSSLESS:
        for each in _with_fragments(dataset):
            _decode(each, syntax)
    elif syntax != uid.DeflatedExplicitVRLittleEndian:
        raise ImageReadError(f"{_name(syntax)} is not among the lossless ones that can be undone")
    plain.file_meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian
    return plain


def _little_endian(dataset: Dataset) -> Dataset:
    for element in dataset.iterall():
        if element.VR in _WIDTHS and isinstance(element.value, bytes):
            values = np.frombuffer(element.value, dtype=f">u{_WIDTHS[element.VR]}")
            element.value = values.astype(values.dtype.newbyteorder("<")).tobytes()
    # A new data set, as pydicom goes by the byte order that one was read in.
    plain = Dataset({element.tag: element for element in dataset})
    plain.file_meta = dataset.file_meta
    return plain


def _with_fragments(dataset: Dataset) -> Iterable[Dataset]:
    """The data set, and icons in it, as far as their pixels lie in fragments (PS3.5 A.4)."""
    if "PixelData" in dataset and dataset["PixelData"].is_undefined_length:
        yield dataset
    for item in dataset.get("IconImageSequence") or ():
        yield from _with_fragments(item)


def _decode(dataset: Dataset, syntax: str) -> None:
    """Replace compressed pixels, and say in the header how they are stored now."""
    header = DicomHeader.of(dataset, _WHERE)
    form, count = frame_format(header, DEFAULT_LIMITS), number_of_frames(header)
    with foreign_parser(_WHERE, f"the pixels ({_name(syntax)}) cannot be decoded"):
        streams = list(generate_frames(dataset.PixelData, number_of_frames=count))
    if len(streams) != count:
        raise ImageReadError(f"{_WHERE}: the header says {count} frames, {len(streams)} are there")
    frames = [decode_frame(each, syntax=syntax, form=form, where=str(_WHERE)) for each in streams]
    dataset.PixelData = _joined(frames, form)
    element = dataset["PixelData"]
    element.VR, element.is_undefined_length = "OW" if form.bits_allocated > 8 else "OB", False
    _describe(dataset, frames[0].form, form)


def _joined(frames: list[DecodedFrame], form: PixelFormat) -> bytes:
    if any(frame.form != frames[0].form for frame in frames):
        raise ImageReadError(f"{_WHERE}: its compressed frames differ in precision or colour space")
    low, high = form.stored_range
    longer = frames[0].form.bits_stored > form.bits_stored
    if longer and any(frame.array.min() < low or frame.array.max() > high for frame in frames):
        raise ImageReadError(
            f"{_WHERE}: it has values that need more than the {form.bits_stored} bits it says"
        )
    stored = form.dtype.newbyteorder("<")
    if form.bits_allocated == 1:
        # Frames of single bits follow each other without padding (PS3.5 8.1.1).
        values = np.concatenate([frame.array.ravel() for frame in frames])
        content = np.packbits(values.astype(bool), bitorder="little").tobytes()
    else:
        content = b"".join(frame.array.astype(stored, copy=False).tobytes() for frame in frames)
    return content + b"\0" * (len(content) % 2)


def _describe(dataset: Dataset, now: PixelFormat, before: PixelFormat) -> None:
    if now.samples > 1:
        dataset.PlanarConfiguration = 0
    if now.photometric != before.photometric:
        dataset.PhotometricInterpretation = now.photometric
    if now.high_bit != before.high_bit:
        # The codecs of images give the stored bits alone, from bit 0.
        dataset.HighBit = before.bits_stored - 1
    for keyword in _TABLES:
        if keyword in dataset:
            delattr(dataset, keyword)


def _name(syntax: str) -> str:
    return "Deflated Image Frame Compression" if syntax == DEFLATED_FRAME else uid_name(syntax)
