"""The page in a real browser: hostile text stays text, contours can be switched, saving and sorting work."""

from __future__ import annotations

import html
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medseg.report.case import draw_picture
from medseg.report.cohort import render
from medseg.report.page import CaseReport, CohortReport, Structure

pytestmark = pytest.mark.slow
HOSTILE = "</script><script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">\"'>"
# Appended in place of the page's script: acts as a person would, and writes what happened into the title.
PROBE = """
const saved = [];
URL.createObjectURL = (blob) => { saved.push(blob); return "#"; };
HTMLAnchorElement.prototype.click = () => {};
const film = document.querySelector(".film"), shown = (q) => getComputedStyle(film.querySelector(q)).display;
const before = [shown(".c:not(.r)"), shown(".r")].join();
film.querySelector(".tp").checked = false; film.querySelector(".tr").checked = false;
const after = [shown(".c:not(.r)"), shown(".r")].join();
const first = () => document.querySelector("#cases-table tbody td").dataset.sort;
const names = [first()];
const head = document.querySelector("#cases-table th button");
head.click(); names.push(first()); head.click(); names.push(first());
document.querySelector("fieldset input[value=reject]").checked = true;
document.querySelector("fieldset textarea").value = "a <b>note</b>";
for (const id of ["save-csv", "save-json", "save-review"]) document.getElementById(id).click();
Promise.all(saved.map((blob) => blob.text())).then((texts) => {
  const review = JSON.parse(texts[2]).reviews[0];
  const scripts = document.scripts.length, images = document.images.length;
  const did = [before, after, names, review.decision, review.note, scripts, images];
  document.title = JSON.stringify([document.title, ...did]);
});
"""


def _report() -> CohortReport:
    gray = np.full((80, 100), 90, dtype=np.uint8)
    mask = np.zeros((80, 100), dtype=np.bool_)
    mask[20:50, 30:70] = True
    picture = draw_picture(
        gray,
        predicted={"lung": mask},
        reference={"lung": mask},
        spacing_mm=(1.0, 1.0),
        orientation=("L", "F"),
    )
    cases = tuple(_case(name, picture) for name in (HOSTILE, "b", "c"))
    return CohortReport(
        title="a title",
        pipeline=HOSTILE,
        about=HOSTILE,
        run="r",
        settings_sha256="0",
        cards=(),
        structures=(Structure(name="lung", colour="#3aa0ff"),),
        cases=cases,
        notes=((HOSTILE, HOSTILE),),
        said=(HOSTILE,),
        methods=HOSTILE,
        settings=HOSTILE,
    )


def _case(name: str, picture: Any) -> CaseReport:
    flag = {"code": "Q201", "level": "review", "structure": "lung", "text": HOSTILE, "measured": 1.0, "limit": 0.0,
            "advice": HOSTILE, "title": HOSTILE}  # fmt: skip
    record = {
        "verdict": "review" if name == HOSTILE else "pass",
        "flags": [flag] if name == HOSTILE else [],
        "checks": [],
        "notes": [HOSTILE],
        "gate": {"level": "pass", "distance": None, "percentile": None, "findings": []},
        "confidence": {},
        "image": {"shape": [80, 100], "spacing_mm": [1.0, 1.0], "spacing_origin": "unknown", "modality": HOSTILE,
                  "file_sha256": "", "pixel_sha256": ""},
        "measurements": {"spacing_mm": [1.0, 1.0], "structures": {}, "ratios": {}, "notes": [HOSTILE]},
    }  # fmt: skip
    return CaseReport(case_id=name, patient="P-0", split="test", record=record, picture=picture)


def _dump(page: Path, profile: Path) -> str:
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no Chromium here")
    flags = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run",
             "--disable-component-update", "--disable-sync", "--virtual-time-budget=3000")  # fmt: skip
    command = [browser, *flags, f"--user-data-dir={profile}", "--dump-dom", page.as_uri()]
    return subprocess.run(command, capture_output=True, text=True, timeout=200, check=True).stdout


def test_people_can_use_the_page_and_files_cannot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from medseg.report import cohort

    asset = cohort._asset
    monkeypatch.setattr(cohort, "_asset", lambda name: asset(name) + (PROBE if name.endswith(".js") else ""))
    page = tmp_path / "report.html"
    page.write_text(render(_report()), encoding="utf-8")
    dom = _dump(page, tmp_path / "profile")

    title = json.loads(html.unescape(dom.partition("<title>")[2].partition("</title>")[0]))
    assert title[0] == "a title · medseg report"
    assert title[1:3] == ["inline,inline", "none,none"]
    assert title[3] == [HOSTILE, HOSTILE, "c"]
    assert title[4:6] == ["reject", "a <b>note</b>"]
    assert title[6:] == [2, 0]


def test_browser_refuses_a_script_that_is_not_the_pages(tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    added = "<script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">"
    page.write_text(render(_report()).replace("<main>", f"<main>{added}"), encoding="utf-8")
    assert "<title>a title · medseg report</title>" in _dump(page, tmp_path / "profile")
