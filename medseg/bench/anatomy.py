"""Volumes for the bench: a body in clipped air with organs of uneven shape and texture, and what each voxel is."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

CLASSES = 5
"""Background, a large organ, a pair of smaller ones, a bony rod, a vessel."""

# Means of body and of the classes 1..4; organs differ in the direction of their layers, since networks whose norms look
# at a window take hardly anything from how bright a part of it is. Noise is given by its standard deviation.
_GRAYS = (1.0, 1.4, 1.4, 1.4, 2.6)
_LAYERS, _LAYER_STEP = 1.0, 5.0
_NOISE = 0.4
# Sizes as a part of half the volume: how far shapes are bent, and how coarse the bends are, in voxels a step.
_BEND, _BEND_STEP = 0.08, 32


def draw_anatomy(shape: Sequence[int], seed: int) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """A volume and its label map; air around the body is 0 throughout, as after clipping.

    Parameters
    ----------
    shape : sequence of int
        (K, J, I), the first axis along the body.
    seed : int
        The same seed gives the same voxels; others have organs of other sizes at other places.
    """
    rng = np.random.default_rng(seed)
    axes = _bent_axes(shape, rng)
    labels = _organs(axes, rng)
    body = axes[2] ** 2 + (axes[1] / 0.8) ** 2 < 0.92**2
    labels[~body] = 0
    image = np.asarray(_GRAYS, np.float32)[labels]
    for axis in range(3):
        image += np.where(labels == 1 + axis, _layers(shape, axis, rng), 0)
    image += rng.normal(0, _NOISE, tuple(shape)).astype(np.float32)
    image[~body] = 0
    return image, labels


def _organs(axes: Sequence[NDArray[np.float32]], rng: np.random.Generator) -> NDArray[np.uint8]:
    """Class of each voxel by its coordinates; later ones lie in front of earlier ones."""
    z, y, x = axes
    labels = np.zeros(z.shape, np.uint8)
    jitter, sizes = rng.uniform(-1, 1, (5, 3)), rng.uniform(0.85, 1.15, 5)
    large = np.array((0.0, -0.2, -0.4)) + (0.15, 0.1, 0.08) * jitter[0]
    labels[_inside(axes, large, (0.6, 0.38, 0.34), sizes[0])] = 1
    for number, side in ((1, -0.42), (2, 0.42)):
        small = np.array((0.1, 0.36, side)) + (0.2, 0.06, 0.05) * jitter[number]
        labels[_inside(axes, small, (0.36, 0.16, 0.14), sizes[number])] = 2
    rod = (y - 0.5) ** 2 + (x - 0.04 * jitter[3, 0]) ** 2 < (0.12 * sizes[3]) ** 2
    labels[rod & (np.sin(z * 14) > -0.8)] = 3
    bends = y - 0.22 - 0.05 * np.sin(3 * z)
    labels[bends**2 + (x - 0.06 - 0.04 * jitter[4, 0]) ** 2 < (0.055 * sizes[4]) ** 2] = 4
    return labels


def _layers(shape: Sequence[int], axis: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """Bright and dark layers along an axis, bent."""
    places = np.arange(shape[axis], dtype=np.float32).reshape([-1 if a == axis else 1 for a in range(3)])
    bent = places + _smooth(shape, _BEND_STEP, rng)
    return np.asarray(_LAYERS * np.sin(2 * np.pi / _LAYER_STEP * bent), np.float32)


def _bent_axes(shape: Sequence[int], rng: np.random.Generator) -> list[NDArray[np.float32]]:
    """Coordinates from -1 to 1, shifted smoothly."""
    axes = np.meshgrid(*(np.linspace(-1, 1, n, dtype=np.float32) for n in shape), indexing="ij")
    return [axis + _BEND * _smooth(shape, _BEND_STEP, rng) for axis in axes]


def _smooth(shape: Sequence[int], step: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """Noise of standard deviation 1 on every so many-th voxel, interpolated."""
    coarse = rng.normal(0, 1, [-(-n // step) + 3 for n in shape]).astype(np.float32)
    fine = ndimage.zoom(coarse, step, order=1)
    start = rng.integers(0, step, len(shape))
    return np.asarray(fine[tuple(slice(int(a), int(a) + n) for a, n in zip(start, shape, strict=True))])


def _inside(
    axes: Sequence[NDArray[np.float32]], centre: NDArray[np.float64], radii: Sequence[float], size: float
) -> NDArray[np.bool_]:
    distance = sum(((axis - c) / (r * size)) ** 2 for axis, c, r in zip(axes, centre, radii, strict=True))
    return np.asarray(distance) < 1
