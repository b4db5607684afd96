"""Corruptions of an image as the scanner gives it, together with its mask where they move what is shown."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import affine_transform

from medseg.transforms.corruption_levels import (
    GEOMETRY_LEVELS,
    VALUE_LEVELS,
    GeometryCorruption,
    Levels,
    ValueCorruption,
)
from medseg.transforms.corruptions import corrupt
from medseg.volume import Volume

Corruption = ValueCorruption | GeometryCorruption
CORRUPTIONS: tuple[Corruption, ...] = (*get_args(ValueCorruption), *get_args(GeometryCorruption))
_DECIMALS = 12


def levels_of(kind: Corruption, spatial_dims: int) -> tuple[tuple[float, ...], str]:
    """Strengths of a corruption at the severities 1 to 5, and their unit."""
    tables: dict[Any, Levels] = {**VALUE_LEVELS, **GEOMETRY_LEVELS}
    return tables[kind].of(spatial_dims)


def corrupted(
    volume: Volume, sets: NDArray[Any], kind: Corruption, level: float, *, seed: int
) -> tuple[Volume, NDArray[Any]]:
    """An image and its mask after one corruption; both are left as they are.

    Parameters
    ----------
    volume : Volume
        As read from its file.
    sets : (1, *spatial) integer array
        Mask as set indices, on the grid of the image.
    kind : Corruption
    level : float
        In the unit that `levels_of` names.
    seed : int
        The same seed gives the same pattern, place or direction at every level.

    Returns
    -------
    (Volume, (1, *spatial) integer array)
        The grid is another one where the field of view was cropped.
    """
    random = np.random.default_rng(seed)
    if kind == "rotation":
        return rotated(volume, sets, level if random.random() < 0.5 else -level)
    if kind == "crop":
        return cropped(volume, sets, level / 100, random)
    array = corrupt(
        volume.array.astype(np.float32),
        kind,
        level,
        random,
        voxels=voxels_per_length(volume),
        # Of volumes that do not say, most are MR; radiographs and CT are exposed, not sampled in k-space.
        ghosts=volume.spatial_dims == 3 and volume.modality not in ("CT", "PT", "NM"),
    )
    return replace(volume, array=array), sets


def voxels_per_length(volume: Volume) -> list[float]:
    """Voxels along each axis in one unit of length: 1 mm of a volume, 1 % of the longer side of a picture."""
    if volume.spatial_dims == 2:
        return [max(volume.spatial_shape) / 100] * 2
    return [1 / step for step in volume.spacing_mm or (1.0, 1.0, 1.0)]


def rotated(volume: Volume, sets: NDArray[Any], degrees: float) -> tuple[Volume, NDArray[Any]]:
    """The patient turned within the plane of the first two axes, about the centre of the image.

    In mm, so that pixels may be oblong. The image is interpolated linearly, the mask takes the nearest voxel; what
    comes from outside is the image's minimum and background.
    """
    matrix = np.eye(volume.spatial_dims)
    step = np.asarray((volume.spacing_mm or (1.0,) * volume.spatial_dims)[:2])
    angle = np.deg2rad(degrees)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    matrix[:2, :2] = turn * step[None, :] / step[:, None]
    # cos 90 degrees is not 0 in floating point, and the rim would fall outside.
    matrix = np.round(matrix, _DECIMALS)
    centre = (np.asarray(volume.spatial_shape) - 1) / 2
    offset = np.round(centre - matrix @ centre, _DECIMALS)
    channels = [
        affine_transform(channel.astype(np.float32), matrix, offset, order=1, cval=float(channel.min()))
        for channel in volume.array
    ]
    mask = affine_transform(sets[0], matrix, offset, order=0, cval=0)
    return replace(volume, array=np.stack(channels)), mask[np.newaxis]


def cropped(
    volume: Volume, sets: NDArray[Any], share: float, random: np.random.Generator
) -> tuple[Volume, NDArray[Any]]:
    """A share of each axis cut off, divided between its two ends by chance; the affine goes along."""
    starts, box = [], []
    for n in volume.spatial_shape:
        cut = min(round(share * n), n - 1)
        start = round(cut * random.random())
        starts.append(start)
        box.append(slice(start, n - cut + start))
    part = (slice(None), *box)
    affine = volume.affine
    if affine is not None:
        affine = affine.copy()
        affine[:3, 3] += affine[:3, : len(starts)] @ np.asarray(starts, dtype=np.float64)
    array = np.ascontiguousarray(volume.array[part])
    return replace(volume, array=array, affine=affine), np.ascontiguousarray(sets[part])
