"""Groups of cases by a manifest column, and whether one of them fares worse than the others."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from medseg.evaluation.bootstrap import PatientBootstrap
from medseg.evaluation.cases import CaseEvaluation
from medseg.evaluation.definitions import definition_of
from medseg.evaluation.holm import holm
from medseg.evaluation.options import EvaluationOptions

#: Columns of numbers with more values than this are cut into thirds.
MOST_VALUES = 8
#: With fewer patients in a group, or beside it, nothing is said of a gap.
LEAST_PATIENTS = 5
Finding = Literal["worse", "no gap seen", "too few patients"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SubgroupGap:
    """Mean of a metric in one group of cases against its mean over all others.

    Parameters
    ----------
    column, group, structure, metric, unit : str
    count, patients : int
        Cases with a value in the group, and their patients.
    mean, mean_others : float
        For signed metrics of the sizes of the values.
    difference : float
        Group minus others.
    interval : (float, float) or None
        Bootstrap over patients of the difference.
    p_value, p_holm : float or None
        Two-sided, of no difference, from the bootstrap's standard error, at least one over the ways to split the
        patients; adjusted by Holm over all groups,
        structures and metrics of the column. None with too few patients.
    finding : {"worse", "no gap seen", "too few patients"}
        "worse": the group is worse and `p_holm` lies below 1 - level. That no gap is seen does not show
        that there is none.
    """

    column: str
    group: str
    structure: str
    metric: str
    unit: str
    count: int
    patients: int
    mean: float
    mean_others: float
    difference: float
    interval: tuple[float, float] | None
    p_value: float | None
    p_holm: float | None
    finding: Finding


def group_names(values: Sequence[str]) -> list[str]:
    """Name of the group of each case: its value, or the third of the cases that its number lies in.

    Numbers with more than eight different values (ages, sizes) are cut at their 33rd and 67th percentile.
    An empty value is the group "not given".
    """
    known = [value for value in values if value.strip()]
    numbers = [_number(value) for value in known]
    if len(set(known)) <= MOST_VALUES or any(n is None for n in numbers):
        return [value if value.strip() else "not given" for value in values]
    low, high = np.percentile(np.array(numbers, dtype=np.float64), [100 / 3, 200 / 3]).tolist()
    return [_third(_number(value), low, high) for value in values]


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _third(value: float | None, low: float, high: float) -> str:
    if value is None:
        return "not given"
    first, second = f"up to {low:g}", f"{low:g} to {high:g}"
    return first if value <= low else second if value <= high else f"above {high:g}"


def subgroup_gaps(
    cases: Sequence[CaseEvaluation],
    column: str,
    names: Sequence[str],
    options: EvaluationOptions,
    bootstrap: PatientBootstrap,
) -> tuple[SubgroupGap, ...]:
    """Hold every group of a column against all other cases, metric by metric.

    Parameters
    ----------
    cases : sequence of CaseEvaluation
    column : str
    names : sequence of str
        Group of each case; see `group_names`.
    options : EvaluationOptions
    bootstrap : PatientBootstrap
        Drawn from the patients of all cases, so that group and others are resampled together.
    """
    groups = sorted(set(names))
    if len(groups) < 2:
        return ()
    structures = dict.fromkeys(s.structure for case in cases for s in case.structures)
    found = [
        gap
        for structure in structures
        for metric in options.metric_names
        for gap in _gaps(cases, column, names, groups, structure, metric, bootstrap)
    ]
    return tuple(_adjusted(found, 1 - bootstrap.level))


def _adjusted(gaps: Sequence[SubgroupGap], alpha: float) -> list[SubgroupGap]:
    tested = [gap for gap in gaps if gap.p_value is not None]
    adjusted = dict(
        zip(map(id, tested), holm([gap.p_value for gap in tested if gap.p_value is not None]), strict=True)
    )
    result = []
    for gap in gaps:
        p_holm = adjusted.get(id(gap))
        worse = p_holm is not None and p_holm < alpha and _is_worse(gap)
        finding: Finding = "too few patients" if p_holm is None else "worse" if worse else "no gap seen"
        result.append(replace(gap, p_holm=p_holm, finding=finding))
    return result


def _is_worse(gap: SubgroupGap) -> bool:
    return gap.difference < 0 if definition_of(gap.metric).better == "higher" else gap.difference > 0


def _gaps(
    cases: Sequence[CaseEvaluation],
    column: str,
    names: Sequence[str],
    groups: Sequence[str],
    structure: str,
    metric: str,
    bootstrap: PatientBootstrap,
) -> list[SubgroupGap]:
    """The gaps of one structure and metric; values in another unit than the metric's own are left out."""
    definition = definition_of(metric)
    rows = []
    for case, name in zip(cases, names, strict=True):
        own = case.structure(structure)
        value = None if own is None else own.metrics.get(metric)
        if value is not None and value.value is not None and value.unit == definition.unit:
            rows.append((case.patient_id, name, value.value))
    patients = [patient for patient, _, _ in rows]
    values = np.array([value for _, _, value in rows], dtype=np.float64)
    values = np.abs(values) if definition.better == "zero" else values
    result = []
    for group in groups:
        inside = np.array([name == group for _, name, _ in rows], dtype=np.bool_)
        if inside.any() and not inside.all():
            place = {"column": column, "group": group, "structure": structure, "metric": metric}
            result.append(_gap(place, definition.unit, values, inside, patients, bootstrap))
    return result


def _gap(
    place: dict[str, str],
    unit: str,
    values: NDArray[np.float64],
    inside: NDArray[np.bool_],
    patients: Sequence[str],
    bootstrap: PatientBootstrap,
) -> SubgroupGap:
    people = [len({p for p, i in zip(patients, inside, strict=True) if i == side}) for side in (True, False)]
    mean, others = float(values[inside].mean()), float(values[~inside].mean())
    samples = bootstrap.difference_samples(values, inside, patients)
    enough = min(people) >= LEAST_PATIENTS and samples.size > 1
    return SubgroupGap(
        **place,
        unit=unit,
        count=int(inside.sum()),
        patients=people[0],
        mean=mean,
        mean_others=others,
        difference=mean - others,
        interval=bootstrap.interval(samples, patients=min(people)),
        p_value=_p_value(mean - others, float(samples.std(ddof=1)), people) if enough else None,
        p_holm=None,
        finding="too few patients",
    )


def _p_value(difference: float, error: float, people: Sequence[int]) -> float:
    """Two-sided p-value of no difference for a normal estimate; no resamples are counted, so it may be small.

    It is never smaller than a permutation test of so many patients could give, one over the ways to split them:
    groups without any spread of their own would else seem certain.
    """
    # Means of equal numbers differ by rounding alone.
    if abs(difference) <= 1e-12:
        return 1.0
    normal = math.erfc(abs(difference) / error / math.sqrt(2)) if error > 0 else 0.0
    return max(normal, 1 / math.comb(sum(people), people[0]))
