"""Two models on the same cases: paired differences with intervals over patients."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from medseg.errors import ConfigError
from medseg.evaluation.bootstrap import PatientBootstrap
from medseg.evaluation.cases import CaseEvaluation, MetricValue
from medseg.evaluation.definitions import DEFINITIONS
from medseg.evaluation.options import EvaluationOptions, MetricName


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Two models on the same cases; cases of only one of them are listed, not compared."""

    differences: tuple[PairedDifference, ...]
    only_first: tuple[str, ...]
    only_second: tuple[str, ...]

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
        The two share no case, or give one case to different patients.
    """
    one, two = ({case.case_id: case for case in cases} for cases in (first, second))
    shared = sorted(set(one) & set(two))
    if not shared:
        raise ConfigError("two models are compared on the same cases, found none that both have")
    other = [i for i in shared if one[i].patient_id != two[i].patient_id]
    if other:
        raise ConfigError(f"case {other[0]} belongs to different patients in the two evaluations")
    bootstrap = PatientBootstrap.draw(
        [one[i].patient_id for i in shared], samples=options.samples, level=options.level, seed=options.seed
    )
    names = dict.fromkeys(s.structure for i in shared for s in one[i].structures)
    pairs = [(one[i], two[i]) for i in shared]
    return Comparison(
        differences=tuple(
            difference
            for name in names
            for metric in options.metric_names
            for difference in _differences(name, metric, pairs, bootstrap)
        ),
        only_first=tuple(sorted(set(one) - set(two))),
        only_second=tuple(sorted(set(two) - set(one))),
    )


def _value(case: CaseEvaluation, structure: str, metric: MetricName) -> MetricValue | None:
    found = case.structure(structure)
    return None if found is None else found.metrics.get(metric)


def _differences(
    structure: str,
    metric: MetricName,
    pairs: Sequence[tuple[CaseEvaluation, CaseEvaluation]],
    bootstrap: PatientBootstrap,
) -> list[PairedDifference]:
    """One difference per unit in which both models have values."""
    by_unit: dict[str, list[tuple[str, float, float]]] = {}
    for a, b in pairs:
        x, y = _value(a, structure, metric), _value(b, structure, metric)
        if x and y and x.value is not None and y.value is not None and x.unit == y.unit:
            by_unit.setdefault(x.unit, []).append((a.patient_id, x.value, y.value))
    return [_difference(structure, metric, u, by_unit[u], bootstrap) for u in sorted(by_unit)]


def _difference(
    structure: str,
    metric: MetricName,
    unit: str,
    found: Sequence[tuple[str, float, float]],
    bootstrap: PatientBootstrap,
) -> PairedDifference:
    better = DEFINITIONS[metric].better
    patients = [patient for patient, _, _ in found]
    numbers = np.array([(x, y) for _, x, y in found], dtype=np.float64)
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
    )
