"""A measured number with its unit and caveats, and the records that hold all numbers of a case."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from medseg.evaluation.orientation import LateralAxis
from medseg.evaluation.rows import Cell
from medseg.evaluation.shape import ObjectShape

Bound = Literal["exact", "lower", "unknown"]
_SIGNS: dict[Bound, str] = {"exact": "", "lower": "> ", "unknown": "about "}


@dataclass(frozen=True, slots=True, kw_only=True)
class SizeInterval:
    """Where the true size lies with a stated probability; see `medseg.calibration.conformal`.

    Parameters
    ----------
    low, high : float or None
        In the unit of the size; None where there is none, and then `reason` says why.
    level : float
        Coverage asked for, such as 0.9.
    reason : str
    """

    low: float | None
    high: float | None
    level: float
    reason: str = ""

    def to_json(self) -> dict[str, Any]:
        """`low`, `high`, `level`, and the `reason` where there is one."""
        return {name: value for name, value in asdict(self).items() if name != "reason" or value}


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantity:
    """A measured number with its unit.

    Parameters
    ----------
    value : float or None
        None where it is not defined, and then `reason` says why ("absent", ...).
    unit : str
        mm2, ml, mm, pixels, voxels, HU, a UCUM code for PET, or 1 for a number without one.
    bound : str
        "lower": the structure is cut off, the true value is larger. "unknown": cut off, and the
        true value may be larger or smaller. "exact" otherwise.
    note : str
        What to mind when reading the number.
    interval : SizeInterval or None
        Of the size of a structure, where the model tells how far sizes may be off.
    """

    value: float | None
    unit: str
    bound: Bound = "exact"
    reason: str = ""
    note: str = ""
    interval: SizeInterval | None = None

    @property
    def cut_off(self) -> bool:
        """Whether the field of view cuts off what was measured."""
        return self.bound != "exact"

    @property
    def text(self) -> str:
        """For people: `> 633 ml (cut off)`, `12345 mm2`, `0.48`, `absent`."""
        if self.value is None:
            return self.reason
        size = abs(self.value)
        number = (
            f"{self.value:.2f}" if size < 10 else f"{self.value:.1f}" if size < 100 else f"{self.value:.0f}"
        )
        unit = "" if self.unit == "1" else f" {self.unit}"
        return f"{_SIGNS[self.bound]}{number}{unit}{' (cut off)' if self.cut_off else ''}"

    def cells(self) -> dict[str, Cell]:
        """Cells of a CSV: all but the interval."""
        names = ("value", "unit", "bound", "reason", "note")
        return {name: getattr(self, name) for name in names}

    def ends(self, measure: str) -> dict[str, float | None]:
        """Ends of the interval by name, such as `volume_ml_low`; empty where the model tells none."""
        if self.interval is None:
            return {}
        stem = f"{measure}_{self.unit}"
        return {f"{stem}_low": self.interval.low, f"{stem}_high": self.interval.high}

    def to_json(self) -> dict[str, Any]:
        """All fields, the interval where there is one, and the text for people."""
        value = {**self.cells(), "cut_off": self.cut_off, "text": self.text}
        return value | ({} if self.interval is None else {"interval": self.interval.to_json()})


@dataclass(frozen=True, slots=True, kw_only=True)
class StructureMeasures:
    """What was measured of one label or region; `shape` is None where it is absent.

    `fraction` is its share of the image, `centroid_fraction` the centroid in units of the image
    size (0..1 along each axis), `centroid_mm` the centroid in RAS+ where the image has an affine.
    """

    structure: str
    kind: Literal["label", "region"]
    shape: ObjectShape | None
    fraction: float
    centroid_fraction: tuple[float, ...] | None
    centroid_mm: tuple[float, float, float] | None
    quantities: Mapping[str, Quantity]

    @property
    def present(self) -> bool:
        """Whether any voxel has it."""
        return self.shape is not None

    @property
    def cut_off(self) -> bool:
        """Whether it reaches the edge of the image."""
        return self.shape is not None and bool(self.shape.touches)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "kind": self.kind,
            "state": "present" if self.present else "absent",
            "cut_off": self.cut_off,
            "fraction": self.fraction,
            "centroid_fraction": self.centroid_fraction,
            "centroid_mm": self.centroid_mm,
            "shape": None if self.shape is None else asdict(self.shape),
            "quantities": {name: q.to_json() for name, q in self.quantities.items()},
            **self._intervals(),
        }

    def _intervals(self) -> dict[str, Any]:
        """Ends of the interval of the size, `interval` for its level, and why there is none."""
        found: dict[str, Any] = {}
        for name, quantity in self.quantities.items():
            if quantity.interval is not None:
                found |= {**quantity.ends(name), "interval": quantity.interval.level}
                found |= {"interval_reason": quantity.interval.reason} if quantity.interval.reason else {}
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class CaseMeasures:
    """All measurements of one label map.

    Parameters
    ----------
    case_id : str
    image_shape : tuple of int
    spacing_mm : tuple of float, or None
    lateral : LateralAxis or None
    structures : mapping of str to StructureMeasures
        Labels, then regions.
    ratios : mapping of str to Quantity
        "<left>/<right>" for pairs, "cardiothoracic_ratio".
    notes : tuple of str
        Caveats of the whole case.
    """

    case_id: str
    image_shape: tuple[int, ...]
    spacing_mm: tuple[float, ...] | None
    lateral: LateralAxis | None
    structures: Mapping[str, StructureMeasures]
    ratios: Mapping[str, Quantity]
    notes: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values, without NaN."""
        return {
            "case_id": self.case_id,
            "image_shape": list(self.image_shape),
            "spacing_mm": None if self.spacing_mm is None else list(self.spacing_mm),
            "lateral_axis": None if self.lateral is None else asdict(self.lateral),
            "structures": {name: s.to_json() for name, s in self.structures.items()},
            "ratios": {name: q.to_json() for name, q in self.ratios.items()},
            "notes": list(self.notes),
        }

    def rows(self) -> list[dict[str, Cell]]:
        """One row per quantity for a CSV: case, structure, measure, value, unit, bound, reason, note."""
        named = [(s.structure, m, q) for s in self.structures.values() for m, q in s.quantities.items()]
        named += [("", name, q) for name, q in self.ratios.items()]
        rows = []
        for structure, measure, quantity in named:
            about: dict[str, Cell] = {"case_id": self.case_id, "structure": structure}
            rows.append({**about, "measure": measure, **quantity.cells()})
            for name, value in quantity.ends(measure).items():
                rows.append({**about, "measure": name, **_end(quantity, value).cells()})
            if quantity.interval is not None:
                level = Quantity(value=quantity.interval.level, unit="1", reason=quantity.interval.reason)
                rows.append({**about, "measure": "interval", **level.cells()})
        return rows


def _end(quantity: Quantity, value: float | None) -> Quantity:
    """An end of the interval as a quantity of its own."""
    interval = quantity.interval
    if interval is None or value is None:
        return Quantity(value=None, unit=quantity.unit, reason="" if interval is None else interval.reason)
    return Quantity(value=value, unit=quantity.unit, note=f"{100 * interval.level:g} % interval")
