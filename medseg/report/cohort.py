"""The page of a cohort: one HTML file without outside references, readable without scripts.

The Content-Security-Policy allows nothing but the page's own style sheet and script, each by its SHA-256,
and pictures in the page. What files say is escaped by the template; should that ever fail, the browser
still refuses to run it.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import json
import re
from collections import Counter
from collections.abc import Sequence
from importlib import resources
from typing import Any

from jinja2 import Environment
from markupsafe import Markup

from medseg import __version__
from medseg.evaluation.rows import rows_to_csv
from medseg.report import figures
from medseg.report.checklist import checklist
from medseg.report.cohort_agreement import agreement_part, sizes_part
from medseg.report.cohort_cases import case_table, flag_counts, worst_cases
from medseg.report.cohort_figures import MAX_LINKED
from medseg.report.cohort_judged import calibration_part, cleaned_rows, comparison_part, precision_recall
from medseg.report.cohort_series import Series, all_series
from medseg.report.cohort_spread import spread_part
from medseg.report.cohort_text import Words, check_title, named, nice, words
from medseg.report.page import VERDICTS, CaseReport, CohortReport, Picture, Structure
from medseg.report.run_tables import long_rows
from medseg.report.search import search_part
from medseg.report.targets import targets_part
from medseg.report.templating import environment
from medseg.report.text import number, quantity_text, step_text

_COLOUR = re.compile(r"^#[0-9a-fA-F]{6}$")
RESEARCH = "For research use only. Not a medical device; not for diagnosis or treatment."
_FIGURE = re.compile(r"<svg [^>]*>")
MAX_DATA_CASES = 200
"""Cases whose every record lies in the page; of more, the columns of the table do, and the rest beside it."""


def render(report: CohortReport, *, paper: bool = False) -> str:
    """The page as HTML text.

    Parameters
    ----------
    report : CohortReport
    paper : bool
        For a PDF: without script and data, and with colours in figures that printers know.

    Raises
    ------
    ValueError
        A structure's colour is not "#rrggbb".
    """
    said = words(report.language)
    style = _asset("style.css") + _asset("cohort.css") + _colours(report)
    series = all_series(report.cases)
    table = case_table(report, said, link_of)
    page = (
        _environment()
        .get_template("cohort.html.j2")
        .render(
            **_frame(style, "" if paper else _asset("cohort.js"), report.language),
            report=report,
            cases=report.ordered,
            data=None if paper else json_block(page_data(report, table)),
            counts=Counter(case.verdict for case in report.cases),
            table=table,
            worst=worst_cases(report, said, link_of),
            codes=flag_counts(report, said),
            spread=spread_part(report, series, said, link_of),
            agreement=agreement_part(report, report.summary, said) if report.summary else None,
            sizes=sizes_part(report, report.summary, said, link_of) if report.summary else None,
            **_judged(report, said),
            checklist=checklist(report, said),
            curves=_curves(report),
            styles={s.name: f"k{index}" for index, s in enumerate(report.structures)},
            linked=max((len(one.known) for one in series), default=0) <= MAX_LINKED,
            webp=webp,
            check_title=check_title,
            named=lambda name: named(name, report.language),
        )
    )
    return _with_own_style(page, report) if paper else page


def _judged(report: CohortReport, said: Words) -> dict[str, Any]:
    """Parts that a run has only where something was asked for."""
    detection, cleaning = report.detection, report.cleaning
    return {
        "targets": None if detection is None else targets_part(detection),
        "precision_recall": [] if detection is None else precision_recall(detection, said, report.language),
        "calibration": calibration_part(report.calibration, said, report.language)
        if report.calibration
        else None,
        "comparison": (
            comparison_part(report.comparison, said, report.language) if report.comparison else None
        ),
        "search": None if report.search is None else search_part(report.search),
        "cleaned": None
        if cleaning is None
        else {
            "data": cleaning["data"],
            "tried": len(cleaning["tried"]),
            "steps": "; ".join(step_text(step) for step in cleaning["steps"]),
            "rows": cleaned_rows(cleaning),
        },
    }


@functools.cache
def _environment() -> Environment:
    """Templates with the filters of a cohort's pages, kept."""
    return environment(number=number, quantity=quantity_text, nice=nice)


def _frame(style: str, script: str, language: Any) -> dict[str, Any]:
    """What the head and the foot of a page need."""
    scripts = f" script-src '{digest_source(script)}';" if script else ""
    return {
        "policy": (
            f"default-src 'none'; base-uri 'none'; form-action 'none'; img-src data:;{scripts} "
            f"style-src '{digest_source(style)}'"
        ),
        "style": Markup(style),
        "script": Markup(script),
        "t": words(language),
        "version": __version__,
        "research": RESEARCH,
        "verdicts": VERDICTS,
    }


