"""The page of one case: what it says, that all of it is escaped, and that its numbers are those of the files."""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import json
import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from medseg.evaluation.measure import measure_case
from medseg.evaluation.rows import rows_to_csv
from medseg.report import case_checks, case_comparison, case_tables
from medseg.report.case_data import CasePage, Cohort, LogLine, Previous, Section
from medseg.report.case_report import case_data, render_case
from medseg.report.language import LANGUAGES
from medseg.report.page import Structure
from medseg.report.words import Words
from tests.unit.report.conftest import TABLE, _lungs

HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)>"
STRUCTURES = (
    Structure(name="lung_right", colour="#3aa0ff"),
    Structure(name="lung_left", colour="#b684f5"),
    Structure(name="lung", colour="#888888", kind="region"),
)


@pytest.fixture
def make_page(make_report):
    def make(text="a note", *, index=0, **changes):
        case = make_report(index + 1, text=text).cases[index]
        return CasePage(case=case, structures=STRUCTURES, **changes)

    return make


def data_of(page):
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.S)
    return json.loads(found.group(1))


def test_the_page_the_json_and_the_csv_say_the_same(make_page):
    page = make_page()
    data = data_of(render_case(page))
    assert data["measurements"] == json.loads(json.dumps(page.case.record))
    assert data["evaluation"] == json.loads(json.dumps(page.case.evaluation))
    measured = measure_case(
        _lungs(0), table=TABLE, measures=("area", "left_right_ratio", "cardiothoracic_ratio"), case_id="case-0",
        spacing_mm=(2.0, 2.0), spacing_origin="imager_pixel_spacing", patient_orientation=("L", "F"),
    )  # fmt: skip
    assert data["table"] == rows_to_csv(measured.rows())
    row = next(csv.DictReader(io.StringIO(data["table"])))
    area = page.case.record["measurements"]["structures"][row["structure"]]["quantities"][row["measure"]]
    assert float(row["value"]) == area["value"]
    assert f"{area['value'] / 100:.1f} cm²" in render_case(page)


@pytest.mark.parametrize("language", LANGUAGES)
def test_hostile_texts_are_shown_and_never_run(make_page, language):
    page = make_page(
        HOSTILE, language=language, title=HOSTILE, pipeline=HOSTILE, run=HOSTILE, methods=HOSTILE, settings=HOSTILE,
        facts=[("model", HOSTILE)], study=[("body_part", HOSTILE)], date=HOSTILE, versions={HOSTILE: HOSTILE},
        log=[LogLine(time=HOSTILE, level="W", text=HOSTILE)], codes={"lung_left": HOSTILE}, window=HOSTILE,
    )  # fmt: skip
    shown = render_case(page)
    assert "<script>alert" not in shown
    assert "<img" not in shown
    assert shown.count("<script") == 2
    assert data_of(shown)["case_id"] == page.case.case_id
    outline = _Outline()
    outline.feed(shown)
    assert outline.outside == []
    assert outline.handlers == []


class _Outline(HTMLParser):
    def __init__(self):
        super().__init__()
        self.outside = []
        self.ids, self.links, self.styled, self.handlers, self.fors, self.heads = [], [], [], [], [], []

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        self.ids += [given["id"]] if "id" in given else []
        self.outside += [
            given[k]
            for k in ("src", "href")
            if k in given and given[k][:1] != "#" and given[k][:5] != "data:"
        ]
        self.links += [given["href"][1:]] if given.get("href", "").startswith("#") else []
        self.styled += [tag] if "style" in given else []
        self.handlers += [name for name in given if name.startswith("on")]
        self.fors += [given["for"]] if "for" in given else []
        self.heads += [given.get("scope")] if tag == "th" else []


