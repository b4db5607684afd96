"""What pages say, in English and Chinese: one catalogue of texts for each language.

A catalogue is made of the JSON files of its folder, one for each kind of page, so that a page is added by
adding a file to every language. Keys are the same in all of them, and so are the names in braces.
`phrases.json` is apart: it turns sentences that other parts of the program make (reasons, notes, advice)
into another language; English has none.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from datetime import date
from functools import cache
from importlib import resources
from types import MappingProxyType
from typing import Literal, get_args

Language = Literal["en", "zh"]
LANGUAGES: tuple[Language, ...] = get_args(Language)
HTML_LANGUAGE: Mapping[Language, str] = {"en": "en", "zh": "zh-Hans"}
"""Value of the attribute `lang` of a page."""

_PHRASES = "phrases.json"
_DAY = re.compile(r"(\d{4})-?(\d{2})-?(\d{2})(?:[T ](\d{2}):?(\d{2}).*)?")


@cache
def text(language: Language = "en") -> Mapping[str, str]:
    """Texts of a language by key; a key that it does not have is a KeyError.

    Raises
    ------
    ValueError
        Two files have the same key.
    """
    found: dict[str, str] = {}
    for part in sorted(_folder(language).iterdir(), key=lambda part: part.name):
        if not part.name.endswith(".json") or part.name == _PHRASES:
            continue
        entries = json.loads(part.read_text(encoding="utf-8"))
        twice = found.keys() & entries.keys()
        if twice:
            raise ValueError(
                f"{part.name} of {language} has keys of another file: {', '.join(sorted(twice))}"
            )
        found |= entries
    return MappingProxyType(found)


def phrase(language: Language, sentence: str) -> str | None:
    """A sentence of the program in a language; None where the language has no words for it."""
    if language == "en":
        return sentence
    known = _phrases(language)
    if sentence in known:
        return known[sentence]
    for pattern, words in _patterns(language):
        match = pattern.fullmatch(sentence)
        if match is not None:
            return words.format(*(_part(language, part) for part in match.groups()))
    return None


def _part(language: Language, part: str) -> str:
    """A changing part of a sentence: a shorter sentence, a structure or a pair of them, or a number."""
    names = part.split("/")
    if part not in _phrases(language) and all(f"structure.{name}" in text(language) for name in names):
        return structure_name(language, part)
    several = [phrase(language, one) for one in part.split(" and ")]
    return phrase(language, part) or (
        text(language)["comma"].join(map(str, several)) if all(several) else part
    )


def structure_name(language: Language, name: str) -> str:
    """A structure as people call it: `lung_left` is "lung left" in English; pairs keep their stroke."""
    if "/" in name:
        return " / ".join(structure_name(language, part) for part in name.split("/"))
    plain = name.replace("_", " ")
    return text(language).get(f"structure.{name}", plain)


def day(language: Language, stamp: str) -> str:
    """A date, or a date with its time, as the language writes it; what is no date comes back as it is.

    Parameters
    ----------
    language : {"en", "zh"}
    stamp : str
        ISO 8601, or DICOM's YYYYMMDD.
    """
    match = _DAY.fullmatch(stamp.strip())
    if match is None:
        return stamp
    year, month, number, hour, minute = match.groups()
    clock = "" if hour is None else f" {hour}:{minute}{_zone(stamp)}"
    if language == "zh":
        return f"{year}年{int(month)}月{int(number)}日{clock}"
    return f"{year}-{month}-{number}{clock}"


def days_between(earlier: str, later: str) -> int | None:
    """Days from one date to another; None where one of them is no date."""
    found = []
    for stamp in (earlier, later):
        match = _DAY.fullmatch(stamp.strip())
        if match is None:
            return None
        try:
            found.append(date(*(int(part) for part in match.groups()[:3])))
        except ValueError:
            return None
    return (found[1] - found[0]).days


def _zone(stamp: str) -> str:
    return " UTC" if stamp.endswith(("+00:00", "Z")) else ""


def _folder(language: Language) -> resources.abc.Traversable:
    return resources.files("medseg.report.language") / language


@cache
def _phrases(language: Language) -> Mapping[str, str]:
    known: dict[str, str] = json.loads((_folder(language) / _PHRASES).read_text(encoding="utf-8"))
    return known


@cache
def _patterns(language: Language) -> tuple[tuple[re.Pattern[str], str], ...]:
    """Sentences with parts that change, written with {} in their place."""
    return tuple(
        (re.compile("(.+?)".join(re.escape(part) for part in sentence.split("{}"))), words)
        for sentence, words in _phrases(language).items()
        if "{}" in sentence
    )
