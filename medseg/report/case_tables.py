"""Tables of the page of one case: structures, checks, agreement, confidence, change."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup, escape

from medseg.evaluation.definitions import DEFINITIONS
from medseg.report.case_data import LEAST_COHORT, CasePage, flag_key
from medseg.report.language import days_between
from medseg.report.page import VERDICTS, Json, Verdict
from medseg.report.text import number
from medseg.report.words import Words

Content = str | Markup
_SEVERITY = ("none", "pass", "note", "review", "fail")
_OPPOSITE = {"R": "L", "L": "R", "A": "P", "P": "A", "S": "I", "I": "S", "H": "F", "F": "H"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """Heading of a column; numbers stand on the right."""

    title: str
    numeric: bool = True
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """A cell: what it says, a line in small letters, and the number that it is sorted by."""

    text: Content = ""
    small: Content = ""
    sort: float | None = None
    level: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A structure and its cells."""

    structure: str
    code: str
    cells: Sequence[Cell]


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """Columns after the first, which names the structure, and rows."""

    columns: Sequence[Column]
    rows: Sequence[Row]


def structure_table(page: CasePage, words: Words) -> Table:
    """Size, rank, ratio, intensity, form and confidence of every structure, and its worst flag.

    A column in which no structure has anything is left out.
    """
    t, flat = words.t, page.flat
    found = {
        name: _structure_cells(page, words, name) for name in page.case.record["measurements"]["structures"]
    }
    size = "area" if flat else "volume"
    columns = {
        "size": Column(title=t[f"col.{size}"]),
        "interval": Column(title=t["col.interval"]),
        "strip": Column(title=t["col.cohort"], numeric=False),
        "percentile": Column(title=t["col.percentile"]),
        "ratio": Column(title=t["col.ratio"]),
        "intensity": Column(title=t["col.intensity"]),
        "long_axis": Column(title=t["col.long_axis"]),
        "width": Column(title=t["col.width"]),
        "parts": Column(title=t["col.parts"]),
        "holes": Column(title=t["col.holes"]),
        "confidence": Column(title=t["col.confidence"]),
        "status": Column(title=t["col.status"], numeric=False),
    }
    kept = [key for key in columns if any(cells.get(key) for cells in found.values())]
    rows = [
        Row(
            structure=name,
            code=page.codes.get(name, ""),
            cells=[cells.get(key) or Cell(text="–") for key in kept],
        )
        for name, cells in found.items()
    ]
    return Table(columns=[columns[key] for key in kept], rows=rows)


def _structure_cells(page: CasePage, words: Words, name: str) -> dict[str, Cell]:
    record = page.case.record
    item = record["measurements"]["structures"][name]
    status = _status(record["flags"], name, words)
    if item["state"] == "absent":
        return {"size": Cell(text=words.t["absent"]), "status": status}
    quantities = item["quantities"]
    size = quantities.get("area" if page.flat else "volume")
    cells = {"size": _size_cell(size, words), "status": status}
    cells |= _rank_cells(page, words, name, size)
    interval = _interval(size, words)
    if interval:
        cells["interval"] = interval
    for key in ("long_axis", "width"):
        if quantities.get(key) and quantities[key]["value"] is not None:
            cells[key] = Cell(text=words.size(quantities[key]), sort=quantities[key]["value"])
    ratio = _ratio(record["measurements"]["ratios"], name, words)
    if ratio is not None:
        cells["ratio"] = ratio
    cells |= _intensity_cell(quantities, words) | _form_cells(item, record, words)
    confidence = record.get("confidence", {}).get(name, {}).get("mean_probability")
    if confidence is not None:
        cells["confidence"] = Cell(text=f"{confidence:.2f}", sort=confidence)
    return cells


def _size_cell(size: Json | None, words: Words) -> Cell:
    if size is None:
        return Cell(text=words.t["not_measured"])
    small = words.t["cut_off"] if size.get("bound", "exact") != "exact" else ""
    return Cell(text=words.size(size), small=small, sort=size["value"])


