"""Elements of the DICOM JSON model (PS3.18 Annex F), by keyword: read without trust, and written."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.uid import RE_VALID_UID

JsonDataSet = Mapping[str, Any]


def items_of(data_set: JsonDataSet, keyword: str) -> list[JsonDataSet]:
    """Items of a sequence; none where it is missing or malformed."""
    return [item for item in _values(data_set, keyword) if isinstance(item, Mapping)]


def text_of(data_set: JsonDataSet, keyword: str) -> str:
    """First value as text; "" where there is none."""
    value = next(iter(_values(data_set, keyword)), None)
    return value.strip() if isinstance(value, str) else ""


def uid_of(data_set: JsonDataSet, keyword: str) -> str:
    """First value where it is a UID; "" otherwise."""
    return valid_uid(text_of(data_set, keyword))


def number_of(data_set: JsonDataSet, keyword: str) -> int | None:
    """First value where it is a whole number of instances or the like; None otherwise."""
    value = next(iter(_values(data_set, keyword)), None)
    # Annex F.2.2: numbers of VR IS may be given as text.
    text = str(value) if isinstance(value, int | str) else ""
    return int(text) if re.fullmatch(r"[0-9]{1,9}", text) else None


def valid_uid(text: str) -> str:
    """The text where it is a UID; "" otherwise."""
    # pydicom's UID warns with the value, which may be anything.
    return text if len(text) <= 64 and re.fullmatch(RE_VALID_UID, text) else ""


def element(keyword: str, *values: Any) -> dict[str, dict[str, Any]]:
    """An element by its tag; without values it is empty."""
    tag = tag_for_keyword(keyword)
    if tag is None:
        raise KeyError(keyword)
    said: dict[str, Any] = {"vr": dictionary_VR(tag)}
    return {f"{tag:08X}": said | ({"Value": list(values)} if values else {})}


def data_set(*elements: Mapping[str, Any]) -> dict[str, Any]:
    """Elements put together, in the order of their tags."""
    joined = {tag: value for one in elements for tag, value in one.items()}
    return dict(sorted(joined.items()))


def _values(data_set: JsonDataSet, keyword: str) -> Sequence[Any]:
    tag = tag_for_keyword(keyword)
    found = data_set.get(f"{tag:08X}")
    values = found.get("Value") if isinstance(found, Mapping) else None
    return values if isinstance(values, list) else []
