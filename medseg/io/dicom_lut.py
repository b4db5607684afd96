"""Look-up tables of DICOM headers: modality tables and the three tables of a colour palette."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medseg.errors import ImageReadError
from medseg.io.dicom_header import DicomHeader

_MAX_ENTRIES = 1 << 16
_COLOURS = ("Red", "Green", "Blue")


@dataclass(frozen=True, slots=True, kw_only=True)
class LookUpTable:
    """Entry n is the output for the stored value first + n; values beyond either end take the end's entry."""

    entries: NDArray[np.float64]
    first: int

    def __call__(self, stored: NDArray[Any]) -> NDArray[np.float64]:
        """Outputs, in the shape of `stored`."""
        index = np.clip(stored.astype(np.int64) - self.first, 0, len(self.entries) - 1)
        return np.asarray(self.entries[index], dtype=np.float64)


def look_up_table(item: DicomHeader, prefix: str, *, little_endian: bool, signed: bool) -> LookUpTable:
    """Read `<prefix>Descriptor` and `<prefix>Data`.

    Parameters
    ----------
    item : DicomHeader
    prefix : str
        Such as "LUT" or "RedPaletteColorLookupTable".
    little_endian : bool
        Byte order of 16-bit entries.
    signed : bool
        Whether the first mapped value may be negative; files with implicit VR do not say.

    Raises
    ------
    ImageReadError
        No valid descriptor, or fewer entries than it says.

    References
    ----------
    DICOM PS3.3 C.11.1.1 and C.7.6.3.1.5: three numbers, entries (0 means 65536), first value, bits.
    """
    descriptor = item.numbers(f"{prefix}Descriptor")
    if len(descriptor) != 3 or not all(math.isfinite(v) for v in descriptor):
        raise ImageReadError(f"{item.path}: {prefix}Descriptor is missing or not three numbers")
    count, first = int(descriptor[0]) or _MAX_ENTRIES, int(descriptor[1])
    entries = _entries(item, f"{prefix}Data", count, little_endian=little_endian)
    if not 0 < count <= _MAX_ENTRIES or len(entries) < count:
        raise ImageReadError(f"{item.path}: {prefix} says it has {count} entries, {len(entries)} are there")
    if signed and first > 0x7FFF:
        first -= 1 << 16
    return LookUpTable(entries=entries[:count].astype(np.float64), first=first)


def _entries(item: DicomHeader, keyword: str, count: int, *, little_endian: bool) -> NDArray[Any]:
    data = item.value(keyword)
    if isinstance(data, bytes):
        if len(data) < 2 * count:  # 8-bit entries, padded to even length
            return np.frombuffer(data, dtype=np.uint8)
        return np.frombuffer(data[: 2 * count], dtype="<u2" if little_endian else ">u2")
    numbers = item.numbers(keyword)
    if not all(math.isfinite(v) for v in numbers):
        raise ImageReadError(f"{item.path}: {keyword} cannot be read; the header is damaged")
    return np.array(numbers, dtype=np.float64)


def palette(header: DicomHeader, *, little_endian: bool, signed: bool) -> tuple[LookUpTable, ...]:
    """Tables for red, green and blue.

    Raises
    ------
    ImageReadError
        A palette that is stored in segments, or is damaged.
    """
    if header.value("SegmentedRedPaletteColorLookupTableData") is not None:
        raise ImageReadError(
            f"{header.path}: a segmented colour palette is not read; convert the file to RGB"
        )
    return tuple(
        look_up_table(header, f"{colour}PaletteColorLookupTable", little_endian=little_endian, signed=signed)
        for colour in _COLOURS
    )
