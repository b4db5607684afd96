"""Regions of the pixels blanked, in place or, where they are compressed, in pixels that are decoded for it."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import replace
from fnmatch import fnmatch
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian

from medseg.deidentification.options import BlankRule, ImageMatch, Region
from medseg.deidentification.pixel_encoding import has_native_pixels, is_little_endian, transfer_syntax
from medseg.deidentification.risks import IdentifiersLeftError
from medseg.io.dicom_codec import decode_frame
from medseg.io.dicom_format import PixelFormat, frame_format, number_of_frames
from medseg.io.dicom_fragments import frame_fragments
from medseg.io.dicom_header import DicomHeader
from medseg.io.dicom_native import byte_range, check_length, native_frame, swapped_words
from medseg.io.limits import ReadLimits

_MOST_BYTES = 2 << 30
# The pixels' own extremes may be those of what is blanked; JPEG's tables go with the compression.
_STALE = (
    "SmallestImagePixelValue",
    "LargestImagePixelValue",
    "SmallestPixelValueInSeries",
    "LargestPixelValueInSeries",
    "ExtendedOffsetTable",
    "ExtendedOffsetTableLengths",
)
Mask = NDArray[np.bool_]


def blank(data_set: Dataset, path: Path, rules: Sequence[BlankRule], limits: ReadLimits) -> bool:
    """Blank what the first rule that matches says; whether one did.

    Compressed pixels are decoded and stay uncompressed (Explicit VR Little Endian); their attributes then say so.

    Raises
    ------
    IdentifiersLeftError
        The regions lie outside the image, or it lists none.
    ImageReadError
        The pixels cannot be decoded.
    """
    rule = next((rule for rule in rules if "PixelData" in data_set and _matches(data_set, rule.match)), None)
    if rule is None:
        return False
    header = DicomHeader.of(data_set, path)
    form, frames = frame_format(header, limits), number_of_frames(header)
    mask = _mask(data_set, rule, form)
    if frames * form.rows * form.columns * form.samples * form.dtype.itemsize > _MOST_BYTES:
        raise IdentifiersLeftError("its pixels are too many to be blanked in memory")
    _store(data_set, _frames(data_set, form, frames, path), mask)
    return True


def _matches(data_set: Dataset, match: ImageMatch) -> bool:
    modality = str(data_set.get("Modality") or "").strip().casefold()
    texts = ((match.manufacturer, "Manufacturer"), (match.model, "ManufacturerModelName"))
    sizes = ((match.rows, "Rows"), (match.columns, "Columns"))
    return (
        (not match.modality or any(fnmatch(modality, wanted.casefold()) for wanted in match.modality))
        and all(
            fnmatch(str(data_set.get(name) or "").strip().casefold(), text.casefold()) for text, name in texts
        )
        and all(wanted is None or data_set.get(name) == wanted for wanted, name in sizes)
    )


def _mask(data_set: Dataset, rule: BlankRule, form: PixelFormat) -> Mask:
    """True where pixels are blanked."""
    mask = np.zeros((form.rows, form.columns), dtype=np.bool_)
    if rule.keep_ultrasound_regions:
        mask[:] = True
        for x0, y0, x1, y1 in _ultrasound_regions(data_set):
            mask[y0:y1, x0:x1] = False
        if mask.all():
            raise IdentifiersLeftError("it lists no ultrasound regions that could be kept")
        if not mask.any() and not rule.regions:
            raise IdentifiersLeftError("its ultrasound regions cover all of it, so nothing would be blanked")
    for x0, y0, x1, y1 in rule.regions:
        if x0 >= form.columns or y0 >= form.rows:
            raise IdentifiersLeftError(
                f"the region {x0},{y0},{x1},{y1} lies outside its {form.columns} x {form.rows} pixels"
            )
        mask[y0:y1, x0:x1] = True
    return mask


def _ultrasound_regions(data_set: Dataset) -> Iterator[Region]:
    """PS3.3 C.8.5.5.1.1: corners from 0, the lower right one inside."""
    for item in data_set.get("SequenceOfUltrasoundRegions") or ():
        x0, y0 = item.get("RegionLocationMinX0"), item.get("RegionLocationMinY0")
        x1, y1 = item.get("RegionLocationMaxX1"), item.get("RegionLocationMaxY1")
        if all(isinstance(value, int) and value >= 0 for value in (x0, y0, x1, y1)):
            yield x0, y0, x1 + 1, y1 + 1


def _frames(
    data_set: Dataset, form: PixelFormat, frames: int, path: Path
) -> Iterator[tuple[NDArray[np.generic], PixelFormat]]:
    """Stored values of each frame, with the colour space that they are in."""
    content, syntax = bytes(data_set.PixelData), transfer_syntax(data_set)
    if has_native_pixels(data_set):
        check_length(form, frames, len(content), str(path))
        little = is_little_endian(data_set)
        words = swapped_words(form, little_endian=little, vr=str(data_set["PixelData"].VR))
        plain = replace(form, photometric=form.photometric.removesuffix("_422"), planar=False)
        for frame in range(frames):
            first, last = byte_range(form, frame, words=words)
            array = native_frame(content[first:last], form, little_endian=little, words=words, frame=frame)
            yield array, plain
        return
    table, _ = frame_fragments(
        io.BytesIO(content), offset=0, length=len(content), size=len(content), frames=frames, where=str(path)
    )
    for fragments in table:
        stream = b"".join(content[part.start : part.start + part.length] for part in fragments)
        decoded = decode_frame(stream, syntax=syntax, form=form, where=str(path))
        yield decoded.array, decoded.form


def _store(data_set: Dataset, frames: Iterator[tuple[NDArray[np.generic], PixelFormat]], mask: Mask) -> None:
    """Put the blanked frames back, uncompressed, and say how they are stored."""
    parts: list[bytes] = []
    bits: list[NDArray[np.uint8]] = []
    for array, form in frames:
        values = np.array(array, dtype=form.dtype)
        values[mask] = _blank_value(form)
        if form.bits_allocated == 1:
            bits.append(values.reshape(-1).astype(np.uint8))
        else:
            parts.append(values.astype(form.dtype.newbyteorder("<")).tobytes())
    content = b"".join(parts) if parts else np.packbits(np.concatenate(bits), bitorder="little").tobytes()
    _declare(data_set, form)
    data_set.add_new(
        "PixelData", "OB" if form.bits_allocated <= 8 else "OW", content + b"\0" * (len(content) % 2)
    )
    data_set.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian


def _declare(data_set: Dataset, form: PixelFormat) -> None:
    data_set.PhotometricInterpretation = form.photometric
    data_set.BitsStored, data_set.HighBit = form.bits_stored, form.high_bit
    if form.samples > 1:
        data_set.PlanarConfiguration = 0
    for name in _STALE:
        if name in data_set:
            delattr(data_set, name)


def _blank_value(form: PixelFormat) -> NDArray[np.generic]:
    """Black, as far as the stored values say what that is."""
    low, high = form.stored_range
    shift = form.high_bit + 1 - form.bits_stored
    if form.photometric.startswith("YBR"):
        return np.array([0, 1 << (form.bits_stored - 1), 1 << (form.bits_stored - 1)], dtype=form.dtype)
    if form.photometric == "MONOCHROME1":
        return np.array(high << shift, dtype=form.dtype)
    return np.array(low << shift if form.photometric == "MONOCHROME2" else 0, dtype=form.dtype)
