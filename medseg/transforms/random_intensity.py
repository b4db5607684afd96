"""Random steps that change gray values or cover parts of an image. NumPy, one thread.

Every strength is relative to the image's own range (maximum - minimum), so the steps mean the same
for images in [0, 1] and for standardised ones; gamma brings the values to [0, 1] and back. Sums run in NumPy
because PyTorch's change in the last digit with the number of threads.
"""

from __future__ import annotations

from math import exp, log

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import correlate1d
from torch.nn.functional import interpolate

from medseg.transforms.corruptions import random_corruption
from medseg.transforms.options import (
    BiasField,
    Blur,
    Border,
    Brightness,
    Contrast,
    Corrupt,
    Cutout,
    Gamma,
    Invert,
    LowResolution,
    Noise,
    Sharpen,
)
from medseg.transforms.random_geometry import contract_first

IntensityStep = (
    Gamma
    | Contrast
    | Brightness
    | Invert
    | Noise
    | Blur
    | Sharpen
    | LowResolution
    | BiasField
    | Cutout
    | Corrupt
)
Image = NDArray[np.float32]


def change_values(image: Image, step: IntensityStep, random: np.random.Generator) -> Image:
    """One random intensity step.

    Parameters
    ----------
    image : (C, *spatial) float32 array
        Left unchanged. Range and strength are common to all channels unless the step is channelwise.
    step : IntensityStep
        Applied whatever its probability; the caller has drawn that.
    random : Generator

    Returns
    -------
    (C, *spatial) float32 array
    """
    if getattr(step, "channelwise", False) and len(image) > 1:
        return np.concatenate([change_values(channel[None], step, random) for channel in image])
    low, high = float(image.min()), float(image.max())
    if low == high:
        return image
    if isinstance(step, Gamma):
        exponent = _log_uniform(random, step.low, step.high)
        if step.inverted > 0 and random.random() < step.inverted:
            top = np.float32(low + high)
            return top - _gamma(top - image, low, high, exponent)
        return _gamma(image, low, high, exponent)
    if isinstance(step, Contrast):
        mean = np.float32(image.mean(dtype=np.float64))
        stretched = (image - mean) * np.float32(_log_uniform(random, step.low, step.high)) + mean
        return np.clip(stretched, low, high, out=stretched)
    if isinstance(step, Brightness):
        return image + np.float32(random.uniform(-step.shift, step.shift) * (high - low))
    if isinstance(step, Invert):
        return np.float32(low + high) - image
    if isinstance(step, Noise):
        deviation = np.float32(random.uniform(0, step.std) * (high - low))
        return image + deviation * random.standard_normal(image.shape, dtype=np.float32)
    if isinstance(step, Blur):
        return gaussian_blur(image, random.uniform(step.low, step.high), axes=step.axes)
    if isinstance(step, Sharpen):
        amount = np.float32(random.uniform(step.low, step.high))
        sharp = image + amount * (image - gaussian_blur(image, step.sigma))
        return np.clip(sharp, low, high, out=sharp)
    if isinstance(step, LowResolution):
        return _low_resolution(image, random.uniform(step.low, step.high), axes=step.axes)
    if isinstance(step, BiasField):
        return _bias_field(image, low, step, random)
    if isinstance(step, Corrupt):
        return random_corruption(image, step.kinds, step.severity, random)
    return _cutout(image, low, high, step, random)


def cover_border(
    image: Image, label: NDArray[np.int16], step: Border, random: np.random.Generator, *, outside_set: int
) -> tuple[Image, NDArray[np.int16]]:
    """A dark or bright frame of random widths; the label under it says `outside_set` unless kept.

    Parameters
    ----------
    image : (C, *spatial) float32 array
    label : (1, *spatial) int16 array
    """
    widths = random.random((image.ndim - 1, 2)) * step.fraction
    bright = step.level == "bright" or (step.level == "either" and bool(random.random() < 0.5))
    inner = [slice(None)]
    for (before, after), length in zip(widths, image.shape[1:], strict=True):
        inner.append(slice(int(before * length), length - int(after * length)))
    part = tuple(inner)
    covered = np.full_like(image, image.max() if bright else image.min())
    covered[part] = image[part]
    if step.label == "keep":
        return covered, label
    visible = np.full_like(label, outside_set)
    visible[part] = label[part]
    return covered, visible


def gaussian_blur(image: Image, sigma: float, *, axes: tuple[int, ...] | None = None) -> Image:
    """Each channel smoothed along some axes, the rim repeated; sums in a fixed order.

    Parameters
    ----------
    image : (C, *spatial) float32 array
    sigma : float
        Standard deviation in voxels; the kernel ends at three of them.
    axes : tuple of int, optional
        Spatial axes; all unless given.
    """
    radius = max(1, int(3 * sigma + 0.5))
    kernel = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
    kernel /= kernel.sum()
    for axis in range(image.ndim - 1):
        if axes is None or axis in axes:
            image = correlate1d(image, kernel, axis=axis + 1, mode="nearest")
    return image


def _log_uniform(random: np.random.Generator, low: float, high: float) -> float:
    return exp(random.uniform(log(low), log(high)))


def _gamma(image: Image, low: float, high: float, exponent: float) -> Image:
    unit = np.clip((image - np.float32(low)) / np.float32(high - low), 0, 1)
    # exp and log run several numbers at a time, the power does not.
    with np.errstate(divide="ignore"):
        np.log(unit, out=unit)
    unit *= np.float32(exponent)
    result: Image = np.exp(unit, out=unit) * np.float32(high - low) + np.float32(low)
    return result


def _low_resolution(image: Image, factor: float, *, axes: tuple[int, ...] | None) -> Image:
    shape = image.shape[1:]
    small = [max(1, round(n / factor)) if axes is None or axis in axes else n for axis, n in enumerate(shape)]
    tensor = torch.from_numpy(image)[None]
    tensor = interpolate(tensor, size=small, mode="area")
    mode = "bilinear" if len(shape) == 2 else "trilinear"
    return np.asarray(interpolate(tensor, size=list(shape), mode=mode, align_corners=False)[0].numpy())


def _bias_field(image: Image, low: float, step: BiasField, random: np.random.Generator) -> Image:
    dims, terms = image.ndim - 1, step.degree + 1
    weights = random.uniform(-step.coefficients, step.coefficients, [terms] * dims)
    # The constant term would only scale the whole image; terms above the total degree are left out.
    total = sum(np.indices(weights.shape))
    weights[(total > step.degree) | (total == 0)] = 0
    field = weights
    for length in image.shape[1:]:
        basis = np.polynomial.legendre.legvander(np.linspace(-1, 1, length), step.degree)
        field = contract_first(basis, field)
    # About the minimum, since an exposure multiplies distances from black.
    result: Image = (image - np.float32(low)) * np.exp(field).astype(np.float32) + np.float32(low)
    return result


def _cutout(image: Image, low: float, high: float, step: Cutout, random: np.random.Generator) -> Image:
    result = image.copy()
    dims = image.ndim - 1
    for _ in range(int(random.integers(1, step.holes + 1))):
        sides, places, level = random.random(dims), random.random(dims), random.uniform(low, high)
        part: list[slice] = [slice(None)]
        for side, place, length in zip(sides, places, image.shape[1:], strict=True):
            size = max(1, int(side * step.size * length))
            start = int(place * (length - size + 1))
            part.append(slice(start, start + size))
        result[tuple(part)] = level
    return result
