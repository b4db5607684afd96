"""The page of a cohort: one HTML file without outside references, readable without scripts.

The Content-Security-Policy allows nothing but the page's own style sheet and script, each by its SHA-256,
and pictures in the page. What files say is escaped by the template; should that ever fail, the browser
still refuses to run it.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
import re
from collections import Counter
from collections.abc import Sequence
from importlib import resources
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from medseg import __version__
from medseg.evaluation.rows import rows_to_csv
from medseg.privacy import safe_name
from medseg.report import figures
from medseg.report.page import VERDICTS, CaseReport, CohortReport, Json, Structure
from medseg.report.search import search_part
from medseg.report.targets import targets_part
from medseg.report.text import metric_text, number, quantity_text, statistic_cell, step_text

_COLOUR = re.compile(r"^#[0-9a-fA-F]{6}$")
RESEARCH = "For research use only. Not a medical device; not for diagnosis or treatment."


def render(report: CohortReport) -> str:
    """The page as HTML text.

    Parameters
    ----------
    report : CohortReport

    Raises
    ------
    ValueError
        A structure's colour is not "#rrggbb".
    """
    style, script = _asset("style.css") + _colours(report), _asset("report.js")
    environment = Environment(
        loader=PackageLoader("medseg.report", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"number": number, "quantity": quantity_text, "nice": _nice}
    return environment.get_template("report.html.j2").render(
        report=report,
        cases=report.ordered,
        policy=(
            f"default-src 'none'; base-uri 'none'; form-action 'none'; img-src data:; "
            f"style-src '{_digest(style)}'; script-src '{_digest(script)}'"
        ),
        style=Markup(style),
        script=Markup(script),
        data=_json_block(page_data(report)),
        version=__version__,
        research=RESEARCH,
        verdicts=VERDICTS,
        counts=Counter(case.verdict for case in report.cases),
        codes=_codes(report.cases),
        styles={s.name: f"k{index}" for index, s in enumerate(report.structures)},
        anchor=anchor,
        webp=lambda picture: "data:image/webp;base64," + base64.b64encode(picture.webp).decode("ascii"),
        cell=statistic_cell,
        metric=metric_text,
        metrics=_metrics(report.summary),
        dice=_dice_plot(report),
        sizes=_size_plots(report),
        curves=_curves(report),
        search=search_part(report.search) if report.search is not None else None,
        targets=targets_part(report.detection) if report.detection is not None else None,
        measured=_measured(report.cases),
        cleaned=_cleaned(report.cleaning),
    )


def anchor(case_id: str) -> str:
    """Link target of a case's section."""
    return f"case-{safe_name(case_id)}"


def page_data(report: CohortReport) -> dict[str, Any]:
    """All numbers of the page: measurements.json of each case and the files of evaluation/, patients as pseudonyms."""
    return {
        "schema": "medseg.report/1",
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
        ],
        "summary": report.summary,
        "detection": report.detection,
        "table": rows_to_csv(table_rows(report)),
    }


def table_rows(report: CohortReport) -> list[dict[str, str | int | float | None]]:
    """Rows of the CSV that the page saves: every measurement and metric of every case."""
    rows: list[dict[str, str | int | float | None]] = []
    for case in report.ordered:
        head = {"case_id": case.case_id, "split": case.split, "verdict": case.verdict}
        for structure, measure, value in case_numbers(case):
            rows.append(
                {
                    **head,
                    "structure": structure,
                    "measure": measure,
                    "value": value["value"],
                    "unit": value["unit"],
                    "bound": value.get("bound", ""),
                    "reason": value["reason"],
                    "note": value.get("note", ""),
                }
            )
    return rows


def case_numbers(case: CaseReport) -> list[tuple[str, str, Json]]:
    """(structure, name, quantity) of all measurements, ratios and metrics of a case."""
    measures = case.record["measurements"]
    found = [(s, n, q) for s, item in measures["structures"].items() for n, q in item["quantities"].items()]
    found += [("", name, quantity) for name, quantity in measures["ratios"].items()]
    for structure, item in (case.evaluation or {"structures": {}})["structures"].items():
        found += [(structure, name, value) for name, value in item["metrics"].items()]
    return found


def _asset(name: str) -> str:
    return (resources.files("medseg.report") / "templates" / name).read_text(encoding="utf-8")


def _digest(text: str) -> str:
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


def _json_block(value: Any) -> Markup:
    """JSON that no HTML parser can end or take for markup."""
    text = json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    for sign in "<>&":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return Markup(text)


def _nice(name: str) -> str:
    return name.replace("_", " ")


def _codes(cases: Sequence[CaseReport]) -> list[tuple[str, str, dict[str, int]]]:
    """Flag codes with title and the number of cases by level."""
    titles: dict[str, str] = {}
    counts: Counter[tuple[str, str]] = Counter()
    for case in cases:
        titles |= {flag["code"]: flag["title"] for flag in case.record["flags"]}
        counts.update({(flag["code"], flag["level"]) for flag in case.record["flags"]})
    return [(code, titles[code], {v: counts[code, v] for v in VERDICTS}) for code in sorted(titles)]