def render_comparison(comparison: Any, *, title: str, language: Any = "en") -> str:
    """Two evaluations of the same cases as a page of its own, without scripts.

    Parameters
    ----------
    comparison : mapping
        comparison.json.
    title : str
    language : {"en", "zh"}
    """
    style = _asset("style.css") + _asset("cohort.css")
    return (
        _environment()
        .get_template("cohort_comparison_page.html.j2")
        .render(
            **_frame(style, "", language),
            title=title,
            styles={},
            named=lambda name: named(name, language),
            comparison=comparison_part(comparison, words(language), language),
        )
    )


def link_of(case: CaseReport) -> str:
    """Where choosing a case leads: its own page, or nowhere."""
    return case.page


def webp(picture: Picture) -> str:
    """A picture as an address that holds it."""
    return "data:image/webp;base64," + base64.b64encode(picture.webp).decode("ascii")


def page_data(report: CohortReport, table: dict[str, Any] | None = None) -> dict[str, Any]:
    """All numbers of the page: measurements.json of each case and the files of evaluation/, patients as pseudonyms.

    Of more than `MAX_DATA_CASES` cases the records are left out, and `left_out` says so; the table of cases has a row
    for every case in any event.
    """
    table = table or case_table(report, words(report.language), link_of)
    whole = len(report.cases) <= MAX_DATA_CASES
    return {
        "schema": "medseg.report/2",
        "medseg": __version__,
        "pipeline": report.pipeline,
        "run": report.run,
        "settings_sha256": report.settings_sha256,
        "cases": [
            {
                "case_id": case.case_id,
                "patient": case.patient,
                "split": case.split,
                "measurements": case.record,
                "evaluation": case.evaluation,
                "files": dict(case.files),
            }
            for case in report.ordered
            if whole
        ],
        "left_out": 0 if whole else len(report.cases),
        "columns": ["case_id", "verdict", "split", "codes", *(title for title, _, _ in table["columns"])],
        "rows": [
            [
                row["case_id"],
                row["verdict"],
                row["split"],
                row["codes"],
                *(_plain(s, x) for x, s in row["cells"]),
            ]
            for row in table["rows"]
        ],
        "summary": report.summary,
        "detection": report.detection,
        "calibration": report.calibration,
        "comparison": report.comparison,
        "table": rows_to_csv(long_rows(report)) if whole else "",
    }


def _plain(sort: str, text: str) -> float | str | None:
    return float(sort) if sort else (None if text == "–" else text)


def _asset(name: str) -> str:
    return (resources.files("medseg.report") / "templates" / name).read_text(encoding="utf-8")


def digest_source(text: str) -> str:
    """A text as a source of a Content-Security-Policy."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode("ascii")


def check_colours(structures: Sequence[Structure]) -> None:
    """Refuse colours that are not "#rrggbb": they are written into the style as they are."""
    for structure in structures:
        if not _COLOUR.match(structure.colour):
            raise ValueError(f"the colour of {structure.name} must be #rrggbb, found {structure.colour!r}")


def _colours(report: CohortReport) -> str:
    check_colours(report.structures)
    rules = []
    for index, structure in enumerate(report.structures):
        rules.append(f".k{index}{{--c:{structure.colour}}}")
        rules.append(f".film:has(.t{index}:not(:checked)) .k{index}.c{{display:none}}")
    return "\n".join(rules) + "\n"


def _with_own_style(page: str, report: CohortReport) -> str:
    """The page with the style of figures inside every one of them: printers look for it nowhere else."""
    check_colours(report.structures)
    colours = "".join(
        f".k{index}{{fill:{s.colour}}}path.k{index}{{fill:none;stroke:{s.colour}}}\n"
        for index, s in enumerate(report.structures)
    )
    style = f"<style>{colours}{_asset('cohort_paper.css')}</style>"
    return _FIGURE.sub(lambda found: found.group() + style, page)


def json_block(value: Any) -> Markup:
    """JSON that no HTML parser can end or take for markup."""
    text = json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    for sign in "<>&":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return Markup(text)


def _curves(report: CohortReport) -> list[Markup]:
    series = report.fold_curves or {"": report.curve}
    drawn = (
        figures.curves(series, column="loss", title="Training loss", style="loss"),
        figures.curves(series, column="dice", title="Validation Dice", style="dice"),
    )
    return [figure for figure in drawn if figure is not None]


__all__ = ["RESEARCH", "Series", "check_colours", "page_data", "render", "render_comparison"]
