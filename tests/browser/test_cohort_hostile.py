"""The page of a cohort of hostile names: they stay text, and no script but the page's own runs."""

from __future__ import annotations

import numpy as np
import pytest
from study_pages import HOSTILE, STRUCTURES, record

from medseg.report.case import draw_picture
from medseg.report.cohort import render
from medseg.report.page import CaseReport, CohortReport

pytestmark = [pytest.mark.slow, pytest.mark.browser]
NAMES = (HOSTILE, "b", "c10", "c9")


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
