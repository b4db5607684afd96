"""Values that stand for what is taken out, each valid for its value representation."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import date, timedelta
from typing import Any

from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence as DicomSequence

REMOVED = "REMOVED"
TEXT_VRS = frozenset({"AE", "CS", "LO", "LT", "PN", "SH", "ST", "UC", "UR", "UT"})
_BYTES = frozenset({"OB", "OD", "OF", "OL", "OV", "OW", "UN", "OB or OW"})
_DUMMIES: Mapping[str, Any] = {
    "AS": "000Y",
    "DA": "19000101",
    "DT": "19000101000000",
    "TM": "000000",
    "DS": "0",
    "IS": "0",
    "PN": "Anonymous",
}


def empty(element: DataElement) -> None:
    """Zero length."""
    element.value = DicomSequence() if element.VR == "SQ" else None


def replace(data_set: Dataset, element: DataElement) -> None:
    """A dummy of the element's kind; bytes go, and sequences whose items would have to be invented are left empty."""
    if element.VR in _DUMMIES:
        element.value = _DUMMIES[element.VR]
    elif element.VR in TEXT_VRS:
        element.value = REMOVED
    elif element.keyword == "GraphicAnnotationSequence":
        # The module may be left out, an empty sequence may not (PS3.3 A.33.1).
        del data_set[element.tag]
    elif element.VR == "SQ":
        make = _ITEMS.get(element.keyword)
        element.value = DicomSequence([make()] if make else [])
    elif element.VR in _BYTES:
        del data_set[element.tag]
    else:
        element.value = 0


def removed_code() -> Dataset:
    """A code that says that there was another one."""
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = REMOVED, "99MEDSEG", REMOVED
    return item


def _content_item() -> Dataset:
    """A comment (PS3.16: 121106, DCM) in the place of a report's content."""
    item, name = Dataset(), Dataset()
    name.CodeValue, name.CodingSchemeDesignator, name.CodeMeaning = "121106", "DCM", "Comment"
    item.RelationshipType, item.ValueType, item.TextValue = "CONTAINS", "TEXT", REMOVED
    item.ConceptNameCodeSequence = [name]
    return item


def _observer() -> Dataset:
    """Who verified a report (PS3.3 C.17.2)."""
    item = Dataset()
    item.VerifyingOrganization, item.VerifyingObserverName = REMOVED, _DUMMIES["PN"]
    item.VerificationDateTime, item.VerifyingObserverIdentificationCodeSequence = _DUMMIES["DT"], []
    return item


_ITEMS: Mapping[str, Callable[[], Dataset]] = {
    "ContentSequence": _content_item,
    "VerifyingObserverSequence": _observer,
    "PersonIdentificationCodeSequence": removed_code,
}


def each(element: DataElement, change: Callable[[str], str]) -> bool:
    """Change each value of an element; False, and nothing is changed, where one comes out empty that was not."""
    values = [str(value) for value in ([element.value] if element.VM <= 1 else element.value) if value]
    changed = [change(value) for value in values]
    if not all(changed):
        return False
    element.value = changed[0] if len(changed) == 1 else changed or None
    return True


def earlier(text: str, days: int) -> str:
    """A date, or date and time, so many days before; "" where it is none."""
    try:
        moved = date(int(text[:4]), int(text[4:6]), int(text[6:8])) - timedelta(days=days)
    except (ValueError, OverflowError):
        return ""
    return f"{moved.year:04d}{moved.month:02d}{moved.day:02d}{text[8:]}"
