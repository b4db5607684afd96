"""The words of the cohort page in its language, and the names of measures, checks, structures and splits."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from types import MappingProxyType
from typing import Any

from markupsafe import Markup, escape

from medseg.report.language import HTML_LANGUAGE, Language, phrase, structure_name, text
from medseg.report.page import VERDICTS

Words = Mapping[str, str]
_OWN = "cohort_page."


@cache
def words(language: Language) -> Words:
    """Texts of `cohort.json` by their short keys, `word_` and `verdict_` of verdicts, and a few shared ones."""
    known = text(language)
    found = {key.removeprefix(_OWN): said for key, said in known.items() if key.startswith(_OWN)}
    for verdict in VERDICTS:
        found |= {f"word_{verdict}": known[f"verdict.{verdict}"]}
        found |= {f"verdict_{verdict}": known[f"verdict.{verdict}.long"]}
    shared = {key: known[key] for key in ("research", "not_defined", "comma", "colon")}
    return MappingProxyType(found | shared | {"lang": HTML_LANGUAGE[language]})


def nice(name: object) -> str:
    """A key as people write it."""
    return str(name).replace("_", " ")


def named(structure: str, language: Language) -> str:
    """A structure as people call it."""
    return structure_name(language, structure) if structure else ""


def measure_title(key: str, language: Language, definitions: Mapping[str, Any] | None = None) -> str:
    """Name of a measure, a ratio or a metric; `definitions` are those of the evaluation."""
    base = key.removesuffix("_pixels").removesuffix("_voxels")
    known, defined = words(language), (definitions or {}).get(base)
    if defined and language == "en":
        return str(defined["title"])
    if f"measure.{base}" in known:
        return known[f"measure.{base}"]
    if defined:
        name, _, tolerance = str(defined["title"]).partition(" at ")
        return known["at_tolerance"].format(name=name, tolerance=tolerance) if tolerance else name
    return named(base, language) if "/" in base else metric_word(base)


def pixel_words(unit: str, language: Language) -> str:
    """Units that are words, "pixels" and "1, tolerance in voxels", in the language; others as they are."""
    kind = unit.rpartition(" ")[2]
    if kind not in ("pixels", "voxels"):
        return unit
    name = text(language)[f"unit.{kind}"]
    return words(language)["tolerance_in"].format(unit=name) if " " in unit else name


def metric_word(key: str) -> str:
    """A metric without a definition at hand: short ones are abbreviations."""
    return {"dice": "Dice", "iou": "IoU", "f1": "F1", "cldice": "clDice"}.get(
        key, key.upper() if key in ("hd", "hd95", "assd", "nsd") else nice(key)
    )


def check_title(code: str, title: str, language: Language) -> str:
    """Name of a check."""
    return title if language == "en" else text(language).get(f"code.{code}", title)


def split_title(split: str, language: Language) -> str:
    """Name of a split or fold."""
    known = words(language)
    if split.startswith("fold "):
        return known["split.fold"].format(n=split.removeprefix("fold "))
    return known.get(f"split.{split}", split)


def said(sentence: str, language: Language) -> str:
    """A sentence of the program in the language, as it stands where there are no words for it."""
    return phrase(language, sentence) or sentence


def told(sentence: str, language: Language) -> Markup:
    """A sentence of the program for a page; marked as English where the language has no words for it."""
    words = phrase(language, sentence)
    if words is None:
        return Markup('<span lang="en">{}</span>').format(nice(sentence))
    return escape(nice(words) if language == "en" else words)
