"""The page of a stress test, from the content of its stress.json: one file without scripts and outside references."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Any

from markupsafe import Markup

from medseg import __version__
from medseg.report.language import Language
from medseg.report.page import Json
from medseg.report.stress_figures import STYLE, Curve, panel
from medseg.report.stress_text import texts, word
from medseg.report.templating import environment

__all__ = ["Language", "render_stress_page"]

_FEW_PATIENTS = 20
_ATTACKS = ("fgsm", "pgd")


def render_stress_page(record: Json, *, language: Language = "en") -> str:
    """A stress test as an HTML file.

    Parameters
    ----------
    record : mapping
        Content of stress.json.
    language : {"en", "zh"}, optional
    """
    style = (resources.files("medseg.report") / "templates" / "style.css").read_text(encoding="utf-8") + STYLE
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode("ascii")
    made = environment(word=lambda name: word(language, str(name)))
    said = _Said(record, language)
    return made.get_template("stress_page.html.j2").render(
        said=said.texts(),
        title=f"{texts(language)['title']} · {record['data']}",
        worst_case=said.worst_case(),
        structures=said.tables(),
        severities=said.severities,
        panels=said.panels(),
        attacks=said.attacks(),
        worst=record["worst"],
        failed=record["failed"],
        few=record["patients"] < _FEW_PATIENTS,
        style=Markup(style),
        policy=f"default-src 'none'; base-uri 'none'; form-action 'none'; style-src 'sha256-{digest}'",
    )


class _Said:
    """Texts, table cells and figures of a record in a language."""

    def __init__(self, record: Json, language: Language) -> None:
        self._record, self._language = record, language
        self._metric: str = record["metrics"][0]
        self.severities: list[int] = sorted(
            {row["severity"] for test in record["tests"] for row in test["severities"]}
        )

    def texts(self) -> dict[str, str]:
        record = self._record
        models = ", ".join(f"{m['name']} {m['version']}" for m in record["models"])
        values = {
            "cases": record["cases"],
            "patients": record["patients"],
            "data": record["data"],
            "models": models,
            "tests": len(record["tests"]),
            "metric": record["titles"][self._metric],
            "level": f"{record['level']:.0%}",
            "fall": f"{record['unnoticed_fall']:g}",
            "seed": record["options"]["seed"],
            "version": __version__,
            "n": "{n}",
        }
        return {key: text.format(**values) for key, text in texts(self._language).items()}

    def worst_case(self) -> list[dict[str, str]]:
        rows = []
        for structure, found in self._record["worst_per_case"].items():
            clean = self._record["clean"]["structures"][structure][self._metric]
            rows.append(
                {
                    "structure": structure,
                    "clean": _cell(clean["mean"], clean["interval"]),
                    "worst": _cell(found["mean"], found["interval"]),
                }
            )
        return rows

    def tables(self) -> list[dict[str, Any]]:
        """For each structure the rows of its table."""
        return [
            {"name": structure, "style": f"s{index % 7}", "rows": self._rows(structure)}
            for index, structure in enumerate(self._record["structures"])
        ]

    def _rows(self, structure: str) -> list[dict[str, Any]]:
        rows = []
        for test in self._record["tests"]:
            by_severity = {row["severity"]: row for row in test["severities"]}
            cells = [self._severity_cell(by_severity.get(s), structure) for s in self.severities]
            effect = test["effect"][structure][self._metric]
            shown = list(test["severities"])
            rows.append(
                {
                    "name": test["name"],
                    "unit": test["unit"],
                    "cells": cells,
                    "effect": _number(effect),
                    "told": " · ".join(f"{row['flagged']:.0%}" for row in shown),
                    "untold": " · ".join(f"{row['unnoticed']:.0%}" for row in shown),
                }
            )
        return rows

    def _severity_cell(self, row: Json | None, structure: str) -> dict[str, str]:
        if row is None:
            return {"level": "", "mean": "–", "interval": ""}
        found = row["structures"][structure][self._metric]
        return {
            "level": f"{row['level']:g}",
            "mean": _number(found["mean"]),
            "interval": _interval(found["interval"]),
        }

    def panels(self) -> list[Markup]:
        """A figure for each test, on one scale."""
        ends = [
            value
            for row in [self._record["clean"], *(r for t in self._record["tests"] for r in t["severities"])]
            for found in row["structures"].values()
            for value in self._point(found)[1:]
            if found[self._metric]["mean"] is not None
        ]
        if not ends:
            return []
        return [self._panel(test, (min(ends), max(ends))) for test in self._record["tests"]]

    def _panel(self, test: Json, limits: tuple[float, float]) -> Markup:
        rows = [self._record["clean"], *test["severities"]]
        curves = []
        for index, structure in enumerate(self._record["structures"]):
            found = [(row["severity"], row["structures"][structure]) for row in rows]
            points = [
                (float(severity), *self._point(cell)[:3])
                for severity, cell in found
                if cell[self._metric]["mean"] is not None
            ]
            curves.append(
                Curve(
                    name=structure.replace("_", " "),
                    style=f"s{index % 7}",
                    points=[(a, b, c, d) for a, b, c, d in points],
                )
            )
        told = [(float(row["severity"]), float(row["flagged"])) for row in rows]
        return panel(curves, title=word(self._language, test["name"]), told=told, limits=limits)

    def _point(self, metrics: Json) -> tuple[float, float, float]:
        """Mean and the ends of its interval."""
        found = metrics[self._metric]
        mean = 0.0 if found["mean"] is None else float(found["mean"])
        low, high = found["interval"] or (mean, mean)
        return mean, float(low), float(high)

    def attacks(self) -> list[dict[str, str]]:
        """Epsilon of each attack at each severity, in both units."""
        rows = []
        for test in self._record["tests"]:
            for row in test["severities"] if test["name"] in _ATTACKS else ():
                facts: Mapping[str, float | None] = row["facts"]
                rows.append(
                    {
                        "name": test["name"],
                        "severity": str(row["severity"]),
                        "level": f"{row['level']:g} %",
                        "prepared": _number(facts.get("epsilon_prepared"), digits=4),
                        "source": _number(facts.get("epsilon_source"), digits=3),
                    }
                )
        return rows


def _cell(mean: float | None, interval: Sequence[float] | None) -> str:
    return f"{_number(mean)} ({_interval(interval)})" if interval else _number(mean)


def _interval(interval: Sequence[float] | None) -> str:
    return "" if interval is None else f"{_number(interval[0])} – {_number(interval[1])}"


def _number(value: float | None, *, digits: int = 3) -> str:
    # Adding 0 takes the sign off what rounds to nothing.
    return "–" if value is None else f"{round(value, digits) + 0.0:.{digits}f}".replace("-", "−")