def _metrics(summary: Json | None) -> list[tuple[str, str, str]]:
    """(key, title, definition) of every metric that any structure has, in order."""
    if summary is None:
        return []
    keys = dict.fromkeys(key for metrics in summary["structures"].values() for key in metrics)
    found = []
    for key in keys:
        base = key.removesuffix("_pixels").removesuffix("_voxels")
        definition = summary["definitions"].get(base, {"title": _nice(base), "definition": ""})
        unit = next(m[key]["unit"] for m in summary["structures"].values() if key in m)
        shown = "" if unit == "1" else f", {unit.replace('mm2', 'cm²')}"
        found.append((key, f"{definition['title']}{shown}", definition["definition"]))
    return found


def _dot(case: CaseReport, value: float, text: str, across: float = 0.0) -> figures.Dot:
    link = anchor(case.case_id) if case.section else ""
    return figures.Dot(value=value, name=f"{case.case_id}: {text}", link=link, across=across)


def _dice_plot(report: CohortReport) -> Markup | None:
    if report.summary is None or not any("dice" in m for m in report.summary["structures"].values()):
        return None
    required = {
        r["structure"]: r["required"] for r in report.summary["requirements"] if r["metric"] == "dice"
    }
    strips = []
    for index, structure in enumerate(report.structures):
        statistic = report.summary["structures"].get(structure.name, {}).get("dice")
        if statistic is None:
            continue
        dots = []
        for case in report.ordered:
            found = (case.evaluation or {"structures": {}})["structures"].get(structure.name)
            value = None if found is None else found["metrics"].get("dice", {}).get("value")
            if value is not None:
                dots.append(_dot(case, value, f"{value:.3f}"))
        strips.append(
            figures.Strip(
                name=structure.name,
                style=f"k{index}",
                dots=dots,
                mean=statistic["mean"],
                interval=statistic["mean_interval"],
                required=required.get(structure.name),
            )
        )
    return figures.strip_plot(strips, title="Dice") if strips else None


def _size_plots(report: CohortReport) -> dict[str, Any]:
    """Bland-Altman plots of area or volume by structure, and which cases could not be drawn for want of a spacing."""
    plots, unsized = [], set()
    spacings = [case.record["measurements"]["spacing_mm"] for case in report.ordered]
    volumes = any(spacing is not None and len(spacing) == 3 for spacing in spacings)
    axes, divisor, unit, digits = (3, 1000, "mL", 2) if volumes else (2, 100, "cm²", 1)
    for index, structure in enumerate(report.structures):
        dots = []
        for case in report.ordered:
            found = (case.evaluation or {"structures": {}})["structures"].get(structure.name)
            spacing = case.record["measurements"]["spacing_mm"]
            if found is None or found["state"] == "not_judged" or found["state"] == "both_empty":
                continue
            if spacing is None or len(spacing) != axes:
                unsized.add(case.case_id)
                continue
            voxel = math.prod(spacing) / divisor
            counts = found["counts"]
            predicted, reference = (counts["tp"] + counts[k] for k in ("fp", "fn"))
            mine, theirs = predicted * voxel, reference * voxel
            text = f"{mine:.{digits}f} {unit}, reference {theirs:.{digits}f} {unit}"
            dots.append(_dot(case, mine - theirs, text, (mine + theirs) / 2))
        if dots:
            plots.append(figures.bland_altman(dots, title=structure.name, style=f"k{index}", unit=unit))
    what = "volume" if volumes else "area"
    return {"plots": plots, "unsized": sorted(unsized), "what": what, "unit": unit}


def _curves(report: CohortReport) -> list[Markup]:
    series = report.fold_curves or {"": report.curve}
    drawn = (
        figures.curves(series, column="loss", title="Training loss", style="loss"),
        figures.curves(series, column="dice", title="Validation Dice", style="dice"),
    )
    return [figure for figure in drawn if figure is not None]


def _measured(cases: Sequence[CaseReport]) -> list[str]:
    """Structures and ratios that the table of cases has a column for: first size of each label, ratios with a value."""
    ratios = dict.fromkeys(
        name
        for case in cases
        for name, quantity in case.record["measurements"]["ratios"].items()
        if quantity["value"] is not None
    )
    return list(ratios)


def _cleaned(cleaning: Json | None) -> Json | None:
    """What the table of the tuned clean-up says: the steps in words, Dice before and after."""
    if cleaning is None:
        return None
    return {
        "data": cleaning["data"],
        "tried": len(cleaning["tried"]),
        "steps": [step_text(step) for step in cleaning["steps"]],
        "rows": [
            (name, item["cases"], f"{item['before']:.4f}", f"{item['after']:.4f}")
            for name, item in cleaning["structures"].items()
        ],
    }
