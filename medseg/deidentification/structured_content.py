"""Content items and codes without identifiers (PS3.15 E.3.4): structure, codes, numbers and references stay."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache

from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence as DicomSequence
from pydicom.sr.codedict import codes

from medseg.deidentification.descriptors import known_words
from medseg.deidentification.stand_ins import removed_code

# PS3.16 8: schemes that are published, so that a code means the same to everybody.
_SCHEMES = """
    ACR BI CPT4 DCM FMA I10 I10P I9 I9C IBSI ICDO3 ISO3166_1 ISO639_1 ISO639_2 ITIS_TSN LN MDC MDNS MSH NCDR NCIt NEU
    PATHLEX RADLEX RFC3066 RFC5646 RXNORM SCT SNM3 SRT UBERON UCUM UMLS UNS
"""
_PUBLIC = frozenset(_SCHEMES.split())
_CODE = re.compile(r"[!-~]{1,24}")
# PS3.16 TID 1007: birth date, sex and age of the subject, and the patient's size and weight (TID 3602).
_BIRTH_DATE = "121031"
_CHARACTERISTICS = frozenset({"121032", "121033", "8302-2", "3141-9", "29463-7", "8277-6", "39156-5"})
_VALUE_TYPES = """
    CODE COMPOSITE CONTAINER DATE DATETIME IMAGE NUM NUMERIC PNAME SCOORD SCOORD3D TCOORD TEXT TIME UIDREF
    WAVEFORM
"""
_TYPES = frozenset(_VALUE_TYPES.split())


def clean_content(element: DataElement, *, keep_characteristics: bool) -> None:
    """Clean content items whose own texts, names, dates and UIDs the profile has changed already.

    Parameters
    ----------
    element : DataElement
        A sequence of content items (PS3.3 C.17.3).
    keep_characteristics : bool
        Whether sex, age, size and weight of the subject stay.
    """
    kept = [item for item in element.value if _may_stay(item, keep_characteristics)]
    for item in kept:
        _clean_codes_of(item)
    element.value = DicomSequence(kept)


def clean_codes(element: DataElement) -> None:
    """Clean the codes in the items of a sequence, at any depth; codes that are no public ones go."""
    if any("CodeValue" in item or "CodeMeaning" in item for item in element.value):
        _clean_sequence(element, required=False)
    for item in element.value:
        for inner in item:
            if inner.VR == "SQ":
                clean_codes(inner)


def _may_stay(item: Dataset, keep_characteristics: bool) -> bool:
    if (
        str(item.get("ValueType") or "CONTAINER") not in _TYPES
        and "ReferencedContentItemIdentifier" not in item
    ):
        return False
    concept = _first_code(item)
    return concept != _BIRTH_DATE and (keep_characteristics or concept not in _CHARACTERISTICS)


def _first_code(item: Dataset) -> str:
    names = list(item.get("ConceptNameCodeSequence") or ())
    return str(names[0].get("CodeValue") or "") if names else ""


def _clean_codes_of(item: Dataset) -> None:
    """Clean all codes of an item but those of the content items in it, which are looked at by themselves."""
    for inner in item:
        if inner.VR != "SQ" or inner.keyword == "ContentSequence":
            continue
        if inner.keyword.endswith("CodeSequence"):
            _clean_sequence(inner, required=True)
        for deeper in inner.value:
            _clean_codes_of(deeper)


def _clean_sequence(element: DataElement, *, required: bool) -> None:
    kept = [item for item in element.value if _is_public(item)]
    for item in kept:
        _say_plainly(item)
    # PS3.3 C.17.3: the name of a content item is not left out.
    element.value = DicomSequence(kept or ([removed_code()] if required and element.value else []))


def _is_public(item: Dataset) -> bool:
    scheme, code = (str(item.get(name) or "") for name in ("CodingSchemeDesignator", "CodeValue"))
    return scheme in _PUBLIC and bool(_CODE.fullmatch(code))


def _say_plainly(item: Dataset) -> None:
    """The meaning that the scheme gives the code, not the one that somebody wrote beside it."""
    scheme, code = str(item.CodingSchemeDesignator), str(item.CodeValue)
    written = str(item.get("CodeMeaning") or "")
    meaning = _meanings(scheme).get(code) or (written if scheme == "UCUM" and written == code else "")
    item.CodeMeaning = (meaning or known_words(written) or code)[:64]
    for inner in list(item.keys()):
        if inner not in (0x00080100, 0x00080102, 0x00080103, 0x00080104):
            del item[inner]


@cache
def _meanings(scheme: str) -> Mapping[str, str]:
    """Meaning by code, of the schemes that pydicom knows."""
    if scheme not in ("DCM", "SCT", "UCUM", "NCIt"):
        return {}
    return {code.value: code.meaning for code in getattr(codes, scheme).concepts.values()}
