"""Do predicted and reference sizes agree: Bland-Altman, ordinary and Deming regression, over cases."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medseg.evaluation.bootstrap import PatientBootstrap
from medseg.evaluation.cases import CaseEvaluation
from medseg.evaluation.statistic import FEW_PATIENTS

_LIMITS = 1.959963984540054
_UNITS = ("ml", "mm2")


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """A number with its bootstrap interval over patients; None where it is not defined."""

    value: float | None
    interval: tuple[float, float] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """Predicted = intercept + slope x reference; perfect agreement has slope 1 and intercept 0."""

    slope: Estimate
    intercept: Estimate


@dataclass(frozen=True, slots=True, kw_only=True)
class SizeAgreement:
    """Predicted against reference size of one structure.

    Cases where either has the structure count, with size 0 where it was missed or invented; both-empty
    and not-judged ones do not, and neither do cases whose sizes are in voxels for want of a spacing.

    Parameters
    ----------
    unit : str
        "ml" or "mm2".
    count, patients : int
    bias : Estimate
        Mean of predicted minus reference.
    sd : float or None
        Standard deviation of the differences (n - 1).
    lower_limit, upper_limit : Estimate
        95 % limits of agreement, bias -+ 1.96 sd.
    ordinary : Line
        Least squares, the reference taken as free of error.
    deming : Line
        Both with errors of the same size (ratio of variances 1).
    level : float
        Coverage of the intervals.
    missed, false_positives, both_empty, without_size : int
        Cases; the first two are among `count`, the others are not.
    note : str
    """

    unit: str
    count: int
    patients: int
    bias: Estimate
    sd: float | None
    lower_limit: Estimate
    upper_limit: Estimate
    ordinary: Line
    deming: Line
    level: float
    missed: int
    false_positives: int
    both_empty: int
    without_size: int
    note: str


def size_agreements(cases: Sequence[CaseEvaluation], bootstrap: PatientBootstrap) -> dict[str, SizeAgreement]:
    """Agreement of the sizes of every structure that some case has a size for.

    Parameters
    ----------
    cases : sequence of CaseEvaluation
    bootstrap : PatientBootstrap
        Drawn from their patients.

    References
    ----------
    Bland and Altman, Statistical methods for assessing agreement between two methods of clinical
    measurement, Lancet 1986, doi:10.1016/S0140-6736(86)90837-8. Linnet, Evaluation of regression
    procedures for methods comparison studies, Clin Chem 1993, 39:424-432.
    """
    names = dict.fromkeys(s.structure for case in cases for s in case.structures)
    units = [case.size_unit for case in cases if case.size_unit in _UNITS]
    if not units:
        return {}
    unit = max(_UNITS, key=units.count)
    found = {name: _agreement(name, unit, cases, bootstrap) for name in names}
    return {name: agreement for name, agreement in found.items() if agreement is not None}


def _agreement(
    name: str, unit: str, cases: Sequence[CaseEvaluation], bootstrap: PatientBootstrap
) -> SizeAgreement | None:
    own = [(case, s) for case in cases if (s := case.structure(name)) is not None]
    present = [(case, s) for case, s in own if s.state in ("judged", "missed", "false_positive")]
    sized = [(case, s) for case, s in present if case.size_unit == unit]
    if not sized:
        return None
    sizes = np.array([case.sizes(s) for case, s in sized], dtype=np.float64)
    patients = [case.patient_id for case, _ in sized]
    states = [s.state for _, s in sized]
    people = len(set(patients))
    numbers = _estimates(sizes[:, 1], sizes[:, 0], patients, bootstrap)
    return SizeAgreement(
        unit=unit,
        count=len(sized),
        patients=people,
        bias=numbers["bias"],
        sd=numbers["sd"].value,
        lower_limit=numbers["lower"],
        upper_limit=numbers["upper"],
        ordinary=Line(slope=numbers["slope"], intercept=numbers["intercept"]),
        deming=Line(slope=numbers["deming_slope"], intercept=numbers["deming_intercept"]),
        level=bootstrap.level,
        missed=states.count("missed"),
        false_positives=states.count("false_positive"),
        both_empty=sum(s.state == "both_empty" for _, s in own),
        without_size=len(present) - len(sized),
        note=f"only {people} patient{'s' if people != 1 else ''}: limits and lines are rough"
        if people < FEW_PATIENTS
        else "",
    )


def _estimates(
    reference: NDArray[np.float64],
    predicted: NDArray[np.float64],
    patients: Sequence[str],
    bootstrap: PatientBootstrap,
) -> Mapping[str, Estimate]:
    """Every number of the agreement with its interval, from sums alone."""
    middle = (float(reference.mean()), float(predicted.mean()))
    x, y = reference - middle[0], predicted - middle[1]
    columns = np.stack([x, y, x * x, y * y, x * y], axis=1)
    once = _from_sums(columns.sum(axis=0)[None], np.array([len(x)], dtype=np.float64), middle)
    resampled = _from_sums(*bootstrap.moment_samples(columns, patients), middle)
    people = len(set(patients))
    result = {}
    for name, value in once.items():
        samples = resampled[name][np.isfinite(resampled[name])]
        known = bool(np.isfinite(value[0]))
        result[name] = Estimate(
            value=float(value[0]) if known else None,
            interval=bootstrap.interval(samples, patients=people) if known else None,
        )
    return result


def _from_sums(
    sums: NDArray[np.float64], count: NDArray[np.float64], middle: tuple[float, float]
) -> dict[str, NDArray[np.float64]]:
    """Bias, limits and lines of rows of sums (x, y, xx, yy, xy), x and y less their `middle`; NaN where undefined."""
    with np.errstate(divide="ignore", invalid="ignore"):
        mean_x, mean_y, xx, yy, xy = (column / count for column in sums.T)
        var_x, var_y, cov = xx - mean_x**2, yy - mean_y**2, xy - mean_x * mean_y
        spread = np.maximum(var_x + var_y - 2 * cov, 0.0)
        sd = np.sqrt(np.where(count > 1, spread * count / (count - 1), np.nan))
        bias = mean_y - mean_x + middle[1] - middle[0]
        # Rounding leaves a variance of sizes that are all the same at about 1e-16 of their square.
        flat = var_x <= 1e-12 * (xx + middle[0] ** 2)
        slope = np.where(flat, np.nan, cov / var_x)
        tilt = var_y - var_x
        deming = np.where(flat, np.nan, (tilt + np.sqrt(tilt**2 + 4 * cov**2)) / (2 * cov))
        level_x, level_y = mean_x + middle[0], mean_y + middle[1]
    return {
        "bias": bias,
        "sd": sd,
        "lower": bias - _LIMITS * sd,
        "upper": bias + _LIMITS * sd,
        "slope": slope,
        "intercept": level_y - slope * level_x,
        "deming_slope": deming,
        "deming_intercept": level_y - deming * level_x,
    }
