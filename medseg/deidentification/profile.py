"""Table E.1-1 of PS3.15 with the options that were chosen: what is done with an attribute."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from importlib import resources
from typing import get_args

from pydicom import datadict

from medseg.deidentification.options import Cleaned, ProfileOptions

SHIFT, KEEP = "S", "K"
DESCRIPTORS, STRUCTURED, GRAPHICS = "C descriptors", "C structured_content", "C graphics"
_DATES = frozenset({"DA", "DT", "TM"})

# CID 7050; what the option of a name is called there.
BASIC = ("113100", "Basic Application Confidentiality Profile")
CLEAN_PIXELS = ("113101", "Clean Pixel Data Option")
_METHODS: Mapping[str, tuple[str, str]] = {
    "graphics": ("113103", "Clean Graphics Option"),
    "structured_content": ("113104", "Clean Structured Content Option"),
    "descriptors": ("113105", "Clean Descriptors Option"),
    "dates_full": ("113106", "Retain Longitudinal Temporal Information Full Dates Option"),
    "dates_modified": ("113107", "Retain Longitudinal Temporal Information Modified Dates Option"),
    "patient_characteristics": ("113108", "Retain Patient Characteristics Option"),
    "device": ("113109", "Retain Device Identity Option"),
    "uids": ("113110", "Retain UIDs Option"),
    "safe_private": ("113111", "Retain Safe Private Option"),
    "institution": ("113112", "Retain Institution Identity Option"),
}

# What the table does not name and what would still tell: texts of content items, the originals in encrypted form,
# texts of graphic layers, signatures' parameters, and what describes private elements that are gone.
_BESIDE_THE_TABLE: Mapping[int, str] = {
    0x0040A160: "D",
    0x04000500: "X",
    0x00700068: "X",
    0x4FFE0001: "X",
    0x00080001: "X",
    0x00080300: "X",
}
# UIDs of classes, schemes, syntaxes and templates: the same for everybody. All others belong to an instance.
_UIDS_OF_KINDS = frozenset(
    {
        0x00080016,
        0x0008001A,
        0x0008001B,
        0x00080062,
        0x0008010C,
        0x0008010D,
        0x00080117,
        0x00080118,
        0x0008040E,
        0x00081150,
        0x0008115A,
        0x00083002,
        0x00089123,
        0x00340003,
        0x04000010,
        0x04000510,
        0x30100052,
        0x30100053,
    }
)


class Profile:
    """The table of the standard, with the options that were chosen.

    An action is a code of Table E.1-1a, or S: shift the date, or C and the name of the option that cleans.

    Parameters
    ----------
    options : ProfileOptions
    """

    def __init__(self, options: ProfileOptions) -> None:
        self._retain, self._clean = frozenset(options.retain), frozenset(options.clean)
        self._known: dict[int, str] = {}
        chosen = [name for name in _METHODS if name in self._retain | self._clean]
        self.methods = (BASIC, *(_METHODS[name] for name in chosen))

    def action(self, tag: int) -> str:
        """What is done with a standard attribute; "" where it stays as it is."""
        found = self._known.get(tag)
        if found is None:
            row = _row(tag)
            found = self._known[tag] = self._unlisted(tag) if row is None else self._listed(row)
        return found

    def otherwise(self, tag: int) -> str:
        """What is done with an attribute that cannot be cleaned or shifted: what the basic profile says."""
        row = _row(tag)
        return "D" if row is None else row["basic"]

    def _listed(self, row: Mapping[str, str]) -> str:
        if "dates_modified" in self._retain and "dates_modified" in row:
            return SHIFT
        retained = {row[name] for name in self._retain if name in row}
        if "K" in retained:
            return KEEP
        if retained:
            # E.3.7 and E.3.8 ask for descriptions to be cleaned.
            return DESCRIPTORS
        option = next((name for name in get_args(Cleaned) if name in self._clean and name in row), None)
        return row["basic"] if option is None else f"C {option}"

    def _unlisted(self, tag: int) -> str:
        if tag in _BESIDE_THE_TABLE:
            return KEEP if tag == 0x00080300 and "safe_private" in self._retain else _BESIDE_THE_TABLE[tag]
        # Overlays and curves go as whole groups: what would be left of them describes nothing.
        if tag >> 24 in (0x50, 0x60) or not tag & 0xFFFF or not 8 <= tag >> 16 < 0xFFFE:
            return "X"
        if not datadict.dictionary_has_tag(tag):
            return "X"
        return self._by_kind(tag)

    def _by_kind(self, tag: int) -> str:
        """Of what the table does not name: dates (note 1 of E.3.6), names of persons, UIDs of instances."""
        kind = datadict.dictionary_VR(tag)
        if kind in _DATES:
            return (
                KEEP if "dates_full" in self._retain else SHIFT if "dates_modified" in self._retain else "D"
            )
        if kind == "UI" and tag not in _UIDS_OF_KINDS:
            return KEEP if "uids" in self._retain else "U"
        return "D" if kind == "PN" else ""


def rows() -> Mapping[str, Mapping[str, str]]:
    """Table E.1-1: action codes by option (`basic` for the profile itself) by tag, eight hexadecimal digits.

    `50xxxxxx` and `60xx3000` stand for repeating groups.
    """
    return _table()


def _row(tag: int) -> Mapping[str, str] | None:
    text = f"{tag:08x}"
    if text[:2] in ("50", "60") and not int(text[2:4], 16) % 2:
        text = "50xxxxxx" if text[0] == "5" else f"60xx{text[4:]}"
    return _table().get(text)


@cache
def _table() -> dict[str, dict[str, str]]:
    text = resources.files("medseg.deidentification").joinpath("profile_table.json").read_text("utf-8")
    found: dict[str, dict[str, str]] = json.loads(text)["rows"]
    return found
