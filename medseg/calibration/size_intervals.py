"""The interval of each measured size, by what the bundle of a model says."""

from __future__ import annotations

from dataclasses import replace

from medseg.calibration.conformal import Conformal
from medseg.evaluation.quantities import CaseMeasures, Quantity, SizeInterval, StructureMeasures
from medseg.models.calibration_record import CalibrationRecord, SizeIntervalRecord

_SIZES = ("volume", "area")
CUT_OFF = "cut off by the field of view"


def with_intervals(measures: CaseMeasures, record: CalibrationRecord | None) -> CaseMeasures:
    """The same measurements, volumes and areas with their intervals.

    Parameters
    ----------
    measures : CaseMeasures
    record : CalibrationRecord or None
        Of the bundle; without one there are no intervals.
    """
    if record is None or not record.sizes:
        return measures
    return replace(
        measures,
        structures={
            name: structure if name not in record.sizes else _with(structure, record.sizes[name])
            for name, structure in measures.structures.items()
        },
    )


def size_interval(size: Quantity, record: SizeIntervalRecord) -> SizeInterval:
    """The interval of one size; without ends, and with the reason, where it is not known how far it may be off.

    A structure that is cut off is measured in part, which the calibration cases, seen whole, say nothing about.
    """
    reason = record.reason
    if size.value is None or size.value <= 0:
        reason = size.reason or "absent"
    elif size.cut_off:
        reason = CUT_OFF
    if reason or size.value is None or record.quantile is None:
        return SizeInterval(low=None, high=None, level=record.level, reason=reason)
    known = Conformal(
        level=record.level, quantile=record.quantile, cases=record.cases, patients=record.patients
    )
    low, high = known.interval(size.value)
    return SizeInterval(low=low, high=high, level=record.level)


def _with(structure: StructureMeasures, record: SizeIntervalRecord) -> StructureMeasures:
    quantities = {
        name: replace(quantity, interval=size_interval(quantity, record))
        if _is_size(name, quantity)
        else quantity
        for name, quantity in structure.quantities.items()
    }
    return replace(structure, quantities=quantities)


def _is_size(name: str, quantity: Quantity) -> bool:
    """Whether it is the size of the structure, and defined for an image with so many axes."""
    return name in _SIZES and not quantity.reason.startswith("defined for")
