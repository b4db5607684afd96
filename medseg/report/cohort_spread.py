"""Distributions of the cohort page: one strip for each structure and measure, a dot for each case."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from markupsafe import Markup

from medseg.report.cohort_figures import CaseDot, strip
from medseg.report.cohort_series import OVERLAPS, Kind, Series
from medseg.report.cohort_text import Words, measure_title, named, pixel_words
from medseg.report.page import CaseReport, CohortReport

_HEADINGS: Mapping[Kind, str] = {"measurement": "measured", "agreement": "agreed", "confidence": "trusted"}
OPEN = ("volume", "area", "dice", "hd95", "nsd", "mean_probability")
"""Measures that are open at first; the others unfold."""
Link = Callable[[CaseReport], str]


def spread_part(
    report: CohortReport, series: Sequence[Series], words: Words, link: Link
) -> list[dict[str, Any]]:
    """Strips by kind and measure.

    Returns
    -------
    list of dict
        `heading`, and `groups` of `title`, `definition`, `open`, `plots` and `note`.
    """
    styles = {s.name: f"k{index}" for index, s in enumerate(report.structures)}
    definitions = (report.summary or {}).get("definitions", {})
    parts = []
    for kind, heading in _HEADINGS.items():
        groups: dict[str, list[Series]] = {}
        for one in series:
            if one.kind == kind:
                groups.setdefault(one.measure if one.structure else "", []).append(one)
        made = [
            _group(
                measure,
                members,
                report=report,
                words=words,
                link=link,
                styles=styles,
                definitions=definitions,
            )
            for measure, members in groups.items()
        ]
        if made:
            parts.append({"heading": words[heading], "groups": made})
    return parts


def _group(
    measure: str,
    members: Sequence[Series],
    *,
    report: CohortReport,
    words: Words,
    link: Link,
    styles: Mapping[str, str],
    definitions: Mapping[str, Any],
) -> dict[str, Any]:
    """The strips of one measure; ratios, which have no structure, are a group of their own."""
    plots = []
    for one in members:
        name = (
            named(one.structure, report.language)
            if one.structure
            else measure_title(one.measure, report.language)
        )
        plots.append(
            _strip(one, name, report=report, words=words, link=link, style=styles.get(one.structure, "acc"))
        )
    cut = sum(number.bound != "exact" for one in members for number, _ in one.known)
    title = measure_title(measure, report.language, definitions) if measure else ""
    return {
        "title": title,
        "definition": definitions.get(measure, {}).get("definition", ""),
        "open": not measure or measure.partition("_pixels")[0] in OPEN or measure.startswith("nsd"),
        "plots": plots,
        "note": words["bounded"].format(n=cut) if cut else "",
    }


def _strip(one: Series, name: str, *, report: CohortReport, words: Words, link: Link, style: str) -> Markup:
    dots = [
        CaseDot(
            value=value * one.scale,
            name=f"{number.case.case_id}: {number.sign}{one.shown(value)}",
            link=link(number.case),
            ring=number.case.verdict == "fail",
        )
        for number, value in one.known
    ]
    values = np.array([dot.value for dot in dots])
    unit = pixel_words(one.shown_unit, report.language)
    title = f"{name}, {unit}" if unit else name
    low, median, high = (one.shown(float(v) / one.scale) for v in np.percentile(values, [0, 50, 100]))
    statistic = _statistic(report, one)
    return strip(
        dots,
        title=title,
        style=style,
        said=words["spread_said"].format(title=title, n=len(dots), median=median, low=low, high=high),
        best=1.0 if one.kind != "measurement" and _bounded(one) else None,
        mean=None if statistic is None else statistic["mean"] * one.scale,
        interval=_scaled(statistic, one.scale),
        required=_required(report, one),
    )


def _bounded(one: Series) -> bool:
    return one.measure == "mean_probability" or one.measure.startswith(OVERLAPS)


def _scaled(statistic: Mapping[str, Any] | None, scale: float) -> tuple[float, float] | None:
    if statistic is None or statistic["mean_interval"] is None:
        return None
    low, high = statistic["mean_interval"]
    return low * scale, high * scale


def _statistic(report: CohortReport, one: Series) -> Mapping[str, Any] | None:
    """Mean and interval of the summary, where they are of the very values of the strip."""
    if one.kind != "agreement" or report.summary is None:
        return None
    known = report.summary["structures"].get(one.structure, {})
    for key in (one.measure, f"{one.measure}_pixels", f"{one.measure}_voxels"):
        found: Mapping[str, Any] | None = known.get(key)
        if found and found["mean"] is not None and found["unit"] == one.unit:
            return found
    return None


def _required(report: CohortReport, one: Series) -> float | None:
    """The mean that the settings demand."""
    if one.kind != "agreement" or report.summary is None:
        return None
    found = [
        r["required"]
        for r in report.summary["requirements"]
        if r["structure"] == one.structure and r["metric"] == one.measure
    ]
    return float(found[0]) * one.scale if found else None