def _interval(size: Json | None, words: Words) -> Cell | None:
    """The interval of a size where the model gives one."""
    found = None if size is None else size.get("interval")
    if (
        not isinstance(found, Mapping)
        or found.get("low") is None
        or found.get("high") is None
        or size is None
    ):
        return None
    low, high = (words.amount(found[end], size["unit"]) for end in ("low", "high"))
    level = found.get("level")
    return Cell(text=f"{low} – {high}", small="" if level is None else f"{level:.0%}")


def _rank_cells(page: CasePage, words: Words, name: str, size: Json | None) -> dict[str, Cell]:
    if page.cohort is None or size is None or size["value"] is None:
        return {}
    values = sorted(page.cohort.values.get(name, ()))
    if len(values) < LEAST_COHORT:
        return {}
    if size.get("bound", "exact") != "exact":
        return {"percentile": Cell(text=words.t["not_ranked"], small=words.t["cut_off"])}
    rank = percentile(values, size["value"])
    edge = 100 / len(values)
    shown = f"> {100 - edge:.0f}" if rank > 100 - edge else f"< {edge:.0f}" if rank < edge else f"{rank:.0f}"
    label = words.t["strip.label"].format(structure=words.structure(name), percentile=shown)
    return {
        "percentile": Cell(text=shown, small=f"n = {len(values)}", sort=rank),
        "strip": Cell(text=_cohort_strip(values, size["value"], label=label)),
    }


def percentile(values: Sequence[float], value: float) -> float:
    """Share of sorted values below one, those equal to it counted half; 0..100."""
    below, upto = bisect_left(values, value), bisect_right(values, value)
    return 100 * (below + upto) / 2 / len(values)


def _cohort_strip(values: Sequence[float], value: float, *, label: str) -> Markup:
    """Middle 95 % as a line, quartiles as a bar, the median as a stroke, the case as a dot."""
    edges = [
        values[min(round(q * (len(values) - 1)), len(values) - 1)] for q in (0.025, 0.25, 0.5, 0.75, 0.975)
    ]
    low, high = min(edges[0], value), max(edges[-1], value)
    span = (high - low) or 1.0
    x = [6 + 98 * (v - low) / span for v in (*edges, value)]
    return Markup(
        '<svg class="rank" viewBox="0 0 110 18" role="img" aria-label="{}">'
        '<path class="whisker" fill="none" stroke="#5a6876" d="M{:.1f} 9H{:.1f}"/>'
        '<path class="box" stroke="#8794a3" stroke-width="6" d="M{:.1f} 9H{:.1f}"/>'
        '<path class="median" stroke="#18222d" d="M{:.1f} 4v10"/>'
        '<circle fill="#2f5fa5" cx="{:.1f}" cy="9" r="4"/></svg>'
    ).format(label, x[0], x[4], x[1], x[3], x[2], x[5])


def _ratio(ratios: Json, name: str, words: Words) -> Cell | None:
    """The ratio of a pair, beside both its members."""
    for pair, quantity in ratios.items():
        if name in pair.split("/") and "/" in pair and quantity["value"] is not None:
            small = words.t["cut_off"] if quantity.get("bound", "exact") != "exact" else ""
            return Cell(text=words.size(quantity), small=small, sort=quantity["value"])
    return None


def _intensity_cell(quantities: Json, words: Words) -> dict[str, Cell]:
    mean, spread = quantities.get("mean_intensity"), quantities.get("sd_intensity")
    if mean is None or mean["value"] is None:
        return {}
    unit = "" if mean["unit"] == "1" else f" {mean['unit']}"
    deviation = "" if spread is None or spread["value"] is None else f" ± {spread['value']:.0f}"
    wide = 0.0 if spread is None or spread["value"] is None else float(spread["value"])
    digits = 0 if max(abs(mean["value"]), wide) >= 10 else 2
    said = f"{mean['value']:.{digits}f}{deviation}{unit}".replace("-", "−")
    return {"intensity": Cell(text=said, sort=mean["value"])}


