"""Agreement with the reference on the cohort page: means with intervals, what was missed, subgroups, sizes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from markupsafe import Markup

from medseg.report.cohort_figures import Bar, CaseDot, bland_altman, forest, regression
from medseg.report.cohort_series import decimals, evaluated, shown_unit
from medseg.report.cohort_text import Words, measure_title, metric_word, named, nice, pixel_words, said
from medseg.report.language import Language
from medseg.report.page import CaseReport, CohortReport, Json
from medseg.report.text import statistic_cell

MAIN = ("dice", "hd95", "assd", "nsd", "cldice", "volume_difference", "area_difference")
MAX_LISTED = 100
_STATES = (
    ("missed", "missed"),
    ("invented", "false_positives"),
    ("both_empty", "both_empty"),
    ("not_judged", "not_judged"),
)
Link = Callable[[CaseReport], str]


def agreement_part(report: CohortReport, summary: Json, words: Words) -> dict[str, Any]:
    """Tables of an evaluation.

    Parameters
    ----------
    report : CohortReport
    summary : mapping
        evaluation/summary.json.
    words : mapping

    Returns
    -------
    dict
        `intro`; `requirements` (met, text); `columns` (key, title) of the main table and its `rows` (structure,
        states, cells); `metrics` (title, definition, cells by structure) of all; `remarks`; `lists` (title, entries,
        more, none); `groups`.
    """
    keys = _keys(summary)
    titles = {key: _titled(key, summary, report) for key in keys}
    main = [key for key in keys if _base(key) in MAIN or key.startswith("nsd")] or keys[:5]
    structures: Mapping[str, Json] = summary["structures"]
    level = next((s["level"] for m in structures.values() for s in m.values()), 0.95)
    return {
        "intro": words["agreement_intro"].format(
            n=summary["cases"], patients=summary["patients"], level=f"{level:.0%}"
        ),
        "requirements": summary["requirements"],
        "columns": [(key, titles[key][0]) for key in main],
        "rows": [
            {
                "structure": name,
                "states": _states(name, found, summary),
                "cells": [_short(found.get(key), words, report.language) for key in main],
            }
            for name, found in structures.items()
        ],
        "metrics": [
            (
                *titles[key],
                [agreement_cell(found.get(key), words, report.language) for found in structures.values()],
            )
            for key in keys
        ],
        "structures": list(structures),
        "remarks": list(
            dict.fromkeys(
                said(s["note"], report.language) for m in structures.values() for s in m.values() if s["note"]
            )
        ),
        "lists": _lists(summary, words, report.language),
        "groups": groups_part(report, summary, words),
    }


def _base(key: str) -> str:
    return key.removesuffix("_pixels").removesuffix("_voxels")


def _keys(summary: Json) -> list[str]:
    """Metrics that any structure has a value of, in order."""
    keys = dict.fromkeys(key for metrics in summary["structures"].values() for key in metrics)
    return [
        key
        for key in keys
        if any(m.get(key, {}).get("mean") is not None for m in summary["structures"].values())
    ]


def _titled(key: str, summary: Json, report: CohortReport) -> tuple[str, str]:
    """Title with unit, and definition."""
    unit = next(m[key]["unit"] for m in summary["structures"].values() if key in m)
    shown = pixel_words(shown_unit(unit), report.language)
    title = measure_title(key, report.language, summary["definitions"])
    if unit.startswith("1,"):
        # The title tells the tolerance in mm, which these values do not have.
        title, shown = measure_title(_base(key), report.language), pixel_words(unit, report.language)
    definition = summary["definitions"].get(_base(key), {"definition": ""})["definition"]
    return f"{title}, {shown}" if shown else title, definition


def _short(found: Json | None, words: Words, language: Language) -> dict[str, str]:
    """A cell of the main table; why there is no mean, the counts of cases tell beside it."""
    if found is None or found["mean"] is None:
        return {"mean": "–", "interval": "", "more": ""}
    return agreement_cell(found, words, language)


def agreement_cell(statistic: Json | None, words: Words, language: Language) -> dict[str, str]:
    """Mean, interval and counts of a statistic for a cell."""
    if statistic is not None and statistic["unit"].startswith("1,"):
        statistic = {**statistic, "unit": "1"}
    cell = statistic_cell(statistic)
    if statistic is None or statistic["mean"] is None:
        undefined = {} if statistic is None else statistic["undefined"]
        why = "; ".join(f"{count}: {said(reason, language)}" for reason, count in undefined.items())
        return {**cell, "mean": "–" if statistic is None else words["not_defined"], "more": why}
    median = decimals(statistic["median"] * (0.01 if statistic["unit"] == "mm2" else 1), statistic["unit"])
    more = [words["median_n"].format(median=median, n=statistic["count"])]
    if statistic["worst_case"]:
        more.append(words["worst_n"].format(n=statistic["worst_case"]))
    if statistic["undefined"]:
        more.append(words["undefined_n"].format(n=sum(statistic["undefined"].values())))
    return {**cell, "interval": cell["interval"].replace(" to ", words["to"]), "more": " · ".join(more)}


def _states(name: str, found: Json, summary: Json) -> list[int]:
    """Cases judged, missed, invented, empty in both, not judged."""
    counts = [sum(entry["structure"] == name for entry in summary[key]) for _, key in _STATES]
    return [max(summary["cases"] - sum(counts), 0), *counts]


def _lists(summary: Json, words: Words, language: Language) -> list[dict[str, Any]]:
    lists = []
    for word, key in _STATES:
        entries = [
            words["in_case"].format(structure=named(e["structure"], language), case=e["case_id"])
            for e in summary[key]
        ]
        lists.append(
            {
                "title": words[f"list_{word.removeprefix('both_')}"],
                "entries": entries[:MAX_LISTED],
                "count": len(entries),
                "more": max(len(entries) - MAX_LISTED, 0),
                "none": words.get(f"none_{word}", ""),
            }
        )
    return lists


def groups_part(report: CohortReport, summary: Json, words: Words) -> list[dict[str, Any]]:
    """One table for each column that results are split by, the gap of each group, and a figure of the first metric."""
    gaps = {(g["column"], g["group"], g["structure"], g["metric"]): g for g in summary.get("gaps", ())}
    parts = []
    for column, values in summary["groups"].items():
        keys = [key for key in _keys(summary) if _base(key) in ("dice", "hd95") or key.startswith("nsd")]
        keys = keys or _keys(summary)[:1]
        rows = [
            _group_row(
                name, structure, key, statistic, gaps.get((column, value, structure, key)), report, words
            )
            for value, structures in values.items()
            for name in [value or words["not_given"]]
            for structure, found in structures.items()
            for key in keys
            if (statistic := found.get(key)) is not None and statistic["mean"] is not None
        ]
        for row in rows:
            row["metric_title"] = _titled(row["metric"], summary, report)[0]
        parts.append(
            {
                "title": words["groups_title"].format(column=nice(column)),
                "rows": rows,
                "figures": [
                    (name, figure)
                    for name in summary["structures"]
                    if (figure := _forest(column, name, rows, words)) is not None
                ],
            }
        )
    return parts


def _group_row(
    name: str, structure: str, key: str, statistic: Json, gap: Json | None, report: CohortReport, words: Words
) -> dict[str, Any]:
    scale = 0.01 if statistic["unit"] == "mm2" else 1.0
    finding = "none" if gap is None else {"worse": "worse", "no gap seen": "none"}.get(gap["finding"], "few")
    difference = ""
    if gap is not None:
        difference = decimals(gap["difference"] * scale, gap["unit"])
        if gap["interval"] is not None:
            low, high = (decimals(v * scale, gap["unit"]) for v in gap["interval"])
            difference += f" ({low} … {high})"
    p = None if gap is None else gap["p_holm"]
    return {
        "group": name,
        "structure": structure,
        "metric": key,
        "statistic": statistic,
        "cell": agreement_cell(statistic, words, report.language),
        "patients": statistic["patients"],
        "gap": difference,
        "p": "–" if p is None else f"{p:.2g}",
        "finding": None if gap is None else words[f"finding_{finding}"],
        "worse": finding == "worse",
    }


def _forest(column: str, structure: str, rows: Sequence[Mapping[str, Any]], words: Words) -> Markup | None:
    """The groups of one structure side by side, in the first metric; None for fewer than two groups."""
    metric = next((row["metric"] for row in rows), "")
    own = [row for row in rows if row["structure"] == structure and row["metric"] == metric]
    if len(own) < 2:
        return None
    bars = [
        Bar(
            name=row["group"],
            value=row["statistic"]["mean"],
            interval=row["statistic"]["mean_interval"],
            said=f"{row['group']}: {row['cell']['mean']} ({row['cell']['interval']})",
            mark=row["worse"],
        )
        for row in own
    ]
    told = words["forest_said"].format(metric=metric_word(metric), column=nice(column))
    return forest(bars, said=f"{nice(structure)}: {told}")


def sizes_part(report: CohortReport, summary: Json, words: Words, link: Link) -> dict[str, Any]:
    """Bland-Altman and regression plots of each structure with their numbers.

    Returns
    -------
    dict
        `title`, `plots` (a pair for each structure), `rows` (structure, n, bias, limits, slope, intercept, note),
        `unsized` cases, `area`.
    """
    agreements: Mapping[str, Json] = summary.get("sizes", {})
    units = [agreement["unit"] for agreement in agreements.values()]
    area = "mm2" in units
    what = words["what_area" if area else "what_volume"]
    plots, rows, unsized = [], [], set()
    for index, structure in enumerate(report.structures):
        for case in report.ordered:
            found = evaluated(case).get(structure.name)
            if found and found["state"] not in ("not_judged", "both_empty") and _voxel(case, units) is None:
                unsized.add(case.case_id)
        if structure.name in agreements:
            agreement = agreements[structure.name]
            dots = _size_dots(report, structure.name, agreement["unit"], link)
            if dots:
                plots.append(
                    _size_plots(dots, structure.name, agreement, f"k{index}", what, words, report.language)
                )
                rows.append(_size_row(structure.name, agreement))
    return {
        "title": words["sizes_title"].format(what=what),
        "plots": plots,
        "rows": rows,
        "unsized": sorted(unsized),
        "area": area,
    }


def _voxel(case: CaseReport, units: Sequence[str]) -> float | None:
    """Size of a voxel of the case in one of the units; None where it is not known."""
    evaluation = case.evaluation or {}
    voxel: float | None = evaluation.get("voxel")
    return voxel if evaluation.get("size_unit") in units else None


def _size_dots(
    report: CohortReport, structure: str, unit: str, link: Link
) -> list[tuple[CaseDot, float, float]]:
    """(dot, predicted, reference) of each case that has the structure in either, in the shown unit."""
    scale, shown = (0.01, "cm²") if unit == "mm2" else (1.0, "mL")
    found = []
    for case in report.ordered:
        item, voxel = evaluated(case).get(structure), _voxel(case, [unit])
        if item is None or voxel is None or item["state"] in ("not_judged", "both_empty"):
            continue
        counts = item["counts"]
        predicted, reference = ((counts["tp"] + counts[k]) * voxel * scale for k in ("fp", "fn"))
        name = f"{case.case_id}: {decimals(predicted)} {shown}, {decimals(reference)} {shown}"
        dot = CaseDot(value=predicted - reference, name=name, link=link(case), ring=case.verdict == "fail")
        found.append((dot, predicted, reference))
    return found


def _size_plots(
    found: Sequence[tuple[CaseDot, float, float]],
    structure: str,
    agreement: Json,
    style: str,
    what: str,
    words: Words,
    language: Language,
) -> list[Markup]:
    name = named(structure, language)
    scale, unit = (0.01, "cm²") if agreement["unit"] == "mm2" else (1.0, "mL")
    bias = agreement["bias"]["value"] * scale
    low, high = agreement["lower_limit"]["value"], agreement["upper_limit"]["value"]
    limits = None if low is None or high is None or agreement["count"] < 3 else (low * scale, high * scale)
    line = agreement["deming"]
    known = line["slope"]["value"] is not None and line["intercept"]["value"] is not None

    def again(dot: CaseDot, value: float, across: float) -> CaseDot:
        return CaseDot(value=value, across=across, name=dot.name, link=dot.link, ring=dot.ring)

    return [
        bland_altman(
            [again(dot, p - r, (p + r) / 2) for dot, p, r in found],
            title=name,
            style=style,
            said=words["ba_said"].format(structure=name, bias=decimals(bias), unit=unit, n=len(found)),
            axes=(words["axis_mean"].format(unit=unit), words["axis_difference"].format(unit=unit)),
            bias=bias,
            limits=limits,
        ),
        regression(
            [again(dot, p, r) for dot, p, r in found],
            title=name,
            style=style,
            said=words["regression_said"].format(what=what, structure=name),
            axes=(words["axis_reference"].format(unit=unit), words["axis_predicted"].format(unit=unit)),
            line=(line["intercept"]["value"] * scale, line["slope"]["value"]) if known else None,
        ),
    ]


def _size_row(structure: str, agreement: Json) -> dict[str, Any]:
    scale, unit = (0.01, "cm²") if agreement["unit"] == "mm2" else (1.0, "mL")
    limits = [estimate_text(agreement[k], scale, unit)[0] for k in ("lower_limit", "upper_limit")]
    return {
        "structure": structure,
        "n": agreement["count"],
        "bias": estimate_text(agreement["bias"], scale, unit),
        "limits": "–" if limits == ["–", "–"] else " … ".join(limits),
        "slope": estimate_text(agreement["deming"]["slope"], 1.0, ""),
        "intercept": estimate_text(agreement["deming"]["intercept"], scale, unit),
        "note": agreement["note"],
    }


def estimate_text(estimate: Json, scale: float, unit: str) -> tuple[str, str]:
    """Value with unit, and its interval."""
    if estimate["value"] is None:
        return "–", ""
    value = f"{decimals(estimate['value'] * scale)} {unit}".rstrip()
    if estimate["interval"] is None:
        return value, ""
    low, high = (decimals(v * scale) for v in estimate["interval"])
    return value, f"{low} … {high}"
