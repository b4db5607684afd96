"""A metric of one structure over cases: mean, spread, quartiles, intervals, and what has no value."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np

from medseg.evaluation.bootstrap import PatientBootstrap
from medseg.evaluation.definitions import definition_of
from medseg.evaluation.metric_values import MetricValue

FEW_PATIENTS = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Statistic:
    """A metric of one structure over cases. Fields are None where no case has a value.

    Parameters
    ----------
    unit : str
    count, patients : int
        Cases with a value, and their patients.
    mean, median, sd, minimum, maximum : float or None
        `sd` is the sample standard deviation (n - 1), None for a single case.
    lower_quartile, upper_quartile, iqr : float or None
        25th and 75th percentile, linearly interpolated, and their difference.
    mean_interval, median_interval : (float, float) or None
        Bootstrap over patients at `level`; None with fewer than two patients.
    worst_case : int
        Values that stand for a missed structure or for one that is not there; they count.
    undefined : mapping of str to int
        Cases without a value, by reason; they do not count.
    note : str
        What to mind when reading the interval.
    """

    unit: str
    count: int
    patients: int
    mean: float | None
    median: float | None
    sd: float | None
    minimum: float | None
    maximum: float | None
    lower_quartile: float | None
    upper_quartile: float | None
    iqr: float | None
    mean_interval: tuple[float, float] | None
    median_interval: tuple[float, float] | None
    level: float
    worst_case: int
    undefined: Mapping[str, int]
    note: str

    def row(self) -> dict[str, str | int | float | None]:
        """Cells for a CSV."""
        row = asdict(self)
        for name in ("mean_interval", "median_interval"):
            low, high = row.pop(name) or (None, None)
            row |= {f"{name}_low": low, f"{name}_high": high}
        row["undefined"] = sum(row["undefined"].values())
        return row


def statistics_by_unit(
    metric: str, pairs: Sequence[tuple[str, MetricValue]], bootstrap: PatientBootstrap
) -> dict[str, Statistic]:
    """The metric in its own unit, and in pixels or voxels where some cases have no spacing.

    Parameters
    ----------
    metric : str
        Key of the metric.
    pairs : sequence of (patient_id, MetricValue)
    bootstrap : PatientBootstrap
    """
    unit = definition_of(metric).unit
    others = sorted({v.unit for _, v in pairs if v.value is not None} - {unit})
    table = {}
    for each in (unit, *others):
        suffix = "" if each == unit else "_voxels" if "voxels" in each else "_pixels"
        own = [(p, v) for p, v in pairs if v.unit == each or (v.value is None and each == unit)]
        if own or each == unit:
            table[f"{metric}{suffix}"] = _statistic(own, each, bootstrap)
    return table


def _statistic(pairs: Sequence[tuple[str, MetricValue]], unit: str, bootstrap: PatientBootstrap) -> Statistic:
    reasons = [v.reason for _, v in pairs if v.value is None]
    patients = [p for p, v in pairs if v.value is not None]
    values = np.array([v.value for _, v in pairs if v.value is not None], dtype=np.float64)
    count, people = len(values), len(set(patients))
    few = f"only {people} patients: the interval is rough" if 2 <= people < FEW_PATIENTS else ""
    means = bootstrap.mean_samples(values, patients) if count else values
    medians = bootstrap.median_samples(values, patients) if count else values
    low, middle, high = np.percentile(values, [25, 50, 75]).tolist() if count else (None, None, None)
    return Statistic(
        unit=unit,
        count=count,
        patients=people,
        mean=float(values.mean()) if count else None,
        median=middle,
        sd=float(values.std(ddof=1)) if count > 1 else None,
        minimum=float(values.min()) if count else None,
        maximum=float(values.max()) if count else None,
        lower_quartile=low,
        upper_quartile=high,
        iqr=None if low is None or high is None else high - low,
        mean_interval=bootstrap.interval(means, patients=people),
        median_interval=bootstrap.interval(medians, patients=people),
        level=bootstrap.level,
        worst_case=sum(v.worst_case for _, v in pairs),
        undefined={reason: reasons.count(reason) for reason in sorted(set(reasons))},
        note="one patient: no interval" if people == 1 else few,
    )
