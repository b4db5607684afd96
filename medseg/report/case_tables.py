"""Tables of the page of one case: what a table is, structures, confidence, ratios."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

from medseg.report.case_data import LEAST_COHORT, CasePage
from medseg.report.page import VERDICTS, Json, Verdict
from medseg.report.words import Words

Content = str | Markup


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
    status = _status(record, name, words)
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


def _status(record: Json, name: str, words: Words) -> Cell:
    """The worst flag of a structure; a region that no check looked at has none."""
    levels = {flag["level"] for flag in record["flags"] if name in flag["structure"].split("/")}
    looked = any(name in check["structure"].split("/") for check in record["checks"])
    if not levels and not looked:
        return Cell(text="–")
    level: Verdict = next((v for v in VERDICTS if v in levels), "pass")
    return Cell(text=words.t[f"verdict.{level}"], level=level, sort=float(VERDICTS.index(level)))


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
