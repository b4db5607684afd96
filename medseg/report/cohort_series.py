"""The numbers of a cohort, one series for each structure and measure: what is drawn, listed and tabled."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from medseg.report.page import CaseReport, Json

SIZES = ("volume", "area")
OVERLAPS = ("dice", "iou", "precision", "recall", "f1", "nsd", "boundary_iou", "cldice")
"""Metrics between 0 and 1 whose axis ends at 1."""
_SCALE: Mapping[str, tuple[float, str]] = {"mm2": (0.01, "cm²"), "ml": (1.0, "mL"), "1": (1.0, "")}
Kind = Literal["measurement", "agreement", "confidence"]


@dataclass(frozen=True, slots=True)
class Number:
    """A number of one case.

    `value` is in `unit` as stored, None where it is not defined, and then `reason` says why. `bound` is "lower" where
    the true value is larger, "unknown" where it may be either.
    """

    case: CaseReport
    value: float | None
    bound: str = "exact"
    reason: str = ""
    note: str = ""

    @property
    def sign(self) -> str:
        """What stands before the number."""
        return {"exact": "", "lower": "> "}.get(self.bound, "≈ ")


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """One measure of one structure over the cases.

    Parameters
    ----------
    kind : str
        "measurement" of the prediction, "agreement" with a reference, or "confidence" of the model.
    structure : str
        Label or region; "" for ratios.
    measure : str
        Key of the measure or metric.
    unit : str
        As stored: mm2, ml, mm, 1 and so on.
    numbers : tuple of Number
        One for each case that tells it.
    """

    kind: Kind
    structure: str
    measure: str
    unit: str
    numbers: tuple[Number, ...]

    @property
    def known(self) -> list[tuple[Number, float]]:
        """Those with a value, and the value."""
        return [(number, number.value) for number in self.numbers if number.value is not None]

    @property
    def scale(self) -> float:
        """Factor from the stored unit to the shown one."""
        return _SCALE.get(self.unit, (1.0, self.unit))[0]

    @property
    def shown_unit(self) -> str:
        """Unit for people; "" for a number without one."""
        return shown_unit(self.unit)

    def shown(self, value: float) -> str:
        """A value of the series in words, with its unit."""
        unit = "" if self.unit.startswith("1") else f" {self.shown_unit}"
        return f"{decimals(value * self.scale, self.unit)}{unit}"


def shown_unit(unit: str) -> str:
    """Unit for people; of a share whose tolerance is in pixels, that."""
    return _SCALE.get(unit, (1.0, unit.removeprefix("1, ")))[1]


def decimals(value: float, unit: str = "") -> str:
    """A number for a table cell: three decimals for ratios, about three digits else."""
    size = abs(value)
    if unit.startswith("1"):
        text = f"{value:.3f}"
    else:
        text = f"{value:.2f}" if size < 10 else f"{value:.1f}" if size < 1000 else f"{value:.0f}"
    return text.replace("-", "−")


def all_series(cases: Sequence[CaseReport]) -> tuple[Series, ...]:
    """Every series that some case has a value in: measurements, ratios, agreement, confidence.

    Values in different units (pixels where the spacing is unknown) are series of their own.
    """
    found: dict[tuple[Kind, str, str, str], list[Number]] = {}
    for case in cases:
        for kind, structure, measure, unit, number in case_numbers(case):
            found.setdefault((kind, structure, measure, unit), []).append(number)
    series = [
        Series(kind=kind, structure=structure, measure=measure, unit=unit, numbers=tuple(numbers))
        for (kind, structure, measure, unit), numbers in found.items()
    ]
    return tuple(s for s in series if s.known)


def case_numbers(case: CaseReport) -> Iterator[tuple[Kind, str, str, str, Number]]:
    """(kind, structure, measure, unit, number) of all numbers of a case."""
    measures = case.record["measurements"]
    for structure, item in measures["structures"].items():
        for name, quantity in item["quantities"].items():
            yield "measurement", structure, name, quantity["unit"], _number(case, quantity)
    for name, quantity in measures["ratios"].items():
        yield "measurement", "", name, quantity["unit"], _number(case, quantity)
    for structure, item in evaluated(case).items():
        for name, value in item["metrics"].items():
            yield "agreement", structure, name, value["unit"], _number(case, value)
    for structure, values in case.record["confidence"].items():
        for name in ("mean_probability", "uncertain_share", "entropy"):
            if values.get(name) is not None:
                yield "confidence", structure, name, "1", Number(case, float(values[name]))


def evaluated(case: CaseReport) -> Mapping[str, Json]:
    """Structures of the case's evaluation; empty without a reference."""
    found: Mapping[str, Json] = {} if case.evaluation is None else case.evaluation["structures"]
    return found


def _number(case: CaseReport, value: Mapping[str, Any]) -> Number:
    return Number(
        case, value["value"], value.get("bound", "exact"), value.get("reason", ""), value.get("note", "")
    )


def size_of(case: CaseReport, structure: str) -> Mapping[str, Any] | None:
    """Volume of a structure in a volume, its area in a picture; None where it was not measured."""
    quantities = case.record["measurements"]["structures"].get(structure, {}).get("quantities", {})
    found: Mapping[str, Any] | None = quantities.get(SIZES[len(case.record["image"]["shape"]) == 2])
    return found


def lowest(case: CaseReport, metric: str = "dice") -> tuple[str, float] | None:
    """Structure with the lowest value of a metric, and the value; None where none is defined."""
    values = [
        (name, float(item["metrics"][metric]["value"]))
        for name, item in evaluated(case).items()
        if item["metrics"].get(metric, {}).get("value") is not None
    ]
    return min(values, key=lambda pair: pair[1]) if values else None