def test_only_its_own_style_and_script_are_allowed_and_nothing_needs_more(make_page):
    page = make_page(
        viewer=Section(html="", style=".v{}", scripts=("let a = 1;",), policy={"img-src": "blob:"})
    )
    shown = render_case(page)
    policy = re.search(r'Content-Security-Policy" content="([^"]+)"', shown).group(1).replace("&#39;", "'")
    assert policy.startswith("default-src 'none'; base-uri 'none'; form-action 'none'; img-src data: blob:; ")
    pieces = re.findall(r"<style>(.*?)</style>", shown, re.S) + re.findall(
        r"<script>(.*?)</script>", shown, re.S
    )
    assert len(pieces) == 3
    for piece in pieces:
        digest = base64.b64encode(hashlib.sha256(piece.encode()).digest()).decode()
        assert f"'sha256-{digest}'" in policy
    assert "unsafe" not in policy
    outline = _Outline()
    outline.feed(shown)
    assert outline.styled == []
    assert outline.handlers == []
    assert "http" not in shown.replace("http-equiv", "")


def test_it_can_be_read_by_ear_and_used_by_key(make_page):
    shown = render_case(make_page())
    outline = _Outline()
    outline.feed(shown)
    assert set(outline.links) <= set(outline.ids)
    assert set(outline.fors) <= set(outline.ids)
    assert len(outline.ids) == len(set(outline.ids))
    assert set(outline.heads) == {"col", "row"}
    assert shown.count("<caption>") == shown.count("<table")
    assert shown.count('role="img"') == shown.count("<svg") - shown.count('<svg class="share"')
    assert shown.count("<main") == shown.count("<nav") == shown.count("<header") == 1


def test_boxes_and_rules_that_switch_contours_belong_together(make_page):
    shown = render_case(make_page())
    for index, name in enumerate(("lung_right", "lung_left")):
        assert f'<input type="checkbox" id="s{index}" checked>' in shown
        assert f"body:has(#s{index}:not(:checked)) .film .k{index}{{display:none}}" in shown
        assert f'class="c r k{index}"' in shown, name


@pytest.mark.parametrize("language", LANGUAGES)
def test_honest_numbers(make_page, language):
    page = make_page(language=language)
    words = Words(language)
    record = json.loads(json.dumps(page.case.record))
    structures = record["measurements"]["structures"]
    structures["lung_left"] |= {"state": "absent", "quantities": {}, "shape": None}
    area = structures["lung_right"]["quantities"]["area"]
    area |= {"bound": "lower", "cut_off": True}
    cohort = Cohort(name="x", values={"lung_right": [float(n) for n in range(40)]})
    page = replace(page, case=replace(page.case, record=record), cohort=cohort)
    table = case_tables.structure_table(page, words)
    rows = {row.structure: [str(c.text) for c in row.cells] for row in table.rows}
    assert rows["lung_left"][0] == words.t["absent"]
    assert rows["lung_right"][0] == f"> {area['value'] / 100:.1f} cm²"
    assert words.t["not_ranked"] in rows["lung_right"]
    area["bound"] = "exact"
    table = case_tables.structure_table(page, words)
    assert "> 98" in [c.text for c in next(r for r in table.rows if r.structure == "lung_right").cells]
    few = replace(page, cohort=Cohort(name="x", values={"lung_right": [1.0] * 19}))
    assert words.t["col.percentile"] not in [c.title for c in case_tables.structure_table(few, words).columns]


def test_percentiles_count_ties_half():
    assert case_tables.percentile([1, 2, 2, 3], 2) == 50
    assert case_tables.percentile([1, 2, 3, 4], 0) == 0
    assert case_tables.percentile([1, 2, 3, 4], 9) == 100


def test_what_was_not_judged_is_in_the_matrix_with_its_reason(make_page):
    page = make_page()
    checks = [
        {"code": "Q201", "structure": "lung_left", "outcome": "flagged", "reason": "", "title": "disconnected parts"},
        {"code": "Q201", "structure": "lung_right", "outcome": "passed", "reason": "", "title": "disconnected parts"},
        {"code": "Q302", "structure": "lung_left/lung_right", "outcome": "not judged", "reason": "cut off",
         "title": "left/right ratio"},
        {"code": "Q999", "structure": "", "outcome": "not judged", "reason": "who knows", "title": "new check"},
    ]  # fmt: skip
    page = replace(page, case=replace(page.case, record=dict(page.case.record) | {"checks": checks}))
    matrix, reasons = case_checks.check_matrix(page, Words("en"))
    rows = {row.structure: [(str(c.text), c.level) for c in row.cells] for row in matrix.rows}
    assert rows["lung_left"] == [("review", "review"), ("not judged", "none"), ("–", "")]
    assert rows["lung_right"] == [("pass", "pass"), ("not judged", "none"), ("–", "")]
    assert rows[""] == [("–", ""), ("–", ""), ("not judged", "none")]
    assert reasons == [("cut off", "Q302 lung left / lung right"), ("who knows", "Q999 whole image")]
    shown = render_case(replace(page, language="zh"))
    assert '<span lang="en">who knows</span>' in shown
    assert "截断" in shown


