"""The page of a cohort as people use it: it sorts, filters with and without its script, saves, and asks for nothing."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import replace

import pytest
from study_pages import HOSTILE, STRUCTURES, record

from medseg.report.cohort import render
from medseg.report.page import CaseReport, CohortReport

pytestmark = [pytest.mark.slow, pytest.mark.browser]
SHOWN = """
return [...document.querySelectorAll('#cases-table tbody tr')]
  .filter((row) => getComputedStyle(row).display !== 'none').map((row) => row.cells[0].textContent);
"""


def _case(name, verdict, volume, code="Q201"):
    found = record(name)
    flags = [] if verdict == "pass" else [{**found["flags"][0], "level": verdict, "code": code}]
    structures = found["measurements"]["structures"]
    for item in structures.values():
        for quantity in item["quantities"].values():
            quantity["value"] = volume
    return CaseReport(
        case_id=name,
        patient="P-1",
        split="test",
        record={**found, "verdict": verdict, "flags": flags, "checks": []},
        page="cases/x/report.html",
    )


@pytest.fixture(scope="module")
def html():
    cases = (
        _case(HOSTILE, "fail", 30.0),
        _case("b-10", "review", 200.0, code="Q301"),
        _case("b-9", "pass", 9.0),
    )
    report = CohortReport(
        title=HOSTILE, about=HOSTILE, pipeline="p", run="r", settings_sha256="ab", cards=(), structures=STRUCTURES,
        cases=cases, methods=HOSTILE, settings=HOSTILE, said=(HOSTILE,),
    )  # fmt: skip
    return render(report), render(replace(report, language="zh"))


@pytest.fixture
def page(open_page, html):
    return open_page(html[0])


def test_it_renders_quietly_in_both_languages(open_page, html, page):
    for section in ("cases", "spread", "agreement", "checklist", "provenance"):
        assert page.one(f"#{section}").is_displayed(), section
    assert page.driver.title != "owned"
    assert page.run("return document.querySelectorAll('main img, [onerror]').length") == 0
    page.assert_quiet()


def test_chinese_page_is_quiet_too(open_page, html):
    page = open_page(html[1])
    assert "病例" in page.one("#cases").text
    page.assert_quiet()


def test_columns_sort_up_and_down_by_number_and_name(page):
    first = page.run(SHOWN)
    assert first[1:] == ["b-10", "b-9"]
    page.click("#cases-table th:nth-child(5) button")
    assert page.run(SHOWN) == ["b-9", first[0], "b-10"]
    page.click("#cases-table th:nth-child(5) button")
    assert page.run(SHOWN) == ["b-10", first[0], "b-9"]
    assert page.one("#cases-table th:nth-child(5)").get_attribute("aria-sort") == "descending"
    page.click("#cases-table th:nth-child(1) button")
    assert [name for name in page.run(SHOWN) if name.startswith("b-")] == ["b-9", "b-10"]


def test_cases_are_filtered_by_verdict_text_and_flag(page):
    page.click(".f-pass")
    assert len(page.run(SHOWN)) == 2
    assert page.one("#filter-count").text == "2 of 3 shown"
    page.click(".f-pass")
    page.one("#filter-text").send_keys("B-1")
    assert page.run(SHOWN) == ["b-10"]
    page.run(
        "const t = document.getElementById('filter-text'); t.value = ''; t.dispatchEvent(new Event('input'));"
        "const c = document.getElementById('filter-code'); c.value = 'Q201'; c.dispatchEvent(new Event('input'));"
    )
    assert page.run(SHOWN) == [HOSTILE.replace("\x07", page.run(SHOWN)[0][HOSTILE.index("\x07")])]


def test_without_its_script_the_page_reads_and_filters_by_verdict(open_page, html):
    text = html[0]
    start = text.rindex("<script>")
    page = open_page(text[:start] + text[text.index("</script>", start) + 9 :])
    assert len(page.run(SHOWN)) == 3
    page.click(".f-fail")
    assert page.run(SHOWN) == ["b-10", "b-9"]
    assert not page.one("#filter-text").is_displayed()
    assert page.one(".nojs").is_displayed()


def test_saved_numbers_are_those_of_the_page(page):
    page.click("#save-json")
    data = json.loads(page.file("report.json"))
    assert [row[1] for row in data["rows"]] == ["fail", "review", "pass"]
    page.click("#save-csv")
    rows = list(csv.DictReader(io.StringIO(page.file("measurements.csv"))))
    assert {row["case_id"] for row in rows} >= {"b-9", "b-10"}
    page.assert_quiet()


def test_every_control_is_reached_by_the_keyboard(page):
    controls = page.controls()
    reached = page.reached_by_tab()
    assert {number: name for number, name in controls.items() if number not in reached} == {}
