"""Gray values: colour to gray, thresholds, normalisation, standardisation, histogram equalisation.

These are one-line formulas in NumPy, each held to MONAI's transform of the same meaning by a test:
importing MONAI's transforms takes longer than preprocessing a radiograph does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from medseg.errors import ConfigError, InputError, InputRefusedError
from medseg.transforms.options import Binarise, Gray, Normalise, Standardise

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


def binarise(array: NDArray[np.float32], step: Binarise) -> NDArray[np.float32]:
    """1.0 above the threshold, 0.0 elsewhere; Otsu's threshold is each channel's own."""

    def one(channel: NDArray[np.float32]) -> NDArray[np.float32]:
        level = otsu_threshold(channel) if step.threshold is None else step.threshold
        return (channel > level).astype(np.float32)

    return _by_channel(array, one)


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
    low, high = _range(image, "otsu")
    counts = np.bincount(quantise(image, low, high, bins).ravel(), minlength=bins).astype(np.float64)
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


def normalise(array: NDArray[np.float32], step: Normalise) -> NDArray[np.float32]:
    """Map the two ends that `step` describes to ``step.to``.

    Raises
    ------
    InputRefusedError
        Both ends are the same: the image has no contrast.
    """

    def one(part: NDArray[np.float32]) -> NDArray[np.float32]:
        if step.method == "window":
            low, high = step.ends
        elif step.method == "percentile":
            low, high = (float(v) for v in np.percentile(part, step.ends))
        else:
            low, high = float(part.min()), float(part.max())
        if not low < high:
            raise InputRefusedError(f"normalise: the image has no contrast, both ends are {low:g}")
        factor = (step.to[1] - step.to[0]) / (high - low)
        result = (part - np.float32(low)) * np.float32(factor) + np.float32(step.to[0])
        return np.clip(result, *step.to, out=result) if step.clip else result

    return _by_channel(array, one) if step.channelwise else one(array)


def standardise(
    array: NDArray[np.float32], step: Standardise, statistics: Mapping[str, float] | None
) -> NDArray[np.float32]:
    """Subtract a mean, divide by a standard deviation.

    Parameters
    ----------
    array : (C, *spatial) float32 array
    step : Standardise
    statistics : mapping or None
        `mean` and `std` of the training data, for method dataset.

    Raises
    ------
    ConfigError
        Method dataset without statistics.
    InputRefusedError
        The values do not vary, or no voxel is foreground.
    """
    if step.method == "dataset":
        missing = [key for key in ("mean", "std") if key not in (statistics or {})]
        if statistics is None or missing:
            raise ConfigError(
                f"standardise: method dataset needs the training data's {' and '.join(missing)}"
            )
        return _standardised(array, statistics["mean"], statistics["std"])

    def one(part: NDArray[np.float32]) -> NDArray[np.float32]:
        chosen = part[part > step.threshold] if step.method == "masked" else part
        if chosen.size == 0:
            raise InputRefusedError(f"standardise: no voxel lies above the threshold {step.threshold:g}")
        # Sums of 20 million float32 values lose digits unless added in double.
        return _standardised(part, float(chosen.mean(dtype=np.float64)), float(chosen.std(dtype=np.float64)))

    return _by_channel(array, one) if step.channelwise else one(array)


def equalise_histogram(array: NDArray[np.float32], *, bins: int) -> NDArray[np.float32]:
    """Each channel's gray values replaced by their rank, 0 to 1, so that all are about equally frequent."""

    def one(channel: NDArray[np.float32]) -> NDArray[np.float32]:
        low, high = _range(channel, "equalise")
        levels = quantise(channel, low, high, bins)
        ranks = np.cumsum(np.bincount(levels.ravel(), minlength=bins)).astype(np.float64)
        table = (ranks - ranks[0]) / (ranks[-1] - ranks[0])
        return np.asarray(table.astype(np.float32)[levels])

    return _by_channel(array, one)


def _standardised(array: NDArray[np.float32], mean: float, std: float) -> NDArray[np.float32]:
    if not std > 0:
        raise InputRefusedError(f"standardise: the values do not vary, all are {mean:g}")
    result: NDArray[np.float32] = (array - np.float32(mean)) / np.float32(std)
    return result


def _range(image: NDArray[np.float32], step: str) -> tuple[float, float]:
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
