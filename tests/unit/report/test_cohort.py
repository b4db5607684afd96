"""The page: self-contained, safe against what files say, and with the very numbers of the run."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import subprocess
import sys
from collections.abc import Callable
from html.parser import HTMLParser
from typing import Any

import pytest

from medseg.report.cohort import page_data, render
from medseg.report.page import CohortReport

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
            assert (attrs.get(name) or "#").startswith(("#", "data:image/webp;base64,"))
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
    assert "No reference mask was compared" in page
    assert "No case has a result" in render(make_report(0, evaluated=False))


def test_six_cases_stay_under_300_kb(make_report: Make) -> None:
    assert len(render(make_report(6)).encode()) < 300_000
    assert len(render(make_report(6, noise=True)).encode()) < 300_000


def test_absent_and_cut_off_are_words(make_report: Make) -> None:
    page = render(make_report())
    assert re.search(r"cardiothoracic ratio: not defined, the label table has no heart", page)
    assert "pixels" in page


def test_report_imports_no_torch() -> None:
    modules = "medseg.report.cohort, medseg.report.case, medseg.pipeline.report"
    code = f"import sys, {modules}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_colour_that_is_none_is_refused(make_report: Make) -> None:
    from dataclasses import replace

    from medseg.report.page import Structure

    bad = replace(make_report(), structures=(Structure(name="a", colour="red}*{display:none"),))
    with pytest.raises(ValueError, match="#rrggbb"):
        render(bad)


def test_sizes_are_areas_of_films_and_volumes_of_scans(make_report: Make) -> None:
    report = make_report()
    assert "Predicted minus reference area, cm²" in render(report)
    for case in report.cases:
        case.record["measurements"]["spacing_mm"] = [2.0, 2.0, 5.0]
    page = render(report)
    assert "Predicted minus reference volume, mL" in page
    assert "Areas in the detector plane" not in page
    counts = report.cases[0].evaluation["structures"]["lung_left"]["counts"]
    assert f"case-0: {(counts['tp'] + counts['fp']) * 0.02:.2f} mL, reference" in page
    for case in report.cases:
        case.record["measurements"]["spacing_mm"] = None
    assert "No plot of areas: the spacing of no evaluated case is known." in render(report)
