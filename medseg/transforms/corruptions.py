"""What scanners, films and archives do to gray values: noise, blur, motion, uneven field, tone, resolution, JPEG.

Each function takes a (C, *spatial) float32 image, leaves it as it is and gives another; a strength of nothing gives
the same values. Ranges are those between the 0.5th and the 99.5th percentile, so that one bright pixel decides nothing.

References
----------
Hendrycks and Dietterich, Benchmarking neural network robustness to common corruptions, ICLR 2019, arXiv:1903.12261;
Boone et al., ROOD-MRI, NeuroImage 2023, doi:10.1016/j.neuroimage.2023.120289.
"""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pictures
from scipy.ndimage import correlate1d, gaussian_filter1d

from medseg.transforms.corruption_levels import VALUE_LEVELS, ValueCorruption
from medseg.transforms.random_geometry import contract_first

Image = NDArray[np.float32]
_DEGREE = 3


def corrupt(
    image: Image,
    kind: ValueCorruption,
    level: float,
    random: np.random.Generator,
    *,
    voxels: Sequence[float],
    ghosts: bool = False,
) -> Image:
    """An image with one corruption.

    Parameters
    ----------
    image : (C, *spatial) float32 array
        Left unchanged.
    kind : ValueCorruption
    level : float
        In the unit of `VALUE_LEVELS`; lengths as `voxels` has them.
    random : Generator
        The same state gives the same pattern at every level.
    voxels : sequence of float
        Voxels along each axis that one unit of length has.
    ghosts : bool, optional
        Whether motion leaves ghosts, as in MR; else it smears.

    Returns
    -------
    (C, *spatial) float32 array
    """
    if kind == "noise":
        return add_noise(image, level / 100, random)
    if kind == "blur":
        return blur(image, [level * n for n in voxels])
    if kind == "motion":
        axis = int(random.integers(image.ndim - 1))
        moved = level * voxels[axis]
        return ghost(image, axis, moved, random) if ghosts else smear(image, axis, moved)
    if kind == "bias_field":
        return uneven(image, level / 100, random)
    if kind == "gamma":
        return tone(image, level if random.random() < 0.5 else 1 / level)
    if kind == "contrast":
        return fade(image, level / 100)
    if kind == "downsample":
        return coarsen(image, level)
    return compress(image, round(level))


def random_corruption(
    image: Image, kinds: Sequence[ValueCorruption], severity: int, random: np.random.Generator
) -> Image:
    """One of `kinds` at a severity from 1 to `severity`, both drawn; lengths as for pictures, whatever the axes."""
    kind = kinds[int(random.integers(len(kinds)))]
    level = VALUE_LEVELS[kind].levels[int(random.integers(severity))]
    side = max(image.shape[1:]) / 100
    return corrupt(image, kind, level, random, voxels=[side] * (image.ndim - 1))


def add_noise(image: Image, share: float, random: np.random.Generator) -> Image:
    """Gaussian noise with a standard deviation of a share of the range; values stay within the image's extremes."""
    low, high = usual_range(image)
    grain = random.standard_normal(image.shape, dtype=np.float32)
    return np.clip(image + np.float32(share * (high - low)) * grain, image.min(), image.max())


def blur(image: Image, sigmas: Sequence[float]) -> Image:
    """Gaussian smoothing with a standard deviation in voxels for each axis, the rim repeated."""
    for axis, sigma in enumerate(sigmas):
        if sigma > 0:
            image = gaussian_filter1d(image, sigma, axis=axis + 1, mode="nearest", truncate=3.0)
    return image


def smear(image: Image, axis: int, length: float) -> Image:
    """The mean of the image on its way along an axis, `length` voxels in all: motion while it is exposed."""
    half = int(np.ceil(length / 2))
    reach = np.arange(-half, half + 1)
    # Each tap gets the part of the way that is nearest to it.
    kernel = np.clip(length / 2 + 0.5 - np.abs(reach), 0, 1)
    if length <= 0:
        return image
    return np.asarray(
        correlate1d(image, kernel / kernel.sum(), axis=axis + 1, mode="nearest"), dtype=np.float32
    )


