"""Parts of the cohort page that a run has only sometimes, the checklist, and the tables."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from medseg.data.parquet import one_kind
from medseg.report.checklist import ITEMS, checklist
from medseg.report.cohort import render, render_comparison
from medseg.report.cohort_agreement import agreement_part, groups_part
from medseg.report.cohort_judged import calibration_part, comparison_part, pr_points
from medseg.report.cohort_text import pixel_words, words
from medseg.report.language import Language, text
from medseg.report.page import CohortReport
from medseg.report.run_tables import run_tables

Make = Callable[..., CohortReport]
DIFFERENCE = {
    "structure": "lung_left", "metric": "dice", "unit": "1", "count": 6, "patients": 5, "mean_first": 0.9,
    "mean_second": 0.93, "mean_difference": 0.03, "interval": [0.01, 0.05], "share_better": 0.99, "p_value": 0.01,
    "median_difference": 0.03, "wilcoxon_p": 0.01, "wilcoxon_holm": 0.02, "worst_first": 0, "worst_second": 0,
}  # fmt: skip
COMPARISON = {
    "differences": [DIFFERENCE, {**DIFFERENCE, "structure": "lung_right", "wilcoxon_holm": 0.4}],
    "only_first": ["<b>"], "only_second": [], "cases": 6, "patients": 5, "level": 0.95, "names": ["old", "new"],
}  # fmt: skip


def test_precision_of_a_curve_comes_from_hits_and_invented_ones() -> None:
    # 10 reference instances in 5 cases: 4 found with 1 invented, then 8 with 8.
    found = {"references": 10, "cases": 5, "curve": [(0.9, 0.2, 0.4), (0.5, 1.6, 0.8)]}
    np.testing.assert_allclose(pr_points(found), [(0.9, 0.4, 0.8), (0.5, 0.8, 0.5)])
    assert pr_points({"references": 10, "cases": 5, "curve": []}) == []


def test_calibration_leaves_out_empty_bins_and_takes_structures() -> None:
    bins = [
        {"confidence": 0.95, "accuracy": 0.9, "count": 100},
        {"confidence": 0.5, "accuracy": None, "count": 0},
        {"confidence": 0.15, "accuracy": 0.2, "count": 25},
    ]
    whole = {"bins": bins, "ece": 0.0512, "brier": 0.01, "temperature": 1.3}
    part = calibration_part({**whole, "structures": {"lung_left": {"ece": 0.1}}}, words("en"), "en")
    assert part["rows"] == [
        ("all structures", "0.0512", "0.0100", "1.3000"),
        ("lung left", "0.1000", "–", "–"),
    ]
    assert len(part["plots"]) == 1
    assert part["plots"][0].count("<circle") == 2


def test_comparison_says_what_differs_and_who_is_alone() -> None:
    part = comparison_part(COMPARISON, words("en"), "en")
    assert [row["finding"] for row in part["rows"]] == ["second better", "no difference seen"]
    assert part["rows"][0]["difference"] == "+0.030"
    page = render_comparison(COMPARISON, title="<i>")
    assert "&lt;i&gt;" in page
    assert "Only in the first: &lt;b&gt;." in page
    assert "<script" not in page
    assert "script-src" not in page


def test_optional_parts_are_on_the_page_where_there_is_something(make_report: Make) -> None:
    plain = render(make_report())
    calibration = {"bins": [{"confidence": 0.5, "accuracy": 0.5, "count": 1}], "ece": 0.0}
    full = render(replace(make_report(), comparison=COMPARISON, calibration=calibration))
    for part in ("comparison", "calibration"):
        assert f'id="{part}"' not in plain
        assert f'id="{part}"' in full


def test_group_that_is_worse_is_marked(make_report: Make) -> None:
    report = make_report()
    statistic = report.summary["structures"]["lung"]["dice"]
    gap: dict[str, Any] = {
        "column": "sex", "group": "F", "structure": "lung", "metric": "dice", "unit": "1", "count": 3, "patients": 3,
        "mean": 0.8, "mean_others": 0.9, "difference": -0.1, "interval": (-0.15, -0.05), "p_value": 0.001,
        "p_holm": 0.004, "finding": "worse",
    }  # fmt: skip
    groups = {"sex": {"F": {"lung": {"dice": statistic}}, "M": {"lung": {"dice": statistic}}}}
    other = {**gap, "group": "M", "finding": "too few patients", "p_holm": None}
    summary = {**report.summary, "groups": groups, "gaps": [gap, other]}
    rows = groups_part(report, summary, words("en"))[0]["rows"]
    assert [(row["group"], row["worse"], row["finding"]) for row in rows] == [
        ("F", True, "worse"),
        ("M", False, "too few patients"),
    ]
    assert rows[0]["gap"] == "−0.100 (−0.150 … −0.050)"
    page = render(replace(report, summary=summary))
    assert 'class="dot acc ring"' in page


@pytest.mark.parametrize("language", ["en", "zh"])
def test_checklist_is_honest_about_what_it_does_not_know(make_report: Make, language: Language) -> None:
    report = replace(make_report(), language=language)
    entries = checklist(report, words(language))
    assert [entry.number for entry in entries[:42]] == [str(k) for k in range(1, 43)]
    by_number = {entry.number: entry for entry in entries if entry.number}
    assert not by_number["42"].known
    assert by_number["42"].text.startswith(words(language)["not_known"])
    assert by_number["23"].known
    assert "numpy a note" in by_number["23"].text
    assert not by_number["25"].known
    known = {key for _, key in ITEMS if key}
    assert {f"checklist.answer.{key}" for key in known} <= set(text(language))


def test_checklist_of_nothing_claims_nothing() -> None:
    empty = CohortReport(title="", pipeline="", run="", settings_sha256="", cards=(), structures=(), cases=())
    assert not any(entry.known for entry in checklist(empty, words("en")))


def test_tables_hold_the_numbers_of_the_cases(make_report: Make) -> None:
    report = make_report()
    tables = run_tables(report)
    assert set(tables) == {"cases", "measurements", "flags", "agreement"}
    assert [row["case_id"] for row in tables["cases"]] == [case.case_id for case in report.ordered]
    first = report.ordered[0]
    area = first.record["measurements"]["structures"]["lung_left"]["quantities"]["area"]
    assert tables["cases"][0]["lung_left area"] == area["value"]
    assert tables["cases"][0]["lung_left area unit"] == area["unit"]
    row = next(r for r in tables["agreement"] if r["case_id"] == first.case_id and r["structure"] == "lung")
    assert row["value"] == first.evaluation["structures"]["lung"]["metrics"]["dice"]["value"]
    assert all(re.fullmatch(r"Q\d+", str(flag["code"])) for flag in tables["flags"])


def test_columns_of_parquet_are_of_one_kind() -> None:
    assert one_kind([1, 2.5, None]) == [1.0, 2.5, None]
    assert one_kind([1, "a", None]) == ["1", "a", None]
    assert one_kind([True, None]) == [True, None]
    assert one_kind([None]) == [None]


def test_units_in_pixels_are_words_and_do_not_name_a_tolerance_in_mm(make_report: Make) -> None:
    report = make_report()
    dice = report.summary["structures"]["lung"]["dice"]
    nsd = {**dice, "unit": "1, tolerance in pixels"}
    definitions = {"nsd": {"title": "NSD at 3 mm", "unit": "1", "better": "higher", "definition": ""}}
    summary = {**report.summary, "structures": {"lung": {"nsd_pixels": nsd}}, "definitions": definitions}
    part = agreement_part(replace(report, summary=summary), summary, words("en"))
    assert part["columns"] == [("nsd_pixels", "NSD, tolerance in pixels")]
    assert part["rows"][0]["cells"][0]["mean"] == f"{dice['mean']:.3f}"
    assert pixel_words("pixels", "zh") == "像素"
    assert pixel_words("mm", "zh") == "mm"
