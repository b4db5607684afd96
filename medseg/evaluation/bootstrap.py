"""Bootstrap intervals of means and medians when patients, not images, are the sample."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_BLOCK = 1 << 22


@dataclass(frozen=True, slots=True, kw_only=True)
class PatientBootstrap:
    """Resamples of the patients, drawn once, so that all structures and metrics share them.

    Parameters
    ----------
    patients : tuple of str
        Sorted; one column of `weights` each.
    weights : (B, P) int array
        How often each patient was drawn in each resample; rows sum to P.
    level : float
        Coverage of the intervals, such as 0.95.
    """

    patients: tuple[str, ...]
    weights: NDArray[np.int32]
    level: float

    @classmethod
    def draw(cls, patients: Sequence[str], *, samples: int, level: float, seed: int) -> PatientBootstrap:
        """Resample the patients with replacement; the order of `patients` makes no difference."""
        names = tuple(sorted(set(patients)))
        count = len(names)
        rng = np.random.default_rng(seed)
        chances = np.full(count, 1.0 / count) if count else np.empty(0)
        weights = rng.multinomial(count, chances, size=samples) if count else np.empty((samples, 0))
        return cls(patients=names, weights=weights.astype(np.int32), level=level)

    def columns(self, patients: Sequence[str]) -> NDArray[np.intp]:
        """Column of each patient in `weights`."""
        where = {name: index for index, name in enumerate(self.patients)}
        return np.array([where[name] for name in patients], dtype=np.intp)

    def mean_samples(self, values: NDArray[np.float64], patients: Sequence[str]) -> NDArray[np.float64]:
        """Mean of the values in every resample that drew at least one of them; (<= B,) array.

        A patient brings all of its values or none, so that several images of one patient do not
        make an interval look narrower than it is.
        """
        column = self.columns(patients)
        sums = np.bincount(column, weights=values, minlength=len(self.patients))
        counts = np.bincount(column, minlength=len(self.patients))
        drawn = self.weights @ counts
        filled = drawn > 0
        return np.asarray((self.weights @ sums)[filled] / drawn[filled], dtype=np.float64)

    def difference_samples(
        self, values: NDArray[np.float64], inside: NDArray[np.bool_], patients: Sequence[str]
    ) -> NDArray[np.float64]:
        """Mean of the values inside minus mean of the others, in every resample that drew both; (<= B,) array.

        A patient with values of both kinds brings all of them.
        """
        column = self.columns(patients)
        means = []
        for side in (inside, ~inside):
            sums = np.bincount(column[side], weights=values[side], minlength=len(self.patients))
            counts = np.bincount(column[side], minlength=len(self.patients))
            means.append((self.weights @ sums, self.weights @ counts))
        drawn = (means[0][1] > 0) & (means[1][1] > 0)
        one, two = (total[drawn] / count[drawn] for total, count in means)
        return np.asarray(one - two, dtype=np.float64)

    def moment_samples(
        self, columns: NDArray[np.float64], patients: Sequence[str]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Sums of columns in every resample, and the number of rows drawn; (B, M) and (B,) arrays.

        Parameters
        ----------
        columns : (N, M) float64 array
            One row per case.
        """
        totals = np.zeros((len(self.patients), columns.shape[1] + 1))
        np.add.at(totals, self.columns(patients), np.column_stack([columns, np.ones(len(columns))]))
        drawn = np.asarray(self.weights @ totals, dtype=np.float64)
        return drawn[:, :-1], drawn[:, -1]

    def median_samples(self, values: NDArray[np.float64], patients: Sequence[str]) -> NDArray[np.float64]:
        """Median of the values in every resample that drew at least one of them; (<= B,) array."""
        order = np.argsort(values, kind="stable")
        ordered, column = values[order], self.columns(patients)[order]
        rows = max(1, _BLOCK // max(1, len(values)))
        blocks = [self.weights[start : start + rows] for start in range(0, len(self.weights), rows)]
        return np.concatenate([_weighted_medians(ordered, block[:, column]) for block in blocks])

    def interval(self, samples: NDArray[np.float64], *, patients: int) -> tuple[float, float] | None:
        """Percentile interval; None with fewer than two patients, which tell nothing of the spread.

        References
        ----------
        Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13. Field and Welsh,
        Bootstrapping clustered data, JRSS B 2007, doi:10.1111/j.1467-9868.2007.00593.x.
        """
        if patients < 2 or samples.size == 0:
            return None
        tail = 50.0 * (1.0 - self.level)
        low, high = np.percentile(samples, [tail, 100.0 - tail])
        return float(low), float(high)


def _weighted_medians(ordered: NDArray[np.float64], weights: NDArray[np.int32]) -> NDArray[np.float64]:
    """Median of ascending values that occur `weights` (rows, N) times; empty rows are left out."""
    reached = np.cumsum(weights, axis=1)
    reached = reached[reached[:, -1] > 0]
    total = reached[:, -1:]
    # The two middle ones of an even number, the same one twice of an odd number.
    lower = np.argmax(reached > (total - 1) // 2, axis=1)
    upper = np.argmax(reached > total // 2, axis=1)
    return np.asarray(0.5 * (ordered[lower] + ordered[upper]), dtype=np.float64)
