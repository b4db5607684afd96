"""A case against others: agreement with the reference, change since the previous examination."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from markupsafe import Markup

from medseg.evaluation.definitions import DEFINITIONS
from medseg.evaluation.metric_values import WHY_NOT
from medseg.evaluation.overlap import State
from medseg.report.case_data import CasePage
from medseg.report.case_tables import Cell, Column, Content, Row, Table, share_bar
from medseg.report.language import days_between
from medseg.report.page import Json
from medseg.report.words import Words


def agreement_table(page: CasePage, words: Words) -> tuple[Table, list[str]] | None:
    """Metrics of every structure, and their definitions; None without a reference."""
    evaluation = page.case.evaluation
    if evaluation is None:
        return None
    structures: Mapping[str, Json] = evaluation["structures"]
    keys = list(dict.fromkeys(key for item in structures.values() for key in item["metrics"]))
    columns, definitions = [], []
    for key in keys:
        base = key.removesuffix("_pixels").removesuffix("_voxels")
        known = DEFINITIONS.get(base)
        title = words.metric(base, base.replace("_", " ") if known is None else known.title)
        unit = next(i["metrics"][key]["unit"] for i in structures.values() if key in i["metrics"])
        shown = {"1": "", "mm2": "cm²", "ml": "mL"}.get(unit, words.t.get(f"unit.{unit}", unit))
        columns.append(Column(title=title, note=shown))
        if known is not None:
            definitions.append(f"{title}{words.t['colon']}{words.said(known.definition)}")
    rows = []
    for name, item in structures.items():
        state: State = item["state"]
        cells = [_metric_cell(item["metrics"].get(key), words, state=state) for key in keys]
        note = "" if state == "judged" else words.t.get(f"state.{state}", state.replace("_", " "))
        rows.append(Row(structure=name, code=note, cells=cells))
    return Table(columns=columns, rows=rows), [Markup(d) for d in definitions]


def _metric_cell(metric: Json | None, words: Words, *, state: State) -> Cell:
    if metric is None or (metric["value"] is None and metric["reason"] == WHY_NOT.get(state)):
        # What holds for every metric of a structure stands beside its name.
        return Cell(text="–")
    value, unit = metric["value"], metric["unit"]
    if value is None:
        return Cell(text=words.t["not_defined"], small=words.said(metric["reason"]))
    small: Content = words.t["stands_for_miss"] if metric.get("worst_case") else ""
    if unit != "1":
        scaled = value / 100 if unit == "mm2" else value
        digits = 1 if abs(scaled) >= 0.1 or scaled == 0 else 3
        return Cell(text=f"{scaled:.{digits}f}".replace("-", "−"), small=small, sort=value)
    bar = share_bar((value - 0.8) / 0.2) if 0 <= value <= 1 else Markup("")
    return Cell(text=Markup("{}{}").format(f"{value:.3f}".replace("-", "−"), bar), small=small, sort=value)


def change_table(page: CasePage, words: Words) -> dict[str, Any] | None:
    """Sizes then and now against test-retest noise; None without an earlier examination."""
    previous = page.previous
    if previous is None:
        return None
    measure = "area" if page.flat else "volume"
    earlier = previous.record["measurements"]["structures"]
    rows = []
    for name, item in page.case.record["measurements"]["structures"].items():
        then = earlier.get(name, {}).get("quantities", {}).get(measure)
        now = item["quantities"].get(measure)
        if then is None and now is None:
            continue
        noise = page.test_retest_percent.get(name, page.test_retest_percent.get("other"))
        rows.append(Row(structure=name, code="", cells=_change_cells(then, now, noise, words)))
    t, unit = words.t, words.t[f"col.{measure}"]
    columns = [
        Column(title=f"{t['change.then']} ({unit})"),
        Column(title=f"{t['change.now']} ({unit})"),
        Column(title=t["change.change"]),
        Column(title=t["change.noise"]),
        Column(title=t["change.verdict"], numeric=False),
    ]
    days = days_between(previous.date, page.date)
    model, old = page.case.record["model"], previous.record["model"]
    return {
        "table": Table(columns=columns, rows=rows),
        "date": words.date(previous.date) if previous.date else "",
        "days": days,
        "case_id": previous.case_id,
        "other_model": model["weights_sha256"] != old["weights_sha256"],
    }


def _change_cells(then: Json | None, now: Json | None, noise: float | None, words: Words) -> list[Cell]:
    t = words.t
    sizes = [Cell(text=words.size(q) if q else t["absent"]) for q in (then, now)]
    limit = Cell(text="–" if noise is None else f"± {noise:g} %")
    reason = ""
    if then is None or now is None or then["value"] is None or now["value"] is None or not then["value"]:
        reason = t["change.absent"]
    elif "exact" not in (then["bound"],) or now["bound"] != "exact":
        reason = t["change.cut_off"]
    elif then["unit"] != now["unit"]:
        reason = t["change.units"]
    if reason or then is None or now is None:
        return [*sizes, Cell(text="–"), limit, Cell(text=t["not_judged"], small=reason, level="none")]
    change = 100 * (now["value"] - then["value"]) / then["value"]
    said = Cell(text=f"{change:+.1f} %".replace("-", "−"), sort=change)
    if noise is None:
        return [*sizes, said, limit, Cell(text=t["not_judged"], small=t["change.no_noise"], level="none")]
    beyond = abs(change) > noise
    verdict = Cell(
        text=t["change.beyond" if beyond else "change.within"], level="review" if beyond else "pass"
    )
    return [*sizes, said, limit, verdict]
