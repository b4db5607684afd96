"""The page: self-contained, safe against what files say, and with the very numbers of the run."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from typing import Any

import pytest

from medseg.report.cohort import page_data, render
from medseg.report.cohort_agreement import agreement_part
from medseg.report.cohort_cases import case_table, flag_counts
from medseg.report.cohort_text import words
from medseg.report.language import HTML_LANGUAGE, Language
from medseg.report.page import CohortReport, Structure

HOSTILE = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)></title></style><!--<svg/onload=alert(3)>{{7*7}}"
Make = Callable[..., CohortReport]


class Page(HTMLParser):
    """Tags with attributes, and the text of scripts, as a parser sees them."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.inner: dict[str, list[str]] = {"script": [], "style": []}
        self._open = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._open = tag
        if tag in self.inner:
            self.inner[tag].append("")

    def handle_endtag(self, tag: str) -> None:
        self._open = ""

    def handle_data(self, data: str) -> None:
        if self._open in self.inner:
            self.inner[self._open][-1] += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attrs for name, attrs in self.tags if name == tag]


def _data(page: Page) -> Any:
    return json.loads(page.inner["script"][0])


def test_policy_allows_only_the_pages_own_script_and_style(make_report: Make) -> None:
    page = Page(render(make_report()))
    policy = next(a["content"] for a in page.all("meta") if a.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None
    assert policy.startswith("default-src 'none'")
    assert "unsafe" not in policy
    for kind in ("script", "style"):
        digest = base64.b64encode(hashlib.sha256(page.inner[kind][-1].encode()).digest()).decode()
        assert f"{kind}-src 'sha256-{digest}'" in policy


def test_nothing_is_fetched_from_outside(make_report: Make) -> None:
    page = Page(render(make_report()))
    for tag, attrs in page.tags:
        assert tag not in ("link", "iframe", "object", "base")
        assert "style" not in attrs
        assert not any(name.startswith("on") for name in attrs)
        for name in ("src", "href", "xlink:href", "action"):
            assert (attrs.get(name) or "#").startswith(("#", "data:image/webp;base64,", "tables/", "cases/"))
    assert "url(" not in page.inner["style"][0]


@pytest.mark.parametrize("text", [HOSTILE, "</script><script>alert(4)</script>", "\u2028 ' \" & < >"])
def test_hostile_text_is_text(make_report: Make, text: str) -> None:
    plain, page = Page(render(make_report())), Page(render(make_report(text=text)))
    assert [t for t, _ in page.tags if t in ("script", "style")] == ["style", "script", "script"]
    assert {t for t, _ in page.tags} <= {t for t, _ in plain.tags}
    assert _data(page)["cases"][0]["case_id"] in (text, "case-0", "case-1", "case-2")
    assert text in [case["case_id"] for case in _data(page)["cases"]]


def test_links_lead_to_sections_that_are_there(make_report: Make) -> None:
    page = Page(render(make_report(text=HOSTILE)))
    ids = [a["id"] for _, a in page.tags if a.get("id")]
    assert len(ids) == len(set(ids))
    assert {a["href"] for a in page.all("a")} <= {f"#{i}" for i in ids}


def test_numbers_in_the_page_are_those_of_the_run(make_report: Make) -> None:
    report = make_report()
    data = _data(Page(render(report)))
    assert data == json.loads(json.dumps(page_data(report)))
    assert [c["measurements"] for c in data["cases"]] == json.loads(
        json.dumps([c.record for c in report.ordered])
    )
    assert data["summary"] == json.loads(json.dumps(report.summary))
    assert data["table"].count("\n") > 3 * 3


def test_worst_case_comes_first(make_report: Make) -> None:
    assert [c.verdict for c in make_report(6).ordered] == ["review", "review", "note", "note", "pass", "pass"]


def test_page_says_what_is_missing(make_report: Make) -> None:
    page = render(make_report(evaluated=False))
    assert "Nothing was evaluated" in page
    assert "No case has a result" in render(make_report(0, evaluated=False))


def test_six_cases_stay_under_300_kb(make_report: Make) -> None:
    assert len(render(make_report(6)).encode()) < 300_000


def test_report_imports_no_torch() -> None:
    modules = "medseg.report.cohort, medseg.report.case, medseg.pipeline.report"
    code = f"import sys, {modules}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_colour_that_is_none_is_refused(make_report: Make) -> None:
    bad = replace(make_report(), structures=(Structure(name="a", colour="red}*{display:none"),))
    with pytest.raises(ValueError, match="#rrggbb"):
        render(bad)


def test_sizes_are_areas_of_films_and_volumes_of_scans(make_report: Make) -> None:
    report = make_report()
    page = render(report)
    assert "Predicted and reference area" in page
    assert "Not drawn, spacing unknown: case-1." in page
    structure = report.cases[2].evaluation["structures"]["lung_left"]
    predicted = (structure["counts"]["tp"] + structure["counts"]["fp"]) * 4 / 100
    assert f"case-2: {predicted:.1f} cm²" in page


def test_case_with_a_page_of_its_own_is_led_to(make_report: Make) -> None:
    report = make_report()
    own = replace(
        report.cases[0], section=False, page="cases/case-0/report.html", thumbnail=report.cases[0].picture
    )
    page = Page(render(replace(report, cases=(own, *report.cases[1:]))))
    led = [a for a in page.all("a") if a["href"] == "cases/case-0/report.html"]
    # Table, picture and its caption, and a dot in every strip and plot.
    assert len(led) > 8


def test_worst_flag_counts_each_case_once(make_report: Make) -> None:
    report = make_report()
    record = report.cases[0].record
    flags = [*record["flags"], {**record["flags"][0], "level": "fail", "structure": "lung_right"}]
    doubled = replace(report.cases[0], record={**record, "flags": flags, "verdict": "fail"})
    found = flag_counts(replace(report, cases=(doubled, *report.cases[1:])), words("en"))
    assert [(row["code"], row["by"], row["share"]) for row in found] == [
        ("Q201", {"fail": 1, "review": 0, "note": 1}, "66.7%")
    ]


@pytest.mark.parametrize("language", ["en", "zh"])
def test_page_of_a_language_says_so_and_has_no_key_in_it(make_report: Make, language: Language) -> None:
    text = render(replace(make_report(), language=language))
    assert f'<html lang="{HTML_LANGUAGE[language]}">' in text
    visible = re.sub(r"<(script|style)\b.*?</\1>|<[^>]+>", " ", text, flags=re.S)
    assert not re.findall(r"\{\w*\}", visible)
    assert "cohort_page." not in visible
    assert ("病例" in visible) == (language == "zh")


def test_large_cohorts_keep_a_row_for_every_case_and_stay_small(make_report: Make) -> None:
    few = make_report(4)
    many = tuple(
        replace(
            few.cases[index % 4],
            case_id=f"case-{index:04d}",
            picture=None,
            record={**few.cases[index % 4].record, "case_id": f"case-{index:04d}"},
        )
        for index in range(600)
    )
    report = replace(few, cases=many)
    text = render(report)
    page = Page(text)
    data = _data(page)
    assert len(data["rows"]) == 600
    assert data["cases"] == []
    assert data["left_out"] == 600
    assert len([a for a in page.all("tr") if "data-codes" in a]) == 600
    assert len(text.encode()) < 1_500_000
    assert "can be chosen; the table leads to all" in text


def test_many_structures_are_summed_up_in_the_table(make_report: Make) -> None:
    report = make_report()
    more = tuple(Structure(name=f"part_{k}", colour="#123456") for k in range(9))
    table = case_table(replace(report, structures=(*report.structures, *more)), words("en"), lambda case: "")
    titles = [title for title, _, _ in table["columns"]]
    assert titles[-2:] == ["Lowest Dice", "Mean Dice"]
    assert table["left_out"] == 11
    assert all(len(row["cells"]) == len(titles) for row in table["rows"])


def test_missed_invented_and_empty_structures_are_listed_by_case(make_report: Make) -> None:
    report = make_report()
    summary = {
        **report.summary,
        "missed": [{"case_id": "case-0", "structure": "lung_left"}],
        "false_positives": [{"case_id": "case-1", "structure": "lung"}],
        "both_empty": [{"case_id": "case-2", "structure": "lung"}],
    }
    page = render(replace(report, summary=summary))
    for said in (
        "Missed structures (1)",
        "where the reference has none (1)",
        "Empty in prediction and reference (1)",
    ):
        assert said in page
    assert "<li>lung left in case-0</li>" in page
    states = {r["structure"]: r["states"] for r in agreement_part(report, summary, words("en"))["rows"]}
    assert states["lung"] == [1, 0, 1, 1, 0]
    assert states["lung_left"] == [2, 1, 0, 0, 0]
