"""Split-conformal intervals for sizes: how far a volume may be off, from cases that the network never saw.

NumPy only. A size is compared on the scale of its logarithm, so that an interval is a factor up and down and never
reaches below zero.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

LEVEL = 0.9
"""Coverage that intervals are made for unless another is asked for."""
_ROUNDING = 1e-9


@dataclass(frozen=True, slots=True, kw_only=True)
class SizeError:
    """How far the size of one structure was off in one case.

    Parameters
    ----------
    patient_id : str
    score : float
        See `size_score`.
    """

    patient_id: str
    score: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Conformal:
    """What calibration cases say about the size of a structure.

    Parameters
    ----------
    level : float
        Coverage asked for, such as 0.9.
    quantile : float or None
        Largest score that lies inside of the interval; None where there is no interval.
    cases, patients : int
        That it rests on.
    reason : str
        Why there is none.
    """

    level: float
    quantile: float | None
    cases: int
    patients: int
    reason: str = ""

    def interval(self, size: float, *, scale: float = 1.0) -> tuple[float, float]:
        """Lower and upper end for a predicted size, in its unit.

        Parameters
        ----------
        size : float
            Predicted, above 0.
        scale : float, optional
            What scores were divided by, for this case.

        Raises
        ------
        ValueError
            There is no interval.
        """
        if self.quantile is None:
            raise ValueError(f"no interval: {self.reason}")
        factor = math.exp(self.quantile * scale)
        return size / factor, size * factor


def size_score(predicted: float, reference: float, *, scale: float = 1.0) -> float:
    """Nonconformity |ln(reference / predicted)| / scale; infinite where one of them alone is 0.

    A missed or invented structure is the worst case and counts; where both are 0 there is nothing to compare.

    Parameters
    ----------
    predicted, reference : float
        Sizes in the same unit, not both 0.
    scale : float, optional
        Uncertainty of the case, above 0; 1 leaves the score as it is.
    """
    if predicted <= 0 and reference <= 0:
        raise ValueError("a structure that is in neither mask has no score")
    if predicted <= 0 or reference <= 0:
        return math.inf
    return abs(math.log(reference / predicted)) / scale


def fewest_patients(level: float) -> int:
    """Patients below which no finite interval has the coverage: 9 for 0.9."""
    return math.ceil(level / (1.0 - level) - _ROUNDING)


def fit_interval(errors: Sequence[SizeError], *, level: float = LEVEL) -> Conformal:
    """The score that a new case of a new patient stays below with the probability `level`, at least.

    With one case for each of K patients that is the ceil((K + 1) level)-th smallest score. Several cases of a patient
    share the weight of one: each of its n_k scores weighs 1 / ((K + 1) n_k), the patient to come 1 / (K + 1) at
    infinity, and the quantile is that of the weighted scores.

    Parameters
    ----------
    errors : sequence of SizeError
        Of cases that neither training nor the choice of settings saw.
    level : float, optional

    Returns
    -------
    Conformal
        Without a quantile, and with the reason, where there are too few patients, or where so many structures were
        missed or invented that no finite factor covers enough of them.

    References
    ----------
    Vovk, Gammerman and Shafer, Algorithmic Learning in a Random World, 2005. Lei et al., Distribution-free predictive
    inference for regression, JASA 2018, doi:10.1080/01621459.2017.1307116. Lee, Barber and Willett, Distribution-free
    inference with hierarchical data, 2023, arXiv:2306.06342 (weights by patient).
    """
    counts: dict[str, int] = {}
    for error in errors:
        counts[error.patient_id] = counts.get(error.patient_id, 0) + 1
    patients, least = len(counts), fewest_patients(level)
    found = Conformal(level=level, quantile=None, cases=len(errors), patients=patients)
    if patients < least:
        return _without(
            found, f"{patients} calibration patients; {100 * level:g} % needs at least {least} of them"
        )
    ordered = sorted(errors, key=lambda error: error.score)
    weights = np.array([1.0 / ((patients + 1) * counts[error.patient_id]) for error in ordered])
    place = int(np.searchsorted(np.cumsum(weights), level - _ROUNDING))
    if place >= len(ordered) or not math.isfinite(ordered[place].score):
        missed = sum(not math.isfinite(error.score) for error in errors)
        return _without(found, f"missed or invented in {missed} of {len(errors)} calibration cases")
    return Conformal(level=level, quantile=ordered[place].score, cases=len(errors), patients=patients)


def _without(found: Conformal, reason: str) -> Conformal:
    return Conformal(
        level=found.level, quantile=None, cases=found.cases, patients=found.patients, reason=reason
    )
