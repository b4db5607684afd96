"""How alike two maps are: rank correlation and structural similarity."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from scipy.stats import rankdata

_MOST_VOXELS = 1 << 20
_SIGMA = 1.5


def rank_correlation(one: NDArray[Any], other: NDArray[Any]) -> float | None:
    """Spearman's rank correlation of the sizes of two maps; None where one of them does not vary.

    Parameters
    ----------
    one, other : arrays of the same shape
        Signs are dropped, as Adebayo et al. do. Maps of more than a million voxels are sampled on an even grid.

    Returns
    -------
    float or None
        -1..1; 1 for the same order, 0 for none in common.
    """
    step = max(1, -(-one.size // _MOST_VOXELS))
    ranks = [rankdata(np.abs(part.ravel()[::step])) for part in (one, other)]
    if any(np.ptp(part) == 0 for part in ranks):
        return None
    return float(np.corrcoef(ranks)[0, 1])


def structural_similarity(one: NDArray[Any], other: NDArray[Any]) -> float | None:
    """Mean SSIM of the sizes of two maps, each divided by its largest; None where one of them is zero.

    Windows are Gaussian with a standard deviation of 1.5 voxels; K1 = 0.01, K2 = 0.03, range 1.

    References
    ----------
    Wang et al., Image quality assessment: from error visibility to structural similarity, IEEE TIP 2004,
    doi:10.1109/TIP.2003.819861.
    """
    a, b = (np.abs(np.asarray(part, dtype=np.float64)) for part in (one, other))
    if a.max() == 0 or b.max() == 0:
        return None
    a, b = a / a.max(), b / b.max()
    mean_a, mean_b = _smooth(a), _smooth(b)
    var_a, var_b = _smooth(a * a) - mean_a**2, _smooth(b * b) - mean_b**2
    cov = _smooth(a * b) - mean_a * mean_b
    c1, c2 = 0.01**2, 0.03**2
    ratio = (2 * mean_a * mean_b + c1) * (2 * cov + c2)
    return float(np.mean(ratio / ((mean_a**2 + mean_b**2 + c1) * (var_a + var_b + c2))))


def _smooth(values: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(gaussian_filter(values, _SIGMA, truncate=3.5), dtype=np.float64)
