"""Noise filters: median, Gaussian, bilateral, non-local means. Radii and widths are in voxels.

SciPy for median and Gaussian: MONAI's MedianSmooth unfolds the image to (2 r + 1)^d copies, which is
nine times a radiograph's size for the smallest radius. SimpleITK for the bilateral filter, which
MONAI has on CUDA only. Non-local means is in neither.
"""

from __future__ import annotations

from itertools import product

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray
from scipy import ndimage

from medseg.transforms.options import Denoise


def denoise(array: NDArray[np.float32], step: Denoise) -> NDArray[np.float32]:
    """The filter that `step` names, on each channel of a (C, *spatial) array."""
    return np.stack([_filter(channel, step) for channel in array])


def _filter(channel: NDArray[np.float32], step: Denoise) -> NDArray[np.float32]:
    if step.method == "median":
        return np.asarray(ndimage.median_filter(channel, size=2 * step.radius + 1, mode="nearest"))
    if step.method == "gaussian":
        return np.asarray(ndimage.gaussian_filter(channel, step.sigma, mode="nearest"))
    if step.method == "bilateral":
        return _bilateral(channel, sigma=step.sigma, range_sigma=step.range_sigma)
    return non_local_means(channel, radius=step.radius, search=step.search, strength=step.strength)


def _bilateral(channel: NDArray[np.float32], *, sigma: float, range_sigma: float) -> NDArray[np.float32]:
    spread = float(np.ptp(channel))
    if spread == 0:
        return channel
    # The image keeps unit spacing, so that ITK's domain sigma, in mm, is in voxels.
    image = sitk.GetImageFromArray(np.ascontiguousarray(channel))
    return np.asarray(sitk.GetArrayFromImage(sitk.Bilateral(image, sigma, range_sigma * spread)))


def noise_deviation(channel: NDArray[np.float32]) -> float:
    """Standard deviation of the noise, from the median step between neighbours along the first axis.

    Edges are few and leave the median alone; fine texture counts as noise.
    """
    steps = np.abs(np.diff(channel, axis=0))
    # For Gaussian noise the median of |difference| is 0.6745 times its deviation, sqrt(2) times sigma.
    return float(np.median(steps) / (0.6745 * np.sqrt(2.0))) if steps.size else 0.0


def non_local_means(
    channel: NDArray[np.float32], *, radius: int, search: int, strength: float
) -> NDArray[np.float32]:
    """Mean of voxels whose surroundings look alike.

    w(p, q) = exp(-max(D(p, q) - 2 sigma^2, 0) / (strength sigma)^2), D the mean squared difference of
    the patches about p and q, computed for one shift q - p at a time with a running sum.

    Parameters
    ----------
    channel : (*spatial) float32 array
    radius : int
        Half width of a patch.
    search : int
        Half width of the window in which q is looked for; time grows with ``(2 search + 1) ** d``.
    strength : float
        Filter strength in units of the estimated noise deviation.

    References
    ----------
    Buades, Coll, Morel, A non-local algorithm for image denoising, CVPR 2005,
    doi:10.1109/CVPR.2005.38; Darbon et al., ISBI 2008, doi:10.1109/ISBI.2008.4541250.
    """
    sigma = noise_deviation(channel)
    if sigma == 0:
        return channel
    padded = np.pad(channel, search, mode="symmetric")
    total = np.zeros_like(channel)
    weights = np.zeros_like(channel)
    for shift in product(range(2 * search + 1), repeat=channel.ndim):
        other = padded[tuple(slice(s, s + n) for s, n in zip(shift, channel.shape, strict=True))]
        distance = ndimage.uniform_filter((channel - other) ** 2, size=2 * radius + 1, mode="nearest")
        excess = np.maximum(distance - np.float32(2 * sigma**2), 0)
        weight = np.exp(-excess / np.float32((strength * sigma) ** 2))
        total += weight * other
        weights += weight
    result: NDArray[np.float32] = total / weights
    return result
