"""Two models on the same cases: paired differences with intervals over patients."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medseg.errors import ConfigError
from medseg.evaluation.bootstrap import PatientBootstrap
from medseg.evaluation.cases import CaseEvaluation
from medseg.evaluation.definitions import definition_of
from medseg.evaluation.holm import holm
from medseg.evaluation.metric_values import MetricValue
from medseg.evaluation.options import EvaluationOptions
from medseg.evaluation.rows import Cell


@dataclass(frozen=True, slots=True, kw_only=True)
class PairedDifference:
    """Second model minus first, over the cases for which both have a value in the same unit.

    Parameters
    ----------
    structure, metric, unit : str
    count, patients : int
        Cases compared, and their patients.
    mean_first, mean_second, mean_difference : float
        For signed metrics (area difference and the like) of the sizes of the values.
    interval : (float, float) or None
        Bootstrap over patients of the mean difference; None with fewer than two patients.
    share_better : float or None
        Share of the resamples in which the second model is better, 0..1.
    p_value : float or None
        Two-sided, of no difference: min(1, 2 (1 + m) / (1 + B)), m the smaller number of resamples
        on either side of zero.
    median_difference : float
    wilcoxon_p, wilcoxon_holm : float or None
        Two-sided signed-rank test of the patients' mean differences, and adjusted by Holm over all
        structures and metrics compared. None with fewer than two patients.
    worst_first, worst_second : int
        Cases among those compared in which the value stands for a missed or an invented structure.
    """

    structure: str
    metric: str
    unit: str
    count: int
    patients: int
    mean_first: float
    mean_second: float
    mean_difference: float
    interval: tuple[float, float] | None
    share_better: float | None
    p_value: float | None
    median_difference: float
    wilcoxon_p: float | None
    wilcoxon_holm: float | None
    worst_first: int
    worst_second: int

    def row(self) -> dict[str, Cell]:
        """Cells for a CSV."""
        row: dict[str, Any] = asdict(self)
        low, high = row.pop("interval") or (None, None)
        return {**row, "interval_low": low, "interval_high": high}


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Two models on the same cases; cases of only one of them are listed, not compared."""

    differences: tuple[PairedDifference, ...]
    only_first: tuple[str, ...]
    only_second: tuple[str, ...]
    cases: int
    patients: int
    level: float

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)


def compare(
    first: Sequence[CaseEvaluation], second: Sequence[CaseEvaluation], options: EvaluationOptions
) -> Comparison:
    """Compare two models case by case, with the same resamples of patients for both.

    Parameters
    ----------
    first, second : sequence of CaseEvaluation
        Against the same reference masks.
    options : EvaluationOptions
        Metrics, resamples, level and seed.

    Returns
    -------
    Comparison

    Raises
    ------
    ConfigError
        The two share no case, give one case to different patients, or have different references.

    References
    ----------
    Wilcoxon, Individual comparisons by ranking methods, Biometrics Bulletin 1945, doi:10.2307/3001968.
    Holm, Scand J Statist 1979, 6:65-70.
    """
    one, two = ({case.case_id: case for case in cases} for cases in (first, second))
    shared = sorted(set(one) & set(two))
    if not shared:
        raise ConfigError("two models are compared on the same cases, found none that both have")
    other = [i for i in shared if one[i].patient_id != two[i].patient_id]
    if other:
        raise ConfigError(f"case {other[0]} belongs to different patients in the two evaluations")
    for i in shared:
        _check_reference(one[i], two[i])
    bootstrap = PatientBootstrap.draw(
        [one[i].patient_id for i in shared], samples=options.samples, level=options.level, seed=options.seed
    )
    names = dict.fromkeys(s.structure for i in shared for s in one[i].structures)
    pairs = [(one[i], two[i]) for i in shared]
    found = [
        difference
        for name in names
        for metric in options.metric_names
        for difference in _differences(name, metric, pairs, bootstrap)
    ]
    return Comparison(
        differences=_adjusted(found),
        only_first=tuple(sorted(set(one) - set(two))),
        only_second=tuple(sorted(set(two) - set(one))),
        cases=len(shared),
        patients=len(bootstrap.patients),
        level=options.level,
    )


