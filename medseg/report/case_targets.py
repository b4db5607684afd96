"""The table of recognised targets of one case: every connected instance with its place, size, values and confidence."""

from __future__ import annotations

from markupsafe import Markup

from medseg.report.case_data import CasePage
from medseg.report.case_tables import Cell, Column, Content, Row, Table
from medseg.report.page import Json
from medseg.report.words import Words

MAX_TARGETS = 60
_SIZES = ("volume", "area", "long_axis", "short_axis")


def targets_table(page: CasePage, words: Words) -> tuple[Table, int] | None:
    """The largest targets, and how many are left out; None where none were asked for.

    Every number stands in measurements.json and instances.csv, those of targets that are left out here, too.
    """
    found = page.case.record.get("instances")
    if found is None:
        return None
    items = sorted(found["instances"], key=lambda item: (item["structure"], -item["voxels"]))
    shown, t = items[:MAX_TARGETS], words.t
    sizes = [key for key in _SIZES if any(key in item["quantities"] for item in shown)]
    columns = [
        Column(title=t["target.number"]),
        Column(title=t["target.place"], numeric=False),
        *(Column(title=t[f"col.{key}"]) for key in sizes),
        Column(title=t["col.intensity"]),
        Column(title=t["col.confidence"]),
    ]
    rows = [Row(structure=item["structure"], code="", cells=_cells(item, sizes, words)) for item in shown]
    return Table(columns=columns, rows=rows), len(items) - len(shown)


def _cells(item: Json, sizes: list[str], words: Words) -> list[Cell]:
    quantities = item["quantities"]
    confidence = quantities.get("confidence")
    cells = [
        Cell(text=str(item["number"]), sort=float(item["number"])),
        Cell(text=place_text(item["place"], words), small=_coordinates(item)),
    ]
    cells += [_quantity(quantities.get(key), words) for key in sizes]
    cells.append(_quantity(quantities.get("mean_intensity"), words))
    known = confidence is not None and confidence["value"] is not None
    return [
        *cells,
        Cell(text=f"{confidence['value']:.2f}", sort=confidence["value"]) if known else Cell(text="–"),
    ]


def _quantity(quantity: Json | None, words: Words) -> Cell:
    if quantity is None or quantity["value"] is None:
        return Cell(text="–")
    return Cell(text=words.size(quantity), sort=quantity["value"])


def _coordinates(item: Json) -> str:
    """Centroid in the patient: letters and millimetres."""
    if not item.get("centroid_mm"):
        return ""
    letters = (("R", "L"), ("A", "P"), ("S", "I"))
    return (
        " ".join(
            f"{pair[0] if value >= 0 else pair[1]} {abs(value):.0f}"
            for pair, value in zip(letters, item["centroid_mm"], strict=False)
        )
        + " mm"
    )


def place_text(place: Json, words: Words) -> Content:
    """Side, third and nearest structure in words."""
    t, said = words.t, []
    if place["side"] is not None:
        of_image = place["side_of"] == "image"
        said.append(t[f"target.{'image' if of_image else 'side'}.{place['side']}"])
    if place["third"] is not None:
        said.append(t[f"target.{place['third']}"])
    if place["nearest"] is not None and place["nearest_mm"] is not None:
        distance = f"{place['nearest_mm']:.1f}"
        said.append(t["target.nearest"].format(structure=words.structure(place["nearest"]), mm=distance))
    return t["comma"].join(said) or Markup("–")
