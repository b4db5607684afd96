"""The page of a cohort as people use it: hostile names stay text, the table sorts and filters, files are saved."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import replace

import numpy as np
import pytest
from study_pages import HOSTILE, STRUCTURES, record

from medseg.report.case import draw_picture
from medseg.report.cohort import render
from medseg.report.page import CaseReport, CohortReport

pytestmark = [pytest.mark.slow, pytest.mark.browser]
NAMES = (HOSTILE, "b", "c10", "c9")
ORDER = """
const rows = [...document.querySelectorAll('#cases-table tbody tr')];
return rows.filter((row) => row.checkVisibility()).map((row) => row.cells[0].textContent);
"""


def cohort() -> CohortReport:
    mask = np.zeros((80, 100), np.bool_)
    mask[20:50, 30:70] = True
    picture = draw_picture(
        np.full((80, 100), 90, np.uint8),
        predicted={"lung_right": mask},
        reference={"lung_right": mask},
        spacing_mm=(1.0, 1.0),
        orientation=("L", "F"),
    )
    cases = []
    for number, name in enumerate(NAMES):
        own = record(name)
        if number:
            own |= {"verdict": "pass", "flags": []}
        own["measurements"]["structures"]["lung_right"]["quantities"]["volume"]["value"] = 900.0 - number
        cases.append(
            CaseReport(case_id=name, patient=f"P-{number}", split="test", record=own, picture=picture)
        )
    return CohortReport(
        title=HOSTILE,
        pipeline=HOSTILE,
        about=HOSTILE,
        run="r",
        settings_sha256="0",
        cards=(),
        structures=STRUCTURES,
        cases=tuple(cases),
        notes=((HOSTILE, HOSTILE),),
        said=(HOSTILE,),
        methods=HOSTILE,
        settings=HOSTILE,
    )


@pytest.fixture(scope="module")
def html():
    return render(cohort())


@pytest.fixture
def page(open_page, html):
    return open_page(html)


def test_hostile_names_are_text_and_nothing_is_asked_for(page):
    page.run("document.querySelectorAll('details').forEach((d) => { d.open = true })")
    assert page.one("main").text.count("</script><script>document.title='owned'</script>") > 5
    assert page.run("return document.querySelectorAll('img, [onerror]').length") == 0
    assert page.driver.title != "owned"
    page.assert_quiet()


def test_a_script_that_is_not_the_pages_is_refused(open_page, html):
    added = "<script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">"
    page = open_page(html.replace("<main", f"{added}<main", 1))
    assert page.driver.title != "owned"
    assert "Content Security Policy" in " ".join(page.watched().problems)


def test_cases_are_sorted_and_filtered(page):
    assert page.run(ORDER)[0] == HOSTILE
    page.click("#cases-table th:nth-child(1) button")
    ascending = page.run(ORDER)
    assert ascending.index("c9") < ascending.index("c10")
    page.click("#cases-table th:nth-child(1) button")
    assert page.run(ORDER) == ascending[::-1]
    page.one("#filter-text").send_keys("C1")
    assert page.run(ORDER) == ["c10"]
    page.one("#filter-text").send_keys("\ue003\ue003")
    page.click(".f-pass")
    assert page.run(ORDER) == [HOSTILE]
    page.assert_quiet()


def test_the_numbers_are_saved_as_files(page):
    page.click("#save-json")
    data = json.loads(page.file("report.json"))
    assert {case["case_id"] for case in data["cases"]} == set(NAMES)
    page.click("#save-csv")
    saved = page.wait(lambda: next((p for p in page.saved.glob("*.csv")), None))
    rows = list(csv.DictReader(io.StringIO(saved.read_text(encoding="utf-8"))))
    assert {row[next(iter(row))] for row in rows} == set(NAMES)
    page.assert_quiet()


def test_every_control_is_reached_by_the_tab_key(page):
    controls = page.controls()
    assert len(controls) > 10
    assert controls.keys() - page.reached_by_tab() == set(), controls


def test_chinese_pages_are_quiet_too(open_page):
    page = open_page(render(replace(cohort(), language="zh")))
    assert page.run("return document.documentElement.lang") == "zh-Hans"
    page.assert_quiet()