def _form_cells(item: Json, record: Json, words: Words) -> dict[str, Cell]:
    shape = item.get("shape")
    if shape is None:
        return {}
    cells = {"parts": Cell(text=str(shape["parts"]), sort=shape["parts"])}
    spacing = record["measurements"]["spacing_mm"]
    if shape["hole_voxels"]:
        size, unit = float(shape["hole_voxels"]), "pixels" if len(record["image"]["shape"]) == 2 else "voxels"
        if spacing is not None:
            for step in spacing:
                size *= step
            unit = "mm2" if len(spacing) == 2 else "ml"
            size = size / 1000 if unit == "ml" else size
        cells["holes"] = Cell(text=words.amount(size, unit), sort=size)
    else:
        cells["holes"] = Cell(text="0", sort=0.0)
    return cells


def _status(flags: Sequence[Json], name: str, words: Words) -> Cell:
    levels = {flag["level"] for flag in flags if name in flag["structure"].split("/")}
    level: Verdict = next((v for v in VERDICTS if v in levels), "pass")
    return Cell(text=words.t[f"verdict.{level}"], level=level, sort=float(VERDICTS.index(level)))


def check_matrix(page: CasePage, words: Words) -> tuple[Table, list[tuple[str, str]]]:
    """How every check of every structure ended, and why some were not judged.

    Returns
    -------
    table : Table
        A row for each structure and one for the whole image.
    reasons : list of (str, str)
        Reason, and the checks that it holds for.
    """
    record, t = page.case.record, words.t
    flags = record["flags"]
    codes = sorted({check["code"] for check in record["checks"]})
    cells: dict[str, dict[str, Cell]] = {}
    reasons: dict[str, list[str]] = {}
    for check in record["checks"]:
        code = check["code"]
        for name in check["structure"].split("/"):
            level = _flag_level(flags, code, check["structure"]) if check["outcome"] == "flagged" else ""
            said = t[f"verdict.{level}"] if level else t[f"outcome.{check['outcome']}"]
            cell = Cell(text=said, level=level or {"passed": "pass"}.get(check["outcome"], "none"))
            row = cells.setdefault(name, {})
            # Several parts of one check: the worst of them stands for all.
            row[code] = max(row.get(code, cell), cell, key=_severity)
        if check["reason"]:
            part = check.get("part", "")
            where = f"{code} {words.said(part) if part else words.structure(check['structure'])}"
            reasons.setdefault(check["reason"], []).append(where)
    order = [name for name in record["measurements"]["structures"] if name in cells]
    order += [name for name in cells if name not in order]
    rows = [
        Row(structure=name, code="", cells=[cells[name].get(code) or Cell(text="–") for code in codes])
        for name in order
    ]
    columns = [Column(title=code, note=code_title(record, code, words), numeric=False) for code in codes]
    return Table(columns=columns, rows=rows), [
        (why, t["comma"].join(dict.fromkeys(w))) for why, w in reasons.items()
    ]


def _severity(cell: Cell) -> int:
    return _SEVERITY.index(cell.level)


def code_title(record: Json, code: str, words: Words) -> str:
    """What a code is about."""
    given = next((c["title"] for c in (*record["flags"], *record["checks"]) if c["code"] == code), code)
    return words.t.get(f"code.{code}", given)


def _flag_level(flags: Sequence[Json], code: str, structure: str) -> Verdict:
    levels = {f["level"] for f in flags if f["code"] == code and f["structure"] == structure}
    return next((v for v in VERDICTS if v in levels), "review")


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
        cells = [_metric_cell(item["metrics"].get(key), words) for key in keys]
        state = item["state"]
        note = "" if state == "judged" else words.t.get(f"state.{state}", state.replace("_", " "))
        rows.append(Row(structure=name, code=note, cells=cells))
    return Table(columns=columns, rows=rows), [Markup(d) for d in definitions]


def _metric_cell(metric: Json | None, words: Words) -> Cell:
    if metric is None:
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


def share_bar(share: float) -> Markup:
    """A small bar, 0 to 1."""
    width = 56 * min(max(share, 0.0), 1.0)
    return Markup(
        '<svg class="share" viewBox="0 0 56 6" aria-hidden="true">'
        '<rect class="rail" fill="#dde3ea" width="56" height="6" rx="3"/>'
        '<rect class="bar" fill="#2f5fa5" width="{:.1f}" height="6" rx="3"/></svg>'
    ).format(width)


