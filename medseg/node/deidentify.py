"""Identifiers out of data sets: the basic profile of DICOM PS3.15 Annex E, with a keyed map of UIDs.

Where the table allows several actions the one is taken that keeps the object conformant and tells least: of X/Z an
empty value, of X/D, Z/D and X/Z/D a dummy, of X/Z/U* the references with mapped UIDs. What an option says must be
cleaned is treated as the basic profile says, since nobody reads it. Private elements are removed, all of them.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import date, timedelta
from functools import cache
from importlib import resources
from typing import Any

from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence as DicomSequence

from medseg.errors import ConfigError, InputError
from medseg.node.privacy_options import DeidentifyOptions

_SHORTEST_KEY = 16
_MOST_DAYS = 3650
_TEXT_VRS = frozenset({"AE", "CS", "LO", "LT", "PN", "SH", "ST", "UC", "UR", "UT"})
_DUMMIES: Mapping[str, Any] = {
    "AS": "000Y",
    "DA": "19000101",
    "DT": "19000101000000",
    "TM": "000000",
    "DS": "0",
    "IS": "0",
    "PN": "Anonymous",
}
_BASIC = ("113100", "Basic Application Confidentiality Profile")


class IdentifiersLeftError(InputError):
    """Identifiers would stay in the instance."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """The table of the standard, with the options that were chosen.

    Parameters
    ----------
    actions : mapping of str to str
        Action code by tag, eight hexadecimal digits; `50xxxxxx` and `60xx3000` stand for repeating groups. K: keep,
        S: shift.
    methods : tuple of (code, meaning)
        What the result says was done to it (CID 7050).
    """

    actions: Mapping[str, str]
    methods: tuple[tuple[str, str], ...]

    def action(self, tag: int) -> str:
        """Action code of a tag; "" where the table does not name it."""
        text = f"{tag:08x}"
        if text[:2] in ("50", "60") and not int(text[2:4], 16) % 2:
            return self.actions.get("50xxxxxx" if text[0] == "5" else f"60xx{text[4:]}", "")
        return self.actions.get(text, "")


def deidentifier(options: DeidentifyOptions, key: bytes) -> Callable[[Dataset], Dataset]:
    """What takes the identifiers out of a data set; it changes the data set that it is given.

    Parameters
    ----------
    options : DeidentifyOptions
    key : bytes

    Raises
    ------
    ConfigError
        The key is short.
    """
    if len(key) < _SHORTEST_KEY:
        raise ConfigError(f"deidentify.key: {len(key)} characters, expected {_SHORTEST_KEY} or more")
    return _Deidentifier(profile_of(options), options, key)


def profile_of(options: DeidentifyOptions) -> Profile:
    """The table with the options of the settings."""
    table = _table()
    actions = {tag: code for code, lines in table["basic"].items() for line in lines for tag in line.split()}
    methods = [_BASIC]
    for name in options.retain:
        option = table["retain"][name]
        kept = "S" if name == "dates_modified" else "K"
        actions |= {tag: kept for line in option["tags"] for tag in line.split()}
        methods.append((option["code"], option["meaning"]))
    return Profile(actions=actions, methods=tuple(methods))


@cache
def _table() -> Any:
    return json.loads(resources.files("medseg.node").joinpath("deidentify_table.json").read_text("utf-8"))


class _Deidentifier:
    def __init__(self, profile: Profile, options: DeidentifyOptions, key: bytes) -> None:
        self._profile, self._options, self._key = profile, options, key

    def __call__(self, data_set: Dataset) -> Dataset:
        burned_in = str(data_set.get("BurnedInAnnotation") or "").upper() == "YES"
        if burned_in and self._options.burned_in == "refuse":
            raise IdentifiersLeftError(
                "it says that identifiers are burned into its pixels (deidentify.burned_in)"
            )
        patient = _patient(data_set)
        days = 1 + int.from_bytes(self._digest("days", patient)[:8]) % _MOST_DAYS
        self._clean(data_set, days)
        stand_in = "P-" + self._digest("patient", patient).hex()[:12].upper()
        data_set.PatientID, data_set.PatientName = stand_in, stand_in
        self._declare(data_set)
        return data_set

    def _clean(self, data_set: Dataset, days: int) -> None:
        for tag in list(data_set.keys()):
            if tag.is_private:
                del data_set[tag]
                continue
            action = self._profile.action(int(tag))
            if action == "X":
                # Never parsed: what is thrown away may be malformed.
                del data_set[tag]
                continue
            self._change(data_set, data_set[tag], action, days)

    def _change(self, data_set: Dataset, element: DataElement, action: str, days: int) -> None:
        if action in ("Z", "X/Z"):
            self._empty(element)
        elif action in ("D", "Z/D", "X/D", "X/Z/D"):
            self._replace(data_set, element)
        elif action == "U":
            self._map(element)
        elif action == "S":
            self._shift(element, days)
        elif element.VR == "SQ":
            for item in element.value:
                self._clean(item, days)

    @staticmethod
    def _empty(element: DataElement) -> None:
        element.value = DicomSequence() if element.VR == "SQ" else None

    def _replace(self, data_set: Dataset, element: DataElement) -> None:
        """A dummy of the element's kind. Of sequences and bytes nothing is left, as every dummy would be invented."""
        if element.VR == "UI":
            self._map(element)
        elif element.VR in _DUMMIES:
            element.value = _DUMMIES[element.VR]
        elif element.VR in _TEXT_VRS:
            element.value = "REMOVED"
        elif element.VR == "SQ":
            element.value = DicomSequence()
        elif element.VR in ("OB", "OD", "OF", "OL", "OV", "OW", "UN"):
            del data_set[element.tag]
        else:
            element.value = 0

    def _map(self, element: DataElement) -> None:
        values = [element.value] if element.VM <= 1 else list(element.value)
        mapped = [self.uid(str(value)) if value else "" for value in values]
        element.value = mapped[0] if len(mapped) == 1 else mapped

    def uid(self, original: str) -> str:
        """The UID that stands for another one, always the same with the same key (PS3.5 B.2)."""
        bits = int.from_bytes(self._digest("uid", original)[:16])
        shaped = bits & ~((0xF << 76) | (0x3 << 62)) | (0x8 << 76) | (0x2 << 62)
        return f"2.25.{uuid.UUID(int=shaped).int}"

    def _shift(self, element: DataElement, days: int) -> None:
        values = [element.value] if element.VM <= 1 else list(element.value)
        if element.VR in ("DA", "DT"):
            shifted = [_earlier(str(value), days) if value else "" for value in values]
            element.value = shifted[0] if len(shifted) == 1 else shifted
        elif element.VR != "TM":
            self._empty(element)

    def _declare(self, data_set: Dataset) -> None:
        data_set.PatientIdentityRemoved = "YES"
        data_set.DeidentificationMethod = "medseg, DICOM PS3.15 Annex E"
        items = []
        for code, meaning in self._profile.methods:
            item = Dataset()
            item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = code, "DCM", meaning[:64]
            items.append(item)
        data_set.DeidentificationMethodCodeSequence = items
        kept = set(self._options.retain)
        state = (
            "UNMODIFIED" if "dates_full" in kept else "MODIFIED" if "dates_modified" in kept else "REMOVED"
        )
        data_set.LongitudinalTemporalInformationModified = state

    def _digest(self, kind: str, text: str) -> bytes:
        return hmac.new(
            self._key, f"{kind}\0{text}".encode("utf-8", "surrogatepass"), hashlib.sha256
        ).digest()


def _patient(data_set: Dataset) -> str:
    """What tells patients apart: the number, without one name and birth date, without these the study."""
    for keywords in (
        ("PatientID", "IssuerOfPatientID"),
        ("PatientName", "PatientBirthDate"),
        ("StudyInstanceUID",),
    ):
        values = [str(data_set.get(name) or "").strip() for name in keywords]
        if values[0]:
            return "\0".join((keywords[0], *values))
    return ""


def _earlier(text: str, days: int) -> str:
    """A date, or date and time, so many days before; "" where it is none."""
    try:
        moved = date(int(text[:4]), int(text[4:6]), int(text[6:8])) - timedelta(days=days)
    except (ValueError, OverflowError):
        return ""
    return f"{moved.year:04d}{moved.month:02d}{moved.day:02d}{text[8:]}"
