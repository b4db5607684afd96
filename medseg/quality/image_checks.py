"""Cheap checks of an image before a network sees it: is it an image of the kind at all? NumPy only."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from medseg.quality.finding import Finding
from medseg.quality.options import GateOptions

_SMALLEST_SIDE = {2: 64, 3: 8}
_SAMPLE = 1 << 20
_TAILS = (0.5, 99.5)


def check_image(
    array: NDArray[Any], *, in_channels: int, options: GateOptions | None = None
) -> tuple[Finding, ...]:
    """Look at the raw voxels of an image before preprocessing.

    Parameters
    ----------
    array : (C, I, J) or (C, I, J, K) array
        As read, before any normalisation.
    in_channels : int
        Channels that the model takes; 1 for a model of grey images.
    options : GateOptions, optional

    Returns
    -------
    tuple of Finding
        All of level "refuse"; empty for an image that may pass.
    """
    options = options or GateOptions()
    found = _check_shape(array.shape[1:], options)
    if array.size == 0:
        return found
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        count = int(np.count_nonzero(~np.isfinite(array)))
        text = f"{count} of {array.size} values are NaN or infinite; the file is damaged"
        return (*found, Finding(check="finite", level="refuse", text=text, measured=float(count), limit=0.0))
    sample = _sample(array)
    found += _check_contrast(sample, options)
    if in_channels == 1 and len(sample) >= 3:
        found += _check_colour(sample[:3], options)
    return found


def _sample(array: NDArray[Any]) -> NDArray[np.float64]:
    """About a million voxels of each channel, taken at even steps along every axis."""
    axes = array.ndim - 1
    step = max(1, int(np.ceil((array[0].size / _SAMPLE) ** (1 / axes))))
    part = array[(slice(None), *(slice(None, None, step),) * axes)]
    return part.reshape(len(array), -1).astype(np.float64)


def _check_shape(shape: tuple[int, ...], options: GateOptions) -> tuple[Finding, ...]:
    """Only i and j count: a volume may have few slices."""
    short, long = min(shape[:2]), max(shape[:2])
    least = options.smallest_side or _SMALLEST_SIDE[len(shape)]
    if short < least:
        text = f"the image is {shape[0]} x {shape[1]} voxels; at least {least} a side are needed"
        return (
            Finding(
                check="size",
                level="refuse",
                text=text,
                measured=float(short),
                limit=float(least),
            ),
        )
    aspect = long / short
    if aspect > options.largest_aspect:
        text = (
            f"the image is {aspect:.1f} times as long as wide; at most {options.largest_aspect:g} is expected"
        )
        return (
            Finding(check="aspect", level="refuse", text=text, measured=aspect, limit=options.largest_aspect),
        )
    return ()


def _check_contrast(sample: NDArray[np.float64], options: GateOptions) -> tuple[Finding, ...]:
    low, high = np.percentile(sample, _TAILS)
    spread = float(high - low)
    # One hot pixel must not make a faint image look blank, so the tails do not count.
    if spread <= 1e-6 * max(abs(low), abs(high)):
        text = f"99 % of the pixels have the value {low:g}: the image is blank"
        return (Finding(check="contrast", level="refuse", text=text, measured=spread, limit=0.0),)
    levels = len(np.unique(sample))
    if levels < options.fewest_levels:
        text = f"the image has only {levels} grey values; it looks like a mask or a drawing"
        return (
            Finding(
                check="levels",
                level="refuse",
                text=text,
                measured=float(levels),
                limit=float(options.fewest_levels),
            ),
        )
    return ()


def _check_colour(rgb: NDArray[np.float64], options: GateOptions) -> tuple[Finding, ...]:
    low, high = np.percentile(rgb, _TAILS)
    spread = float((rgb.max(axis=0) - rgb.min(axis=0)).mean() / max(high - low, np.finfo(float).tiny))
    if spread <= options.colour_tolerance:
        return ()
    text = (
        f"the image is in colour (channels differ by {spread:.0%} of the grey range on average), "
        "the model is for grey images"
    )
    return (
        Finding(check="colour", level="refuse", text=text, measured=spread, limit=options.colour_tolerance),
    )