def confidence_table(page: CasePage, words: Words) -> Table | None:
    """How sure the network was of each structure."""
    known: Mapping[str, Json] = page.case.record.get("confidence") or {}
    if not known:
        return None
    t = words.t
    wanted = ("mean_probability", "uncertain_core", "uncertain_share", "entropy", "disagreement")
    kept = [key for key in wanted if any(key in values for values in known.values())]
    shares = {"uncertain_core", "uncertain_share"}
    rows = []
    for name, values in known.items():
        cells = []
        for key in kept:
            value = values.get(key)
            if value is None:
                cells.append(Cell(text="–"))
                continue
            said = f"{100 * value:.0f} %" if key in shares else f"{value:.2f}"
            cells.append(Cell(text=Markup("{}{}").format(said, share_bar(value)), sort=value))
        rows.append(Row(structure=name, code="", cells=cells))
    return Table(columns=[Column(title=t[f"confidence.{key}"]) for key in kept], rows=rows)


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


def flag_rows(page: CasePage, words: Words) -> list[dict[str, Any]]:
    """Flags, the worst first, in words."""
    record, flat = page.case.record, page.flat
    order = {level: index for index, level in enumerate(VERDICTS)}
    return [
        {
            "level": flag["level"],
            "code": flag["code"],
            "title": code_title(record, flag["code"], words),
            "structure": words.structure(flag["structure"]),
            "styles": [name for name in flag["structure"].split("/") if name],
            "text": words.said(flag["text"]),
            "measured": edges_cut(page, words, flag) or words.flag_number(flag, "measured", flat=flat),
            "limit": words.flag_number(flag, "limit", flat=flat),
            "advice": words.said(flag["advice"]),
            "picture": page.thumbnails.get(flag_key(flag)),
        }
        for flag in sorted(record["flags"], key=lambda flag: order[flag["level"]])
    ]


def edges_cut(page: CasePage, words: Words, flag: Json) -> str:
    """Edges of the image that cut a structure off, as directions of the patient; "" for other flags."""
    item = page.case.record["measurements"]["structures"].get(flag["structure"])
    if flag["code"] != "Q101" or item is None or not item.get("shape"):
        return ""
    record, axes = page.case.record["image"], dict(page.geometry).get("orientation", "")
    leads = list(axes) or [o[:1] for o in record.get("patient_orientation") or ()]
    found = []
    for face in item["shape"]["touches"]:
        axis, end = "ijk".index(face[0]), face.split()[-1]
        letter = leads[axis] if axis < len(leads) else ""
        letter = letter if end == "last" else _OPPOSITE.get(letter, "")
        found.append(words.t.get(f"edge.{letter}", str(words.said(face))))
    return words.t["comma"].join(dict.fromkeys(found))


def input_rows(page: CasePage, words: Words) -> list[tuple[Content, str, str, str]]:
    """What the input gate looked at: name, level, how it ended, measured value and limit."""
    record = page.case.record
    rows: list[tuple[Content, str, str, str]] = []
    for check in record["checks"]:
        if check["code"] != "Q402" or not check.get("part"):
            continue
        found = check["outcome"] == "flagged"
        level = _flag_level(record["flags"], "Q402", check["structure"]) if found else ""
        said = words.t[f"verdict.{level}"] if level else words.t[f"outcome.{check['outcome']}"]
        measured = ""
        if check.get("measured") is not None:
            measured = number(check["measured"])
            if check.get("limit") is not None:
                measured += f" ({number(check['limit'])})"
        rows.append(
            (words.said(check["part"]), level or {"passed": "pass"}.get(check["outcome"], ""), said, measured)
        )
    return rows


def ratio_rows(page: CasePage, words: Words) -> list[tuple[str, Content, Content]]:
    """Ratios with name, value and what to mind."""
    return [
        (
            words.measure(name) if page.flat else words.structure(name),
            words.size(q),
            words.said(q["note"]) if q.get("note") else "",
        )
        for name, q in page.case.record["measurements"]["ratios"].items()
        if q["value"] is not None or "/" not in name
    ]


def listed(texts: Sequence[str], words: Words) -> list[Markup]:
    """Sentences in the page's language, each once."""
    return [escape(words.said(text)) for text in dict.fromkeys(texts)]
