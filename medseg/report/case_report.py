"""The page of one case: one HTML file without outside references, readable without scripts.

The Content-Security-Policy allows nothing but the page's own style sheet and scripts, each by its SHA-256,
and pictures in the page. What files say is escaped by the template; should that ever fail, the browser
still refuses to run it.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Any

from markupsafe import Markup

from medseg import __version__
from medseg.evaluation.rows import Cell, rows_to_csv
from medseg.report import case_checks as checks
from medseg.report import case_comparison as comparison
from medseg.report import case_tables as tables
from medseg.report.case_data import CasePage
from medseg.report.case_targets import targets_table
from medseg.report.cohort import check_colours
from medseg.report.hand_off import hand_off
from medseg.report.language import structure_name
from medseg.report.mosaic import Strip
from medseg.report.page import VERDICTS, Contour, Json, Picture
from medseg.report.templating import plain_environment
from medseg.report.words import Words

SCHEMA = "medseg.case/1"
_CSV = ("value", "unit", "bound", "reason", "note")
_DICOM_LETTERS = {"H": "S", "F": "I"}


def render_case(page: CasePage, *, paper: bool = False) -> str:
    """The page as HTML text.

    Parameters
    ----------
    page : CasePage
    paper : bool
        For a PDF: without forms, scripts and what is folded away on a screen.

    Raises
    ------
    ValueError
        A structure's colour is not "#rrggbb".
    """
    check_colours(page.structures)
    words = Words(page.language)
    style, scripts = _style(page, paper=paper), _scripts(page, paper=paper)
    matrix, reasons = checks.check_matrix(page, words)
    template = plain_environment().get_template("case_report.html.j2")
    return template.render(
        page=page,
        case=page.case,
        record=page.case.record,
        words=words,
        t=words.t,
        paper=paper,
        policy=_policy(page, style, scripts),
        style=Markup(style),
        scripts=[Markup(script) for script in scripts],
        data=json_block(case_data(page)),
        version=__version__,
        styles={s.name: f"k{index}" for index, s in enumerate(page.structures)},
        colours={s.name: s.colour for s in page.structures},
        labels=_drawn(page),
        flags=checks.flag_rows(page, words),
        counts=_counts(page.case.record),
        matrix=matrix,
        reasons=[(words.said(why), where) for why, where in reasons],
        structures=tables.structure_table(page, words),
        targets=targets_table(page, words),
        inputs=checks.input_rows(page, words),
        ratios=tables.ratio_rows(page, words),
        notes=tables.listed(_notes(page.case.record, page.case.notes), words),
        agreement=comparison.agreement_table(page, words),
        confidence=tables.confidence_table(page, words),
        change=comparison.change_table(page, words),
        hand_off=hand_off(page),
        has_reference=any(c.reference for c in _contours(page)),
        webp=_webp,
        letters=lambda pic: [(side, _DICOM_LETTERS.get(letter, letter)) for side, letter in pic.letters],
        times=_times(page.stages),
        rank=_rank_place(page.case.record["gate"]),
    )


def case_data(page: CasePage) -> dict[str, Any]:
    """All numbers of the page: measurements.json and the evaluation of the case, and its table as CSV."""
    case = page.case
    return {
        "schema": SCHEMA,
        "case_id": case.case_id,
        "patient": case.patient,
        "date": page.date,
        "language": page.language,
        "pipeline": page.pipeline,
        "run": page.run,
        "settings_sha256": page.settings_sha256,
        "verdict": case.verdict,
        "measurements": case.record,
        "evaluation": case.evaluation,
        "previous": None
        if page.previous is None
        else {"case_id": page.previous.case_id, "date": page.previous.date},
        "files": dict(case.files),
        "table": rows_to_csv(measurement_rows(case.record)),
    }


def measurement_rows(record: Json) -> list[dict[str, Cell]]:
    """Rows of measurements.csv, made from measurements.json."""
    measures = record["measurements"]
    named = [(s, m, q) for s, item in measures["structures"].items() for m, q in item["quantities"].items()]
    named += [("", name, quantity) for name, quantity in measures["ratios"].items()]
    rows = []
    for structure, measure, quantity in named:
        about: dict[str, Cell] = {"case_id": measures["case_id"], "structure": structure}
        rows.append({**about, "measure": measure, **{key: quantity[key] for key in _CSV}})
        for end in ("low", "high") if quantity.get("interval") else ():
            rows.append({**about, "measure": f"{measure}_{quantity['unit']}_{end}", **_end(quantity, end)})
        if quantity.get("interval"):
            rows.append({**about, "measure": "interval", **_level(quantity["interval"])})
    return rows


def _end(quantity: Json, end: str) -> dict[str, Cell]:
    """An end of the interval of a size, as a row of measurements.csv has it."""
    interval = quantity["interval"]
    value, unit = interval[end], quantity["unit"]
    if value is None:
        return {
            "value": None,
            "unit": unit,
            "bound": "exact",
            "reason": interval.get("reason", ""),
            "note": "",
        }
    note = f"{100 * interval['level']:g} % interval"
    return {"value": value, "unit": unit, "bound": "exact", "reason": "", "note": note}


def _level(interval: Json) -> dict[str, Cell]:
    """The level of an interval, as a row of measurements.csv has it."""
    about = {"unit": "1", "bound": "exact", "reason": interval.get("reason", ""), "note": ""}
    return {"value": interval["level"], **about}


def json_block(value: Any) -> Markup:
    """JSON that no HTML parser can end or take for markup."""
    text = json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    for sign in "<>&":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return Markup(text)


def _style(page: CasePage, *, paper: bool) -> str:
    rules = []
    for index, structure in enumerate(page.structures):
        rules.append(f".k{index}{{--c:{structure.colour}}}")
        if paper:
            continue
        rules.append(f"body:has(#s{index}:not(:checked)) .film .k{index}{{display:none}}")
    parts = [_asset("case_report.css"), "\n".join(rules)]
    if paper:
        parts.append(_asset("case_paper.css"))
    elif page.viewer is not None:
        parts.append(page.viewer.style)
    return "\n".join(parts) + "\n"


def _scripts(page: CasePage, *, paper: bool) -> list[str]:
    if paper:
        return []
    return [_asset("case_report.js"), *(() if page.viewer is None else page.viewer.scripts)]


def _policy(page: CasePage, style: str, scripts: Sequence[str]) -> str:
    more = {} if page.viewer is None else page.viewer.policy
    allowed = [f"'{_digest(script)}'" for script in scripts]
    allowed += [f"'{digest}'" for digest in (() if page.viewer is None else page.viewer.script_hashes)]
    sources = {
        "default-src": "'none'",
        "base-uri": "'none'",
        "form-action": "'none'",
        "img-src": "data:",
        "style-src": f"'{_digest(style)}'",
        "script-src": " ".join(allowed) or "'none'",
    }
    for directive, added in more.items():
        sources[directive] = f"{sources.get(directive, '')} {added}".strip()
    return "; ".join(f"{directive} {source}" for directive, source in sources.items())


def _asset(name: str) -> str:
    return (resources.files("medseg.report") / "templates" / name).read_text(encoding="utf-8")


def _digest(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode("ascii")


def _webp(picture: Strip | Picture) -> str:
    return "data:image/webp;base64," + base64.b64encode(picture.webp).decode("ascii")


def _contours(page: CasePage) -> list[Contour]:
    pictures: list[Strip | Picture] = [*page.strips, *page.case.pictures]
    return [c for picture in pictures for c in picture.contours]


def _drawn(page: CasePage) -> list[tuple[int, str, str]]:
    """Number, name and name for people of the labels that some picture shows."""
    shown = {contour.structure for contour in _contours(page)}
    return [
        (index, s.name, structure_name(page.language, s.name))
        for index, s in enumerate(page.structures)
        if s.kind == "label" and s.name in shown
    ]


def _counts(record: Json) -> dict[str, int]:
    """Flags by level, and checks that passed or were not judged."""
    counts = Counter(str(flag["level"]) for flag in record["flags"])
    outcomes = Counter(check["outcome"] for check in record["checks"])
    return {v: counts[v] for v in VERDICTS} | {
        "passed": outcomes["passed"],
        "not_judged": outcomes["not judged"],
    }


def _notes(record: Json, more: Sequence[str]) -> list[str]:
    found = [*record["notes"], *record["measurements"]["notes"], *record.get("export_notes", ()), *more]
    return list(dict.fromkeys(found))


def _times(stages: Sequence[Json]) -> list[Mapping[str, Any]]:
    """Place and width of each stage in a bar 600 wide."""
    total = sum(float(stage["seconds"]) for stage in stages) or 1.0
    made: list[Mapping[str, Any]] = []
    start = 0.0
    for index, stage in enumerate(stages):
        width = 600 * float(stage["seconds"]) / total
        made.append(
            {**stage, "x": round(start, 1), "width": round(max(width - 1, 0.5), 1), "style": index % 6}
        )
        start += width
    return made


def _rank_place(gate: Json) -> float | None:
    """Where the image lies among the training images, 0..400 of the picture; None where it is not known."""
    rank = gate.get("percentile")
    return None if rank is None else round(10 + 3.8 * min(max(float(rank), 0.0), 100.0), 1)
