"""Objects that a clean header does not make anonymous: what is burned in, scanned, photographed or enclosed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pydicom.dataset import Dataset

from medseg.errors import InputError

Policy = Literal["refuse", "declared", "accept"]

_STORAGE = "1.2.840.10008.5.1.4.1.1."
_MEDIA_DIRECTORY = "1.2.840.10008.1.3.10"
# PS3.4 B.5 and PS3.6 A: what the classes below a UID are.
_ENCLOSED = {
    f"{_STORAGE}104.": "it encloses a document, which cannot be cleaned",
    f"{_STORAGE}9.4.": "it is a recording of sound, which cannot be cleaned",
}
_LIKELY = {
    f"{_STORAGE}7": "it is a secondary capture, which often shows identifiers in its pixels",
    f"{_STORAGE}6": "it is an ultrasound image, which often shows identifiers in its pixels",
    f"{_STORAGE}3": "it is an ultrasound image, which often shows identifiers in its pixels",
    f"{_STORAGE}77.1.1": "it is a picture of visible light, which may show a person or identifiers",
    f"{_STORAGE}77.1.2": "it is a picture of visible light, which may show a person or identifiers",
    f"{_STORAGE}77.1.4": "it is a picture of visible light, which may show a person or identifiers",
}
_MODALITIES = {
    "US": "ultrasound images often show identifiers in their pixels",
    "IVUS": "ultrasound images often show identifiers in their pixels",
    "BDUS": "ultrasound images often show identifiers in their pixels",
    "ES": "endoscopy images often show identifiers in their pixels",
    "XC": "photographs may show a person",
    "GM": "photographs may show a label",
    "DOC": "documents show identifiers",
    "BMD": "densitometry reports show identifiers in their pixels",
}
_IMAGE_TYPES = ("SCREEN", "CAPTURE", "SAVE", "REPORT", "DOSE", "LABEL", "OVERVIEW", "PHOTO")
# Scanned, digitised or drawn (PS3.3 C.8.6.1).
_CONVERSIONS = frozenset({"DF", "DI", "DRW", "DV", "SD", "SI", "SYN", "WSD"})
_GRAY_MODALITIES = frozenset({"CR", "CT", "DX", "IO", "MG", "MR", "NM", "PT", "RF", "RTIMAGE", "XA"})


class IdentifiersLeftError(InputError):
    """Identifiers would stay in the instance."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Risk:
    """Why an object is refused.

    Parameters
    ----------
    sentence : str
        Without identifiers.
    in_pixels : bool
        Whether blanking of the pixels mends it.
    """

    sentence: str
    in_pixels: bool


def risk_of(data_set: Dataset, *, policy: Policy) -> Risk | None:
    """What would identify a person after the attributes are cleaned, or None.

    Parameters
    ----------
    data_set : Dataset
    policy : str
        refuse: what is said or likely; declared: what the object itself says; accept: only what is enclosed.
    """
    enclosed = enclosed_in(data_set)
    if enclosed:
        return Risk(sentence=enclosed, in_pixels=False)
    if policy == "accept":
        return None
    if _code(data_set, "RecognizableVisualFeatures") == "YES":
        return Risk(
            sentence="it says that a person can be recognised in it (burned_in: accept)", in_pixels=False
        )
    if _code(data_set, "BurnedInAnnotation") == "YES":
        return _pixels("it says that identifiers are burned into its pixels")
    likely = _likely(data_set) if policy == "refuse" and _has_pixels(data_set) else ""
    return _pixels(likely) if likely else None


def _pixels(sentence: str) -> Risk:
    return Risk(sentence=f"{sentence} (burned_in, or blank regions of it)", in_pixels=True)


def enclosed_in(data_set: Dataset) -> str:
    """Why nothing can be made of an object: it holds documents, sound, or a list of files; else ""."""
    sop_class = str(data_set.get("SOPClassUID") or "").strip()
    if sop_class == _MEDIA_DIRECTORY or "DirectoryRecordSequence" in data_set:
        return "it is a DICOMDIR, a list of other files; make a new one of the output"
    if "EncapsulatedDocument" in data_set:
        return _ENCLOSED[f"{_STORAGE}104."]
    return next((text for root, text in _ENCLOSED.items() if sop_class.startswith(root)), "")


def _likely(data_set: Dataset) -> str:
    sop_class = str(data_set.get("SOPClassUID") or "").strip()
    for root, text in _LIKELY.items():
        if sop_class == root or sop_class.startswith(f"{root}."):
            return text
    modality = _code(data_set, "Modality")
    if modality in _MODALITIES:
        return _MODALITIES[modality]
    if _code(data_set, "ConversionType") in _CONVERSIONS:
        return "it was scanned, digitised or drawn, and may show identifiers in its pixels"
    if _is_screen(data_set):
        return "its Image Type tells of a screen, report or label, which often show identifiers"
    if modality in _GRAY_MODALITIES and _is_colour(data_set):
        return f"it is a colour picture of {modality}, as screen captures are"
    return ""


def _is_screen(data_set: Dataset) -> bool:
    values = data_set.get("ImageType") or ()
    # The first two say original or derived, primary or secondary.
    texts = [str(value).upper() for value in ([values] if isinstance(values, str) else values)][2:]
    return any(word in text for text in texts for word in _IMAGE_TYPES)


def _is_colour(data_set: Dataset) -> bool:
    photometric = _code(data_set, "PhotometricInterpretation")
    return photometric.startswith(("RGB", "YBR", "PALETTE"))


def _has_pixels(data_set: Dataset) -> bool:
    return any(name in data_set for name in ("PixelData", "FloatPixelData", "DoubleFloatPixelData"))


def _code(data_set: Dataset, keyword: str) -> str:
    return str(data_set.get(keyword) or "").strip().upper()
