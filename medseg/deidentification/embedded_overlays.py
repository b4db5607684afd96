"""Overlays in bits of the pixels that the image does not use; removing their attributes alone leaves them there."""

from __future__ import annotations

import numpy as np
from pydicom.dataset import Dataset

from medseg.deidentification.pixel_encoding import has_native_pixels, is_little_endian
from medseg.deidentification.risks import IdentifiersLeftError

_OVERLAY_DATA, _BITS_ALLOCATED, _BIT_POSITION = 0x3000, 0x0100, 0x0102


def clear_unused_bits(data_set: Dataset) -> None:
    """Clear the bits around the stored ones where an overlay lies in them (PS3.5 8.1.2, retired).

    Raises
    ------
    IdentifiersLeftError
        The pixels are compressed, or their header is damaged.
    """
    if not _is_embedded(data_set) or "PixelData" not in data_set:
        return
    if not has_native_pixels(data_set):
        raise IdentifiersLeftError("an overlay lies in unused bits of its compressed pixels")
    allocated, stored = int(data_set.BitsAllocated), int(data_set.BitsStored)
    high = int(data_set.get("HighBit", stored - 1))
    if allocated not in (8, 16, 32) or not 0 <= high + 1 - stored <= high < allocated:
        raise IdentifiersLeftError("an overlay lies in its pixels, whose header is damaged")
    order = "<" if is_little_endian(data_set) else ">"
    signed = bool(data_set.get("PixelRepresentation", 0))
    content = bytes(data_set.PixelData)
    whole = len(content) - len(content) % (allocated // 8)
    values = np.frombuffer(content[:whole], dtype=f"{order}{'i' if signed else 'u'}{allocated // 8}")
    above, below = allocated - 1 - high, high + 1 - stored
    cleared = ((values << above) >> above + below) << below
    data_set.PixelData = cleared.astype(values.dtype).tobytes() + content[whole:]


def _is_embedded(data_set: Dataset) -> bool:
    for group in {tag.group for tag in list(data_set.keys()) if tag.group >> 8 == 0x60 and not tag.group % 2}:
        has_own_data = (group, _OVERLAY_DATA) in data_set
        position, allocated = (
            int(data_set[group, number].value or 0) if (group, number) in data_set else 0
            for number in (_BIT_POSITION, _BITS_ALLOCATED)
        )
        if position or (allocated > 1 and not has_own_data):
            return True
    return False
