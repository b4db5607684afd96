"""One number that makes stated probabilities as likely as possible on cases that the network never saw. NumPy only."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar

from medseg.calibration.reliability import LEAST_PROBABILITY

LOWEST, HIGHEST = 0.05, 20.0
"""Temperatures that are looked at."""
_ACCURACY = 1e-5


@dataclass(frozen=True, slots=True, kw_only=True)
class TemperatureFit:
    """A fitted temperature.

    Parameters
    ----------
    temperature : float
        1 leaves probabilities as they are; above 1 they are drawn to the middle.
    nll_before, nll_after : float
        Mean negative log-likelihood per voxel at 1 and at the temperature.
    voxels : int
        That it was fitted on.
    """

    temperature: float
    nll_before: float
    nll_after: float
    voxels: int


def fit_temperature(
    likely: Callable[[float], NDArray[np.floating]], allowed: NDArray[np.bool_]
) -> TemperatureFit | None:
    """The temperature with the smallest negative log-likelihood.

    The likelihood is that of the reference: the sum of the probabilities of the classes that it admits. It is
    searched in the logarithm of the temperature between `LOWEST` and `HIGHEST`; for one admitted class it is convex
    in 1 / temperature, so there is one minimum.

    Parameters
    ----------
    likely : callable (temperature) -> (L, n) float array
        Probabilities of the classes for n voxels.
    allowed : (n, L) bool array
        Classes that the reference of each voxel admits; voxels that admit all say nothing and are left out.

    Returns
    -------
    TemperatureFit or None
        None without a voxel that says anything, or where all say the same class.

    References
    ----------
    Guo et al., On calibration of modern neural networks, ICML 2017, arXiv:1706.04599.
    """
    told = ~allowed.all(axis=1)
    picks = allowed[told].T
    if not told.any() or (picks == picks[:, :1]).all():
        return None

    def surprise(exponent: float) -> float:
        values = likely(math.exp(exponent))[:, told]
        right = (values * picks).sum(axis=0, dtype=np.float64)
        return float(-np.log(np.maximum(right, LEAST_PROBABILITY)).mean())

    found = minimize_scalar(
        surprise,
        bounds=(math.log(LOWEST), math.log(HIGHEST)),
        method="bounded",
        options={"xatol": _ACCURACY},
    )
    before, after = surprise(0.0), float(found.fun)
    best = 0.0 if before <= after else float(found.x)
    return TemperatureFit(
        temperature=math.exp(best), nll_before=before, nll_after=min(before, after), voxels=int(told.sum())
    )
