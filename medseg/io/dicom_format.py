"""How the pixels of a DICOM file are stored, as its header says, checked before anything is decoded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from medseg.errors import GeometryError, ImageReadError
from medseg.io.dicom_header import DicomHeader, uid_name
from medseg.io.limits import ReadLimits

GRAY = frozenset({"MONOCHROME1", "MONOCHROME2"})
COLOUR = frozenset({"RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT"})
_KEYWORDS = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")
_FLOAT_BITS = {"FloatPixelData": 32, "DoubleFloatPixelData": 64}


@dataclass(frozen=True, slots=True, kw_only=True)
class PixelFormat:
    """How one frame of a file is stored, as its header says and after the checks of `pixel_format`."""

    keyword: str
    rows: int
    columns: int
    samples: int
    bits_allocated: int
    bits_stored: int
    high_bit: int
    signed: bool
    photometric: str
    planar: bool = False

    @property
    def is_float(self) -> bool:
        """Whether the pixels are floating point numbers."""
        return self.keyword != "PixelData"

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of stored values in native byte order; one byte for single bits."""
        kind = "f" if self.is_float else "i" if self.signed and self.bits_allocated > 1 else "u"
        return np.dtype(f"{kind}{max(self.bits_allocated // 8, 1)}")

    @property
    def stored_range(self) -> tuple[int, int]:
        """Smallest and largest value that the stored bits can hold."""
        if self.signed:
            return -(1 << (self.bits_stored - 1)), (1 << (self.bits_stored - 1)) - 1
        return 0, (1 << self.bits_stored) - 1


def pixel_format(header: DicomHeader, limits: ReadLimits) -> PixelFormat:
    """Read and check the image pixel module of a single-frame image whose data set has its pixels.

    Raises
    ------
    ImageReadError
        No pixels, a value that is missing or impossible, or an image above `limits.max_pixels`.
    GeometryError
        More than one frame.
    """
    path = header.path
    present = [keyword for keyword in _KEYWORDS if keyword in header.layers[-1]]
    if len(present) != 1:
        kind = uid_name(header.uid("SOPClassUID"))
        found = "none" if not present else " and ".join(present)
        raise ImageReadError(
            f"{path}: expected one image with pixel data, found {found}; the object is: {kind}"
        )
    _require_one_frame(header)
    return frame_format(header, limits, keyword=present[0])


def frame_format(header: DicomHeader, limits: ReadLimits, *, keyword: str = "PixelData") -> PixelFormat:
    """Read and check the image pixel module, whatever the number of frames; the pixels may be left out.

    Parameters
    ----------
    header : DicomHeader
    limits : ReadLimits
        `max_pixels` is for one frame.
    keyword : str, optional
        Of the element that has the pixels: PixelData, FloatPixelData or DoubleFloatPixelData.

    Raises
    ------
    ImageReadError
        A value that is missing or impossible, or a frame above `limits.max_pixels`.
    """
    path, photometric = header.path, header.code("PhotometricInterpretation")
    samples = _samples(header, photometric)
    rows, columns = header.whole("Rows", 1, 65535), header.whole("Columns", 1, 65535)
    limits.check_pixels(path, (columns, rows, samples))
    allocated = _FLOAT_BITS.get(keyword) or header.whole("BitsAllocated", 1, 32)
    if allocated not in (1, 8, 16, 32, 64):
        raise ImageReadError(f"{path}: BitsAllocated is {allocated}, expected 1, 8, 16 or 32")
    stored = header.whole("BitsStored", 1, allocated, default=allocated)
    return PixelFormat(
        keyword=keyword,
        rows=rows,
        columns=columns,
        samples=samples,
        bits_allocated=allocated,
        bits_stored=stored,
        high_bit=header.whole("HighBit", stored - 1, allocated - 1, default=stored - 1),
        signed=bool(header.whole("PixelRepresentation", 0, 1, default=0)),
        photometric=photometric,
        planar=samples > 1 and header.numbers("PlanarConfiguration")[:1] == (1.0,),
    )


def number_of_frames(header: DicomHeader) -> int:
    """How many frames the header says the file has, 1 where it does not say.

    Raises
    ------
    ImageReadError
        Not a whole number above zero.
    """
    return header.whole("NumberOfFrames", 1, 1 << 31, default=1)


def _require_one_frame(header: DicomHeader) -> None:
    count = number_of_frames(header)
    if count > 1:
        raise GeometryError(
            f"{header.path}: expected a single image, found {count} frames; "
            "export the frame that is meant as a file of its own"
        )


def _samples(header: DicomHeader, photometric: str) -> int:
    samples = header.whole("SamplesPerPixel", 1, 4, default=1)
    expected = 3 if photometric in COLOUR else 1
    if photometric not in GRAY | COLOUR | {"PALETTE COLOR"}:
        raise ImageReadError(
            f"{header.path}: PhotometricInterpretation is {photometric or 'missing'}, "
            f"expected one of {', '.join(sorted(GRAY | COLOUR | {'PALETTE COLOR'}))}"
        )
    if samples != expected:
        raise ImageReadError(
            f"{header.path}: {photometric} has {expected} samples per pixel, the header says {samples}"
        )
    return samples