def test_change_is_judged_against_the_noise_and_not_where_it_cannot_be(make_page):
    page = make_page(date="2026-11-20", test_retest_percent={"lung_right": 4.0, "other": 10.0})
    old = json.loads(json.dumps(page.case.record))
    area = old["measurements"]["structures"]["lung_right"]["quantities"]["area"]
    area["value"] /= 1.05
    old["measurements"]["structures"]["lung_left"]["quantities"]["area"]["bound"] = "lower"
    page = replace(page, previous=Previous(case_id="then", date="20260518", record=old))
    change = case_comparison.change_table(page, Words("en"))
    rows = {row.structure: [str(c.text) for c in row.cells] for row in change["table"].rows}
    assert (change["days"], change["date"], change["other_model"]) == (186, "2026-05-18", False)
    assert rows["lung_right"][2:] == ["+5.0 %", "± 4 %", "beyond"]
    assert rows["lung_left"][2:] == ["–", "± 10 %", "not judged"]
    assert rows["lung"][2:] == ["+0.0 %", "± 10 %", "within"]
    unknown = case_comparison.change_table(replace(page, test_retest_percent={}), Words("en"))
    assert {str(r.cells[4].text) for r in unknown["table"].rows} == {"not judged"}
    assert case_comparison.change_table(replace(page, previous=None), Words("en")) is None


def test_chinese_pages_are_chinese(make_page):
    shown = render_case(make_page(language="zh", date="2026-11-20", index=1))
    assert '<html lang="zh-Hans">' in shown
    for words in ("右肺", "2026年11月20日", "未评判", "仅供科研使用", "分离碎块", "审阅签署"):
        assert words in shown
    for words in ("Structures", "Sign-off", "not judged", "Confidence", "pixels"):
        assert f">{words}<" not in shown
    assert case_data(make_page(language="zh"))["measurements"] == case_data(make_page())["measurements"]


def test_paper_has_no_forms_scripts_or_folded_parts(make_page):
    shown = render_case(make_page(), paper=True)
    assert "<script" not in shown
    assert "<input" not in shown
    assert "<details open>" in shown
    assert "@page" in shown


def test_the_page_is_small(make_page):
    assert len(render_case(make_page()).encode()) < 300_000


def test_intervals_and_parts_of_the_input_check_are_shown(make_page):
    page = make_page()
    record = json.loads(json.dumps(page.case.record))
    quantities = record["measurements"]["structures"]["lung_right"]["quantities"]
    quantities["area"]["interval"] = {"low": 20000.0, "high": 24000.0, "level": 0.9}
    record["checks"] += [
        {"code": "Q402", "structure": "", "outcome": "not judged", "reason": "the file does not say it",
         "part": "modality", "title": "x"},
        {"code": "Q402", "structure": "", "outcome": "passed", "reason": "", "part": "spacing", "measured": 2.5,
         "limit": 3.0, "title": "x"},
    ]  # fmt: skip
    page = replace(page, case=replace(page.case, record=record))
    shown = render_case(page)
    assert "200.0 cm² – 240.0 cm²" in shown
    assert "<dt>spacing</dt><dd>2.5 (3)" in shown
    rows = {r["measure"]: r for r in csv.DictReader(io.StringIO(data_of(shown)["table"]))}
    assert (rows["area_mm2_low"]["value"], rows["area_mm2_low"]["note"]) == ("20000.0", "90 % interval")
    matrix, reasons = case_checks.check_matrix(page, Words("en"))
    assert [str(c.text) for c in next(r for r in matrix.rows if r.structure == "").cells] == ["–", "pass"]
    assert ("the file does not say it", "Q402 modality") in reasons


