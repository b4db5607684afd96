"""The table of the cohort page, its worst cases, and the counts of flags."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from markupsafe import Markup

from medseg.report.cohort_figures import share_bar
from medseg.report.cohort_series import decimals, evaluated, lowest, size_of
from medseg.report.cohort_text import Words, check_title, measure_title, named, said, split_title
from medseg.report.language import Language
from medseg.report.page import VERDICTS, CaseReport, CohortReport
from medseg.report.text import quantity_text

MAX_STRUCTURES = 6
"""Structures that the table has columns for; of more, the lowest and the mean Dice stand for all."""
_CODES_SHOWN = 4
Link = Callable[[CaseReport], str]


def case_table(report: CohortReport, words: Words, link: Link) -> dict[str, Any]:
    """Columns and rows of the table of cases.

    Returns
    -------
    dict
        `columns`: title, whether it holds numbers, style of the structure. `rows`: case_id, link, verdict, rank of the
        verdict, flags (code, level, count), codes (for the filter), split, and cells (text, value to sort by).
        `codes` and `splits` that occur. `left_out`: number of structures without columns, 0 where all have them.
    """
    labels = [s for s in report.structures if s.kind == "label"]
    judged = [s for s in report.structures if s.name in (report.summary or {"structures": {}})["structures"]]
    few = max(len(labels), len(judged)) <= MAX_STRUCTURES
    ratios = _ratios(report.cases)
    language = report.language
    columns = [(named(s.name, language), True, s.name) for s in labels if few]
    columns += [(measure_title(name, language), True, "") for name in ratios]
    if judged:
        columns += [(f"Dice {named(s.name, language)}", True, s.name) for s in judged if few]
        columns += [] if few else [(words["lowest"], True, ""), (words["mean_dice"], True, "")]
    rows = []
    for case in report.ordered:
        cells = [_size_cell(case, s.name, language) for s in labels if few]
        cells += [_ratio_cell(case, name) for name in ratios]
        if judged:
            cells += [_dice_cell(case, s.name) for s in judged] if few else _dice_summary(case, language)
        rows.append(_row(case, cells, report, link))
    return {
        "columns": columns,
        "rows": rows,
        "codes": sorted({flag["code"] for case in report.cases for flag in case.record["flags"]}),
        "splits": [
            (s, split_title(s, report.language)) for s in sorted({c.split for c in report.cases} - {""})
        ],
        "left_out": 0 if few else max(len(labels), len(judged)),
    }


def _row(case: CaseReport, cells: list[tuple[str, str]], report: CohortReport, link: Link) -> dict[str, Any]:
    flags = case.record["flags"]
    counted = Counter((flag["code"], flag["level"]) for flag in flags)
    order = sorted(counted, key=lambda pair: (VERDICTS.index(pair[1]), pair[0]))
    return {
        "case_id": case.case_id,
        "link": link(case),
        "verdict": case.verdict,
        "rank": VERDICTS.index(case.verdict),
        "flags": [(code, level, counted[code, level]) for code, level in order[:_CODES_SHOWN]],
        "more": max(len(order) - _CODES_SHOWN, 0),
        "count": len(flags),
        "codes": " ".join(sorted({flag["code"] for flag in flags})),
        "split": case.split,
        "split_title": split_title(case.split, report.language),
        "cells": cells,
    }


def _ratios(cases: Sequence[CaseReport]) -> list[str]:
    """Ratios that some case has a value of."""
    return list(
        dict.fromkeys(
            name
            for case in cases
            for name, quantity in case.record["measurements"]["ratios"].items()
            if quantity["value"] is not None
        )
    )


def _cell(text: str, value: float | None) -> tuple[str, str]:
    return text, "" if value is None else f"{value:.6g}"


def _size_cell(case: CaseReport, structure: str, language: Language) -> tuple[str, str]:
    quantity = size_of(case, structure)
    if quantity is None:
        return "–", ""
    if quantity["value"] is None:
        return said(quantity_text(quantity), language), ""
    # What is cut off shows the sign alone: the words are on the case's page.
    return _cell(quantity_text(quantity).replace(" (cut off)", ""), quantity["value"])


def _ratio_cell(case: CaseReport, name: str) -> tuple[str, str]:
    value = case.record["measurements"]["ratios"].get(name, {}).get("value")
    return ("–", "") if value is None else _cell(decimals(value), value)


def _dice_cell(case: CaseReport, structure: str) -> tuple[str, str]:
    value = evaluated(case).get(structure, {}).get("metrics", {}).get("dice", {}).get("value")
    return ("–", "") if value is None else _cell(f"{value:.3f}", value)


def _dice_summary(case: CaseReport, language: Language) -> list[tuple[str, str]]:
    values = [
        item["metrics"]["dice"]["value"]
        for item in evaluated(case).values()
        if item["metrics"].get("dice", {}).get("value") is not None
    ]
    least = lowest(case)
    if least is None:
        return [("–", ""), ("–", "")]
    mean = sum(values) / len(values)
    return [_cell(f"{least[1]:.3f} {named(least[0], language)}", least[1]), _cell(f"{mean:.3f}", mean)]


def worst_cases(report: CohortReport, words: Words, link: Link) -> list[dict[str, Any]]:
    """Cases with a thumbnail, the worst first: picture, verdict, worst flag in words, lowest Dice."""
    found = []
    for case in report.ordered:
        if case.thumbnail is None:
            continue
        flags = sorted(case.record["flags"], key=lambda flag: VERDICTS.index(flag["level"]))
        least = lowest(case)
        dice = (
            ""
            if least is None
            else words["lowest_dice"].format(
                value=f"{least[1]:.3f}", structure=named(least[0], report.language)
            )
        )
        found.append(
            {
                "case": case,
                "link": link(case),
                "picture": case.thumbnail,
                "dashed": any(c.reference for c in case.thumbnail.contours),
                "flag": flags[0] if flags else None,
                "more": max(len(flags) - 1, 0),
                "dice": dice,
            }
        )
    return found


def flag_counts(report: CohortReport, words: Words) -> list[dict[str, Any]]:
    """One row for each code: title, cases by level, share of all cases, and a bar."""
    titles: dict[str, str] = {}
    worst: dict[tuple[str, str], str] = {}
    for case in report.cases:
        for flag in case.record["flags"]:
            titles[flag["code"]] = flag["title"]
            place = (flag["code"], case.case_id)
            worst[place] = min(worst.get(place, "pass"), flag["level"], key=lambda v: VERDICTS.index(v))
    counts = Counter((code, level) for (code, _), level in worst.items())
    total = len(report.cases)
    rows = []
    for code in sorted(titles):
        by = {v: counts[code, v] for v in VERDICTS if v != "pass"}
        cases = sum(by.values())
        title = check_title(code, titles[code], report.language)
        told = f"{title}: " + ", ".join(f"{by[v]} {words[f'word_{v}']}" for v in by)
        bar: Markup = share_bar([(v, by[v]) for v in by], total, told)
        rows.append({"code": code, "title": title, "by": by, "share": f"{cases / total:.1%}", "bar": bar})
    return rows
