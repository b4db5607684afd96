"""What is told of a recognised target, and of all targets of a case."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from medseg.evaluation.instance_place import Place
from medseg.evaluation.quantities import Quantity
from medseg.evaluation.rows import Cell

FIRST_COLUMNS = ("case_id", "structure", "number", "voxels")
"""Header of a table without an instance."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Instance:
    """One connected object of a label or region.

    Parameters
    ----------
    structure : str
    kind : {"label", "region"}
    number : int
        From 1 in each structure of a case, the largest first.
    voxels : int
    box : tuple of (int, int)
        First and last voxel index along each axis, both inside.
    box_size_mm : tuple of float or None
        Its lengths along the voxel axes, outer edge to outer edge; None where the spacing is unknown.
    box_mm : tuple of (float, float) or None
        Least and largest x, y and z of its corners in RAS+ mm; None without an affine.
    centroid : tuple of float
        Mean voxel index.
    centroid_mm : (float, float, float) or None
        In RAS+ mm; None without an affine.
    plane : int or None
        Slice in which the axes were measured; None for pictures.
    cut_off : bool
        Whether it reaches the edge of the image.
    place : Place
    quantities : mapping of str to Quantity
        volume or area, long_axis, short_axis, mean_intensity, sd_intensity, confidence.
    """

    structure: str
    kind: Literal["label", "region"]
    number: int
    voxels: int
    box: tuple[tuple[int, int], ...]
    box_size_mm: tuple[float, ...] | None
    box_mm: tuple[tuple[float, float], ...] | None
    centroid: tuple[float, ...]
    centroid_mm: tuple[float, float, float] | None
    plane: int | None
    cut_off: bool
    place: Place
    quantities: Mapping[str, Quantity]

    @property
    def name(self) -> str:
        """Structure and number."""
        return f"{self.structure} {self.number}"

    @property
    def size(self) -> Quantity:
        """Its volume, or area of a picture."""
        return self.quantities["volume" if "volume" in self.quantities else "area"]

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        value = asdict(self)
        value["place"] = {**asdict(self.place), "text": self.place.text}
        value["quantities"] = {name: q.to_json() for name, q in self.quantities.items()}
        return value


def instance_row(item: Mapping[str, Any]) -> dict[str, Cell]:
    """An instance, as `Instance.to_json` gives it, as a row of a table; each index and coordinate in a column."""
    row: dict[str, Cell] = {name: item[name] for name in ("structure", "number", "voxels")}
    for name, quantity in item["quantities"].items():
        row[name] = quantity["value"]
        if name != "confidence":
            row[f"{name}_unit"] = quantity["unit"]
    for axis, index, (first, last) in zip("ijk", item["centroid"], item["box"], strict=False):
        row |= {f"centroid_{axis}": index, f"first_{axis}": first, f"last_{axis}": last}
    for axis, length in zip("ijk", item["box_size_mm"] or (), strict=False):
        row[f"box_{axis}_mm"] = length
    for axis, coordinate in zip("xyz", item["centroid_mm"] or (), strict=False):
        row[f"centroid_{axis}_mm"] = coordinate
    row |= {name: item["place"][name] for name in ("side", "side_of", "third", "nearest", "nearest_mm")}
    return row | {"plane": item["plane"], "cut_off": "yes" if item["cut_off"] else "no"}


@dataclass(frozen=True, slots=True, kw_only=True)
class CaseInstances:
    """All instances of one case.

    Parameters
    ----------
    case_id : str
    structures : mapping of str to int
        Structures that were looked for, and their number of instances.
    dropped : mapping of str to int
        Components below the least size, where there were any.
    instances : tuple of Instance
        Structure by structure, the largest first.
    notes : tuple of str
    """

    case_id: str
    structures: Mapping[str, int]
    dropped: Mapping[str, int]
    instances: tuple[Instance, ...]
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values, without NaN."""
        return {
            "case_id": self.case_id,
            "structures": dict(self.structures),
            "dropped": dict(self.dropped),
            "instances": [instance.to_json() for instance in self.instances],
            "notes": list(self.notes),
        }

    def rows(self) -> list[dict[str, Cell]]:
        """One row per instance for a CSV."""
        return [{"case_id": self.case_id, **instance_row(i.to_json())} for i in self.instances]
