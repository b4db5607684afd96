"""Numbers, structures and sentences of a case in the language of the page."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from markupsafe import Markup, escape

from medseg.report.language import HTML_LANGUAGE, Language, day, phrase, structure_name, text
from medseg.report.text import number

_UNITS = {"ml": " mL", "1": "", "%": " %"}
_SHARES = frozenset({"Q201", "Q203", "Q301", "Q303", "Q403"})


class Words:
    """What a page says, in one language.

    Parameters
    ----------
    language : Language
    """

    def __init__(self, language: Language) -> None:
        self.language: Language = language
        self.t = text(language)
        self.html_language = HTML_LANGUAGE[language]

    def structure(self, name: str) -> str:
        """Name of a structure or a pair; "" is the whole image."""
        return structure_name(self.language, name) if name else self.t["whole_image"]

    def said(self, sentence: str) -> Markup:
        """A sentence of the program; marked as English where this language has no words for it."""
        words = phrase(self.language, sentence)
        if words is None:
            return Markup('<span lang="en">{}</span>').format(sentence.replace("_", " "))
        return escape(words.replace("_", " ") if self.language == "en" else words)

    def metric(self, key: str, title: str) -> str:
        """Title of a metric."""
        return self.t.get(f"metric.{key}", title)

    def measure(self, name: str) -> str:
        """Name of a measurement."""
        return self.t.get(f"measure.{name}", self.structure(name))

    def date(self, stamp: str) -> str:
        """A date as the language writes it."""
        return day(self.language, stamp)

    def size(self, quantity: Mapping[str, Any] | None) -> str | Markup:
        """A measurement: areas in cm², "> " where cut off, the reason where there is no value."""
        if quantity is None:
            return "–"
        value, unit = quantity["value"], quantity["unit"]
        if value is None:
            return self.said(quantity["reason"] or "not defined")
        sign = {"lower": "> ", "unknown": "≈ "}.get(quantity.get("bound", "exact"), "")
        return f"{sign}{self.amount(value, unit)}"

    def amount(self, value: float, unit: str) -> str:
        """A number with its unit."""
        if unit == "mm2":
            value, unit = value / 100, "cm²"
        words = _UNITS.get(unit, f" {self.t.get(f'unit.{unit}', unit)}")
        size = abs(value)
        shown = f"{value:.2f}" if size < 10 else f"{value:.1f}" if size < 1000 else f"{value:.0f}"
        return f"{shown}{words}".replace("-", "−")

    def flag_number(self, flag: Mapping[str, Any], which: str, *, flat: bool) -> str:
        """Measured value or limit of a flag with its unit."""
        value, code = flag[which], flag["code"]
        if value is None or (code, which) == ("Q101", "limit"):
            return "–"
        unit = flag.get("unit", "")
        if unit in ("ml", "mm", "cm2", "slices"):
            shown = self.amount(value, unit)
            return self._with_sign(shown, flag, which)
        likely = code == "Q401" and "mean probability" in flag["text"]
        if code in _SHARES or (code == "Q202" and flat) or (code == "Q401" and not likely):
            shown = f"{100 * value:.{1 if value < 0.1 else 0}f} %"
        elif code == "Q202":
            shown = self.amount(value, "ml")
        else:
            shown = f"{value:.2f}" if likely else number(value)
        return self._with_sign(shown, flag, which)

    def _with_sign(self, shown: str, flag: Mapping[str, Any], which: str) -> str:
        """A limit with the side on which it is kept."""
        shown = shown.replace(" ", "\N{NO-BREAK SPACE}")
        measured, limit = flag["measured"], flag["limit"]
        if which != "limit" or measured is None or limit is None or flag["code"] == "Q501":
            return shown
        return f"{'≤' if measured > limit else '≥'}\N{NO-BREAK SPACE}{shown}"