def _check_reference(one: CaseEvaluation, two: CaseEvaluation) -> None:
    """Refuse two evaluations of a case whose reference masks have different sizes: they cannot be the same."""
    for first in one.structures:
        second = two.structure(first.structure)
        if second is None:
            continue
        sizes = [(s.counts.tp + s.counts.fn, s.counts.judged + s.counts.unknown) for s in (first, second)]
        if sizes[0] != sizes[1]:
            raise ConfigError(
                f"case {one.case_id}: the two evaluations have different references ({first.structure} has "
                f"{sizes[0][0]} of {sizes[0][1]} voxels in one, {sizes[1][0]} of {sizes[1][1]} in the other); "
                "compare runs on the same masks"
            )


def _adjusted(found: Sequence[PairedDifference]) -> tuple[PairedDifference, ...]:
    """The same with p-values adjusted over all of them."""
    adjusted = iter(holm([d.wilcoxon_p for d in found if d.wilcoxon_p is not None]))
    return tuple(d if d.wilcoxon_p is None else replace(d, wilcoxon_holm=next(adjusted)) for d in found)


def _signed_rank(difference: NDArray[np.float64], column: NDArray[np.intp], people: int) -> float | None:
    """p-value of the patients' mean differences; 1 where there is no difference at all."""
    if people < 2:
        return None
    sums, counts = np.bincount(column, weights=difference), np.bincount(column)
    means = sums[counts > 0] / counts[counts > 0]
    if not means.any():
        return 1.0
    # Pratt keeps patients without a difference in the ranking.
    # Loading it takes 0.7 s, which every prediction would pay.
    from scipy.stats import wilcoxon

    return float(wilcoxon(means, zero_method="pratt").pvalue)


def _value(case: CaseEvaluation, structure: str, metric: str) -> MetricValue | None:
    found = case.structure(structure)
    return None if found is None else found.metrics.get(metric)


def _differences(
    structure: str,
    metric: str,
    pairs: Sequence[tuple[CaseEvaluation, CaseEvaluation]],
    bootstrap: PatientBootstrap,
) -> list[PairedDifference]:
    """One difference per unit in which both models have values."""
    by_unit: dict[str, list[tuple[str, MetricValue, MetricValue]]] = {}
    for a, b in pairs:
        x, y = _value(a, structure, metric), _value(b, structure, metric)
        if x and y and x.value is not None and y.value is not None and x.unit == y.unit:
            by_unit.setdefault(x.unit, []).append((a.patient_id, x, y))
    return [_difference(structure, metric, u, by_unit[u], bootstrap) for u in sorted(by_unit)]


def _difference(
    structure: str,
    metric: str,
    unit: str,
    found: Sequence[tuple[str, MetricValue, MetricValue]],
    bootstrap: PatientBootstrap,
) -> PairedDifference:
    better = definition_of(metric).better
    patients = [patient for patient, _, _ in found]
    numbers = np.array([(x.value, y.value) for _, x, y in found], dtype=np.float64)
    if better == "zero":
        numbers = np.abs(numbers)
    difference = numbers[:, 1] - numbers[:, 0]
    samples = bootstrap.mean_samples(difference, patients)
    gain = samples if better == "higher" else -samples
    people = len(set(patients))
    tail = min(int((gain <= 0).sum()), int((gain >= 0).sum()))
    return PairedDifference(
        structure=structure,
        metric=metric,
        unit=unit,
        count=len(found),
        patients=people,
        mean_first=float(numbers[:, 0].mean()),
        mean_second=float(numbers[:, 1].mean()),
        mean_difference=float(difference.mean()),
        interval=bootstrap.interval(samples, patients=people),
        share_better=float((gain > 0).mean()) if people > 1 else None,
        p_value=min(1.0, 2 * (1 + tail) / (1 + len(samples))) if people > 1 else None,
        median_difference=float(np.median(difference)),
        wilcoxon_p=_signed_rank(difference, bootstrap.columns(patients), people),
        wilcoxon_holm=None,
        worst_first=sum(x.worst_case for _, x, _ in found),
        worst_second=sum(y.worst_case for _, _, y in found),
    )
