"""Reliability of probabilities: bins of stated confidence against observed frequency, and what sums them up.

Sums are kept case by case, so that intervals can resample patients. NumPy only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medseg.evaluation.bootstrap import PatientBootstrap
from medseg.evaluation.rows import Cell

BINS = 15
"""Bins of equal width between 0 and 1."""
LEAST_PROBABILITY = 1e-7
"""Probabilities nearer to 0 or 1 count as this in the likelihood, which a rounded 0 would make infinite."""
MEASURES = ("ece", "mce", "brier", "nll")


@dataclass(slots=True, kw_only=True)
class ReliabilitySums:
    """What the voxels of one structure in one case add up to.

    Parameters
    ----------
    table : (B, 3) float64 array
        For each bin its voxels, the sum of their probabilities, and how many belong to the structure.
    squares, surprise : float
        Sums of (p - y)^2 and of -ln of the probability of what is true.
    """

    table: NDArray[np.float64]
    squares: float = 0.0
    surprise: float = 0.0

    @classmethod
    def empty(cls, bins: int = BINS) -> ReliabilitySums:
        """No voxel yet."""
        return cls(table=np.zeros((bins, 3)))

    @classmethod
    def from_row(cls, row: NDArray[np.float64]) -> ReliabilitySums:
        """The sums that `row` wrote."""
        return cls(table=row[:-2].reshape(-1, 3).copy(), squares=float(row[-2]), surprise=float(row[-1]))

    def add(self, probability: NDArray[Any], true: NDArray[np.bool_]) -> None:
        """Take voxels.

        Parameters
        ----------
        probability : (n,) float array
            That the voxel belongs to the structure, 0..1.
        true : (n,) bool array
            Whether it does.
        """
        stated = np.clip(probability.astype(np.float64), 0.0, 1.0)
        bins = len(self.table)
        index = np.minimum((stated * bins).astype(np.intp), bins - 1)
        self.table[:, 0] += np.bincount(index, minlength=bins)
        self.table[:, 1] += np.bincount(index, weights=stated, minlength=bins)
        self.table[:, 2] += np.bincount(index, weights=true, minlength=bins)
        self.squares += float(((stated - true) ** 2).sum())
        right = np.where(true, stated, 1.0 - stated)
        self.surprise -= float(np.log(np.maximum(right, LEAST_PROBABILITY)).sum())

    def row(self) -> NDArray[np.float64]:
        """(3 B + 2,) all sums, for resampling."""
        return np.concatenate([self.table.ravel(), [self.squares, self.surprise]])


@dataclass(frozen=True, slots=True, kw_only=True)
class Reliability:
    """Reliability of one structure over cases; measures are None where no voxel was looked at.

    Parameters
    ----------
    bins : (B, 3) float64 array
        As in `ReliabilitySums`, over all cases.
    cases, patients : int
        With a voxel that was looked at.
    measures : mapping of str to float or None
        `ece`, `mce`, `brier`, `nll`: 0 is best for all.
    intervals : mapping of str to (float, float) or None
        Bootstrap over patients.
    level : float
        Of the intervals.
    """

    bins: NDArray[np.float64]
    cases: int
    patients: int
    measures: Mapping[str, float | None]
    intervals: Mapping[str, tuple[float, float] | None]
    level: float

    @property
    def voxels(self) -> int:
        """Voxels that were looked at."""
        return int(self.bins[:, 0].sum())

    def bin_rows(self) -> list[dict[str, Any]]:
        """`low` and `high` edge, mean `confidence`, observed `accuracy` and `count` of each bin with a voxel."""
        width = 1.0 / len(self.bins)
        return [
            {
                "low": round(index * width, 6),
                "high": round((index + 1) * width, 6),
                "confidence": float(stated / count),
                "accuracy": float(true / count),
                "count": int(count),
            }
            for index, (count, stated, true) in enumerate(self.bins.tolist())
            if count
        ]

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values, without NaN."""
        intervals = {
            f"{name}_interval": None if found is None else list(found)
            for name, found in self.intervals.items()
        }
        counts = {"voxels": self.voxels, "cases": self.cases, "patients": self.patients}
        return {"bins": self.bin_rows(), **self.measures, **intervals, **counts, "level": self.level}

    def row(self) -> dict[str, Cell]:
        """Cells of a CSV."""
        row: dict[str, Cell] = {"voxels": self.voxels, "cases": self.cases, "patients": self.patients}
        for name in MEASURES:
            low, high = self.intervals[name] or (None, None)
            row |= {name: self.measures[name], f"{name}_low": low, f"{name}_high": high}
        return row


def reliability(cases: Sequence[tuple[str, ReliabilitySums]], bootstrap: PatientBootstrap) -> Reliability:
    """Expected and maximum calibration error, Brier score and negative log-likelihood over cases.

    All voxels count alike. ECE = sum over bins of (n_b / n) |mean p - share that is true|; MCE is the largest of
    those gaps; Brier is the mean of (p - y)^2; NLL the mean of -ln of the probability of what is true.

    Parameters
    ----------
    cases : sequence of (patient_id, sums)
    bootstrap : PatientBootstrap
        Of the patients, for the intervals.

    References
    ----------
    Naeini, Cooper and Hauskrecht, AAAI 2015 (ECE, MCE). Brier, Mon Weather Rev 1950;78:1. Guo et al., On calibration
    of modern neural networks, ICML 2017, arXiv:1706.04599.
    """
    kept = [(patient, sums.row()) for patient, sums in cases if sums.table[:, 0].any()]
    bins = len(cases[0][1].table) if cases else BINS
    if not kept:
        nothing = dict.fromkeys(MEASURES)
        return Reliability(
            bins=np.zeros((bins, 3)), cases=0, patients=0, measures=nothing, intervals=nothing,
            level=bootstrap.level,
        )  # fmt: skip
    patients, rows = [patient for patient, _ in kept], np.array([row for _, row in kept])
    whole = _measures(rows.sum(axis=0)[None], bins)
    drawn, _ = bootstrap.moment_samples(rows, patients)
    samples = _measures(drawn[drawn[:, : 3 * bins : 3].sum(axis=1) > 0], bins)
    count = len(set(patients))
    return Reliability(
        bins=rows.sum(axis=0)[: 3 * bins].reshape(bins, 3),
        cases=len(kept),
        patients=count,
        measures={name: float(values[0]) for name, values in whole.items()},
        intervals={name: bootstrap.interval(values, patients=count) for name, values in samples.items()},
        level=bootstrap.level,
    )


def _measures(rows: NDArray[np.float64], bins: int) -> dict[str, NDArray[np.float64]]:
    """Each measure for rows of sums, (n, 3 B + 2) -> (n,)."""
    table = rows[:, : 3 * bins].reshape(-1, bins, 3)
    count = table[..., 0]
    total = count.sum(axis=1)
    apart = np.abs(table[..., 1] - table[..., 2])
    gaps = np.divide(apart, count, out=np.zeros_like(apart), where=count > 0)
    return {
        "ece": apart.sum(axis=1) / total,
        "mce": gaps.max(axis=1),
        "brier": rows[:, -2] / total,
        "nll": rows[:, -1] / total,
    }
