"""Elements that stay as they were read: they must be what they say, or others may lie hidden in them.

A length or representation that is damaged lets a harmless element swallow those behind it, a name among them.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import prod

from pydicom import datadict
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.tag import BaseTag

from medseg.deidentification.pixel_encoding import has_native_pixels
from medseg.deidentification.risks import IdentifiersLeftError

_TEXT = frozenset(
    {"AE", "AS", "CS", "DA", "DS", "DT", "IS", "LO", "LT", "PN", "SH", "ST", "TM", "UC", "UI", "UR", "UT"}
)
_SIZES: Mapping[str, int] = {
    "AT": 4,
    "FD": 8,
    "FL": 4,
    "SL": 4,
    "SS": 2,
    "SV": 8,
    "UL": 4,
    "US": 2,
    "UV": 8,
}
_OTHERS = frozenset({"OB", "OD", "OF", "OL", "OV", "OW", "SQ"})
_BYTES = frozenset({"OB", "OD", "OF", "OL", "OV", "OW", "UN"})


def check_kept(data_set: Dataset, tag: BaseTag) -> None:
    """Refuse an element that cannot be what it says.

    Raises
    ------
    IdentifiersLeftError
        Its representation is unknown or of another kind than the attribute's, a text has bytes in it that no text
        has, or numbers are more than the attribute may have.
    """
    element = data_set.get_item(tag)
    if not isinstance(element, RawDataElement):
        return
    known = bool(datadict.dictionary_has_tag(tag))
    expected = str(datadict.dictionary_VR(tag)) if known else "UN"
    stated = element.VR or expected.split(" or ")[0]
    kinds = {_kind(one) for one in expected.split(" or ")}
    fits = stated == "UN" or (_kind(stated) in kinds if known else stated in _TEXT | _SIZES.keys() | _OTHERS)
    if not fits or not _is_plausible(element.value or b"", stated, expected, tag):
        raise IdentifiersLeftError(
            f"its element {tag} is damaged: it is not what an attribute of that tag is"
        )


def check_pixels(data_set: Dataset) -> None:
    """Refuse uncompressed pixels with more bytes than their header needs: something else lies behind them.

    Raises
    ------
    IdentifiersLeftError
        As above; with fewer bytes nothing is hidden.
    """
    if "PixelData" not in data_set or "Rows" not in data_set or not has_native_pixels(data_set):
        return
    try:
        needed = _needed(data_set)
    except (TypeError, ValueError, OverflowError):
        # A header that does not tell how many; no reader gets anywhere with it.
        return
    actual = len(data_set.PixelData)
    # Some write whole words more.
    if actual > needed + needed % 2 and any(data_set.PixelData[needed:]):
        raise IdentifiersLeftError(f"{actual - needed} bytes lie behind its pixels, which need {needed}")


def _needed(data_set: Dataset) -> int:
    samples = (
        2 if data_set.get("PhotometricInterpretation") == "YBR_FULL_422" else data_set.get("SamplesPerPixel")
    )
    # Not converted: a number that is none could not be written again.
    element = data_set.get_item("NumberOfFrames") if "NumberOfFrames" in data_set else None
    frames = element.value or 1 if element is not None else 1
    factors = (data_set.Rows, data_set.Columns, samples or 1, frames, data_set.get("BitsAllocated") or 1)
    return (prod(int(factor) for factor in factors) + 7) // 8


def _kind(representation: str) -> str:
    if representation == "PN":
        return "name"
    kinds = (("text", _TEXT), ("number", _SIZES), ("bytes", _BYTES))
    return next((kind for kind, members in kinds if representation in members), representation)


def _is_plausible(value: bytes, stated: str, expected: str, tag: BaseTag) -> bool:
    if stated in _TEXT or (stated == "UN" and expected in _TEXT):
        return b"\0" not in value.rstrip(b"\0 ")
    size = _SIZES.get(stated)
    if size is None:
        return True
    most = str(datadict.dictionary_VM(tag)).split("-")[-1] if datadict.dictionary_has_tag(tag) else "n"
    return len(value) % size == 0 and (not most.isdigit() or len(value) <= max(int(most), 1) * size)