def ghost(image: Image, axis: int, length: float, random: np.random.Generator) -> Image:
    """Motion along an axis between the lines of k-space that MR takes, `length` voxels at most.

    The patient lies still for the central quarter of the lines, which carry the contrast, and in three other
    places for the rest of the lines on either side, drawn between half of and the whole length.

    References
    ----------
    Shaw et al., MRI k-space motion artefact augmentation, MIDL 2019 (PMLR 102:427).
    """
    count = image.shape[axis + 1]
    frequency = np.fft.fftfreq(count)
    order = np.argsort(np.abs(frequency), kind="stable")
    shift = np.zeros(count)
    outer = order[max(1, count // 4) :]
    for part in np.array_split(outer, 3):
        shift[part] = length * random.uniform(0.5, 1.0) * random.choice([-1.0, 1.0])
    phase = np.exp(-2j * np.pi * frequency * shift)
    shape = [1] * image.ndim
    shape[axis + 1] = count
    spectrum = np.fft.fft(image, axis=axis + 1) * phase.reshape(shape)
    moved = (
        np.abs(np.fft.ifft(spectrum, axis=axis + 1))
        if image.min() >= 0
        else np.fft.ifft(spectrum, axis=axis + 1).real
    )
    return np.asarray(moved, dtype=np.float32)


def uneven(image: Image, strength: float, random: np.random.Generator) -> Image:
    """Multiply distances from the minimum with a smooth field between 1 - strength and 1 + strength."""
    dims, terms = image.ndim - 1, _DEGREE + 1
    weights = random.uniform(-1, 1, [terms] * dims)
    total = sum(np.indices(weights.shape))
    weights[(total > _DEGREE) | (total == 0)] = 0
    field = weights
    for length in image.shape[1:]:
        field = contract_first(np.polynomial.legendre.legvander(np.linspace(-1, 1, length), _DEGREE), field)
    field = field / max(float(np.abs(field).max()), 1e-12)
    low = np.float32(image.min())
    return np.asarray((image - low) * (1 + strength * field).astype(np.float32) + low)


def tone(image: Image, exponent: float) -> Image:
    """Values brought to 0..1 by the image's extremes, raised to a power, and back."""
    low, high = np.float32(image.min()), np.float32(image.max())
    if low == high:
        return image
    return np.asarray(((image - low) / (high - low)) ** np.float32(exponent) * (high - low) + low)


def fade(image: Image, left: float) -> Image:
    """A share of the distance from the mean; whole numbers stay whole, so that gray levels are lost as in a file."""
    mean = np.float32(image.mean(dtype=np.float64))
    faded = np.asarray((image - mean) * np.float32(left) + mean)
    return np.rint(faded) if np.array_equal(image, np.rint(image)) else faded


def coarsen(image: Image, factor: float) -> Image:
    """Averaged to larger voxels, `factor` along each axis, and interpolated back linearly."""
    import torch
    from torch.nn.functional import interpolate

    shape = image.shape[1:]
    small = [max(1, round(n / factor)) for n in shape]
    tensor = interpolate(torch.from_numpy(np.ascontiguousarray(image))[None], size=small, mode="area")
    mode = "bilinear" if len(shape) == 2 else "trilinear"
    return np.asarray(interpolate(tensor, size=list(shape), mode=mode, align_corners=False)[0].numpy())


def compress(image: Image, quality: int) -> Image:
    """Written as 8-bit JPEG of a quality of 1 to 95 and read again; volumes slice by slice along the last axis."""
    low, high = float(image.min()), float(image.max())
    if low == high:
        return image
    steps = np.round((image - low) * (255 / (high - low))).astype(np.uint8)
    flat = steps[..., np.newaxis] if steps.ndim == 3 else steps
    result = np.empty(flat.shape, dtype=np.float32)
    for channel in range(flat.shape[0]):
        for k in range(flat.shape[-1]):
            stream = io.BytesIO()
            Pictures.fromarray(np.ascontiguousarray(flat[channel, ..., k])).save(
                stream, "JPEG", quality=quality
            )
            result[channel, ..., k] = np.asarray(Pictures.open(stream), dtype=np.float32)
    return (result * np.float32((high - low) / 255) + np.float32(low)).reshape(image.shape)


def usual_range(image: NDArray[np.float32]) -> tuple[float, float]:
    """0.5th and 99.5th percentile of the values, of large images those of an even sample."""
    flat = image.ravel()
    sample = flat[:: max(1, flat.size >> 20)]
    low, high = (float(v) for v in np.percentile(sample, (0.5, 99.5)))
    return (low, high) if high > low else (float(flat.min()), float(flat.max()))