def test_flags_have_numbers_in_the_unit_that_they_name():
    words = Words("en")
    flag = {"code": "Q301", "measured": 200.0, "limit": 150.0, "text": "", "unit": "ml"}
    assert words.flag_number(flag, "measured", flat=False) == "200.0\N{NO-BREAK SPACE}mL"
    assert words.flag_number(flag, "limit", flat=False) == "≤\N{NO-BREAK SPACE}150.0\N{NO-BREAK SPACE}mL"
    share = {"code": "Q201", "measured": 0.034, "limit": 0.01, "text": ""}
    assert words.flag_number(share, "measured", flat=False) == "3.4\N{NO-BREAK SPACE}%"
    cut = {"code": "Q101", "measured": 2.0, "limit": 0.0, "text": "", "unit": "edges"}
    assert words.flag_number(cut, "limit", flat=False) == "–"
    likely = {
        "code": "Q401",
        "measured": 0.8,
        "limit": 0.85,
        "text": "the mean probability in the core of x is 0.80",
    }
    assert words.flag_number(likely, "limit", flat=False) == "≥\N{NO-BREAK SPACE}0.85"
    assert words.flag_number(share | {"limit": None}, "limit", flat=False) == "–"


@pytest.mark.parametrize(
    ("language", "place", "number"),
    [
        ("en", "left, cranial third of the image, nearest to lung left (3.2 mm)", "No."),
        ("zh", "左侧", "序号"),
    ],
)
def test_recognised_targets_are_listed_with_their_place(make_page, language, place, number):
    page = make_page(language=language)

    def quantity(value, unit="ml"):
        return {"value": value, "unit": unit, "bound": "exact", "reason": ""}

    item = {
        "structure": "lung_left", "number": 1, "voxels": 100, "centroid_mm": [-20.4, 10.0, -5.0],
        "place": {"side": "left", "side_of": "label", "third": "cranial", "nearest": "lung_left", "nearest_mm": 3.2},
        "quantities": {"volume": quantity(1.5), "long_axis": quantity(12.0, "mm"), "confidence": quantity(0.91, "1")},
    }  # fmt: skip
    small = [item | {"number": n, "voxels": 1} for n in range(2, 100)]
    record = dict(page.case.record) | {"instances": {"instances": [*small, item]}}
    shown = render_case(replace(page, case=replace(page.case, record=record)))
    assert place in shown
    assert "L 20 A 10 I 5 mm" in shown
    assert number in shown
    assert "1.50 mL" in shown
    assert "39 smaller targets" in shown or "39 个较小目标" in shown
    assert 'id="targets"' not in render_case(page)


def test_a_region_that_no_check_looked_at_has_no_status(make_page):
    page = make_page()
    record = {**page.case.record, "flags": [], "checks": [{"structure": "lung_left/lung_right"}]}
    table = case_tables.structure_table(replace(page, case=replace(page.case, record=record)), Words("en"))
    last = {row.structure: row.cells[-1] for row in table.rows}
    assert (str(last["lung_left"].text), last["lung_left"].level) == ("pass", "pass")
    others = {name: str(cell.text) for name, cell in last.items() if not name.startswith("lung_")}
    assert set(others.values()) == {"–"}


def test_why_a_structure_was_not_judged_is_said_once(make_page):
    page = make_page()
    metric = {"value": None, "unit": "1", "reason": "the reference does not tell this structure"}
    border = {"value": None, "unit": "mm", "reason": "no border lies in the judged part of the image"}
    structures = {
        "liver": {"state": "not_judged", "metrics": {"dice": metric, "hd95": metric}},
        "spleen": {
            "state": "judged",
            "metrics": {"dice": metric | {"value": 0.5, "reason": ""}, "hd95": border},
        },
    }
    case = replace(page.case, evaluation={"structures": structures})
    rows = case_comparison.agreement_table(replace(page, case=case), Words("en"))[0].rows
    assert [str(cell.text) for cell in rows[0].cells] == ["–", "–"]
    assert rows[0].code == "not judged: the reference does not tell it"
    assert "no border" in str(rows[1].cells[1].small)
