"""The page of a case as people use it: hostile names stay text, tables sort, the sign-off is saved, it prints."""

from __future__ import annotations

import base64
import csv
import io
import json
import unicodedata

import pytest
from study_pages import HOSTILE, case_page

from medseg.report.case_report import case_data, render_case

pytestmark = [pytest.mark.slow, pytest.mark.browser]
SECTIONS = ("flags", "structures", "masks", "confidence", "view", "signoff", "provenance")


@pytest.fixture(scope="module")
def html():
    return render_case(case_page())


@pytest.fixture
def page(open_page, html):
    return open_page(html)


def test_it_renders_quietly_with_every_part(page):
    for section in SECTIONS:
        assert page.one(f"#{section}").is_displayed(), section
    drawn = "return [...document.querySelectorAll('.film image')].map((e) => e.getBoundingClientRect().width)"
    assert min(page.run(drawn)) > 20
    assert page.picture(".film").std() > 20
    page.assert_quiet()


def test_hostile_names_are_text_everywhere(page):
    page.run("document.querySelectorAll('details').forEach((d) => { d.open = true })")
    shown = page.one("main").text
    for part in ("</script><script>document.title='owned'</script>", "<img src=x onerror=", "&amp;"):
        assert shown.count(part) > 10
    counted = page.run(
        "return ['img', 'main script:not([type])', '[onerror]'].map((q) => document.querySelectorAll(q).length)"
    )
    assert counted == [0, 0, 0]
    assert page.driver.title != "owned"
    page.assert_quiet()


def test_contours_are_switched_by_structure_and_kind(page):
    shown = """
    const all = [...document.querySelectorAll('.film .c')];
    const seen = (wanted) => all.filter((e) => wanted(e.classList) && getComputedStyle(e).display !== 'none').length;
    return [seen((c) => c.contains('k0')), seen((c) => c.contains('k1')), seen((c) => c.contains('r'))];
    """
    before = page.run(shown)
    assert min(before) > 0
    page.click("#s0")
    assert page.run(shown)[:2] == [0, before[1]]
    page.click("#s0")
    page.click("#ref")
    assert page.run(shown)[2] == 0
    page.click("#ref")
    assert page.run(shown) == before
    page.assert_quiet()


def test_the_table_of_structures_is_sorted_by_its_heads(page):
    column = """
    const table = document.querySelector('table.sortable');
    return [...table.tBodies[0].rows].map((row) => Number.parseFloat(row.textContent.match(/([0-9.]+) mL/)?.[1]));
    """
    heads = page.run(
        "return [...document.querySelectorAll('table.sortable thead th')].map((e) => e.textContent)"
    )
    size = next(k for k, head in enumerate(heads) if "olume" in head)
    button = f"table.sortable thead th:nth-child({size + 1}) button"
    sizes = page.run(column)
    page.click(button)
    assert page.run(column) == sorted(sizes)
    page.click(button)
    assert page.run(column) == sorted(sizes, reverse=True)
    state = page.run(f"return document.querySelector({json.dumps(button)}).parentElement.ariaSort")
    assert state == "descending"
    page.assert_quiet()


def test_the_sign_off_and_the_numbers_are_saved_as_files(page):
    page.click("#review input[value=reject]")
    page.one("#reader").send_keys("A. Reader")
    page.one("#note").send_keys('a <b>note</b> "quoted"')
    page.click("#save-review")
    review = json.loads(page.file("review.json"))
    (entry,) = review["reviews"]
    assert (entry["decision"], entry["reader"], entry["note"]) == (
        "reject",
        "A. Reader",
        'a <b>note</b> "quoted"',
    )
    assert (entry["case_id"], review["run"]) == (HOSTILE, HOSTILE)
    data = case_data(case_page())
    page.click("#save-json")
    assert json.loads(page.file("measurements.json")) == json.loads(json.dumps(data["measurements"]))
    page.click("#save-csv")
    rows = list(csv.DictReader(io.StringIO(page.file("measurements.csv"))))
    assert {float(row["value"]) for row in rows} == {880.5, 97.25, 977.75}
    page.assert_quiet()


def test_every_control_is_reached_by_the_tab_key(page):
    controls = page.controls()
    assert len(controls) > 15
    assert controls.keys() - page.reached_by_tab() == set(), controls
    # The same with the viewer open.
    page.click("#viewer-start")
    page.wait(lambda: page.one("#viewer").get_attribute("data-ready"))
    opened = page.controls()
    assert len(opened) > len(controls)
    assert opened.keys() - page.reached_by_tab() == set(), opened


def test_keys_alone_decide_and_save(page):
    page.run("document.querySelector('#review input').focus()")
    page.driver.switch_to.active_element.send_keys("\ue015")
    page.run("document.querySelector('#save-review').focus()")
    page.driver.switch_to.active_element.send_keys("\ue007")
    assert json.loads(page.file("review.json"))["reviews"][0]["decision"] == "edit"


def test_printing_gives_all_parts_and_no_controls(page):
    pypdf = pytest.importorskip("pypdf")
    titles = page.run("return [...document.querySelectorAll('h2')].map((e) => e.textContent)")
    printed = page.driver.execute_cdp_cmd("Page.printToPDF", {"paperWidth": 8.27, "paperHeight": 11.69})
    document = pypdf.PdfReader(io.BytesIO(base64.b64decode(printed["data"])))
    # Fonts join letters such as ff and fi.
    pages = unicodedata.normalize("NFKC", " ".join(sheet.extract_text() for sheet in document.pages))
    said = " ".join(pages.split())
    assert {title for title in titles if title not in said and title.upper() not in said} <= {"Sign-off"}
    assert "880.5 mL" in said
    assert "Open the 3D viewer" not in said
    assert len(document.pages) < 15
    assert any(sheet.images for sheet in document.pages)
    page.assert_quiet()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_can_be_read_in_light_and_dark(page, scheme):
    page.driver.execute_cdp_cmd(
        "Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    )
    try:
        colours = page.run("const s = getComputedStyle(document.body); return [s.color, s.backgroundColor]")
    finally:
        page.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
    text, ground = (sum(map(int, c[c.index("(") + 1 : -1].split(",")[:3])) for c in colours)
    assert (text < ground) == (scheme == "light")
    assert abs(text - ground) > 400
