"""Gray values: colour to gray, thresholds, normalisation, standardisation, histogram equalisation.

These are one-line formulas in NumPy, each held to MONAI's transform of the same meaning by a test:
importing MONAI's transforms takes longer than preprocessing a radiograph does.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medseg.errors import InputError, InputRefusedError
from medseg.transforms.options import Gray

_REC601 = np.array([0.299, 0.587, 0.114], dtype=np.float32)


def to_gray(array: NDArray[np.float32], step: Gray) -> NDArray[np.float32]:
    """(C, *spatial) -> (1, *spatial); ITU-R BT.601 luma or the plain mean."""
    if array.shape[0] == 1:
        return array
    if step.weights == "mean":
        return np.asarray(array.mean(axis=0, keepdims=True), dtype=np.float32)
    if array.shape[0] != 3:
        raise InputError(f"gray: rec601 needs 3 channels, found {array.shape[0]}; use weights: mean")
    return np.asarray(np.einsum("c,c...->...", _REC601, array)[None], dtype=np.float32)


def otsu_threshold(image: NDArray[np.float32], *, bins: int = 256) -> float:
    """Threshold that separates two classes of gray values best: values above it are the upper class.

    Parameters
    ----------
    image : array of any shape
    bins : int, optional
        Resolution of the histogram between minimum and maximum.

    Raises
    ------
    InputRefusedError
        All values are the same.

    References
    ----------
    Otsu, A threshold selection method from gray-level histograms, IEEE Trans SMC 1979,
    doi:10.1109/TSMC.1979.4310076.
    """
    low, high = value_range(image, "otsu")
    return otsu_of(np.bincount(quantise(image, low, high, bins).ravel(), minlength=bins), low, high)


def otsu_of(counts: NDArray[Any], low: float, high: float) -> float:
    """Otsu's threshold by a histogram from `low` to `high`."""
    counts = counts.astype(np.float64)
    bins = len(counts)
    below = np.cumsum(counts)
    moment = np.cumsum(counts * np.arange(bins))
    above = below[-1] - below
    with np.errstate(divide="ignore", invalid="ignore"):
        between = (moment[-1] * below / below[-1] - moment) ** 2 / (below * above)
    between = np.nan_to_num(between, nan=0.0, posinf=0.0)
    # An empty gap in the histogram gives a plateau of equal values; its middle is the fair threshold.
    best = np.flatnonzero(between >= between.max() * (1 - 1e-12))
    cut = (best[0] + best[-1]) / 2
    return float(low + (cut + 1) * (high - low) / bins)


def quantise(image: NDArray[np.float32], low: float, high: float, bins: int) -> NDArray[np.uint16]:
    """Bin 0..bins-1 of each value, `low` to `high` being divided evenly."""
    scaled = (image - np.float32(low)) * np.float32(bins / (high - low))
    return np.clip(scaled, 0, bins - 1, out=scaled).astype(np.uint16)


def equalise_histogram(array: NDArray[np.float32], *, bins: int) -> NDArray[np.float32]:
    """Each channel's gray values replaced by their rank, 0 to 1, so that all are about equally frequent."""

    def one(channel: NDArray[np.float32]) -> NDArray[np.float32]:
        low, high = value_range(channel, "equalise")
        levels = quantise(channel, low, high, bins)
        ranks = np.cumsum(np.bincount(levels.ravel(), minlength=bins)).astype(np.float64)
        table = (ranks - ranks[0]) / (ranks[-1] - ranks[0])
        return np.asarray(table.astype(np.float32)[levels])

    return _by_channel(array, one)


def value_range(image: NDArray[np.float32], step: str) -> tuple[float, float]:
    """Minimum and maximum; refuses an image without contrast in the name of a step."""
    low, high = float(image.min()), float(image.max())
    if not low < high:
        raise InputRefusedError(f"{step}: the image has no contrast, all values are {low:g}")
    return low, high


def _by_channel(
    array: NDArray[np.float32], function: Callable[[NDArray[np.float32]], NDArray[np.float32]]
) -> NDArray[np.float32]:
    if array.shape[0] == 1:
        return function(array[0])[None]
    return np.stack([function(channel) for channel in array])
