"""Signed distance maps for the boundary loss."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt
from torch import Tensor


def signed_distance(inside: NDArray[np.bool_], spacing: Sequence[float] | None = None) -> NDArray[np.float32]:
    """Distance of each voxel to the border of a structure: positive outside, negative inside.

    Outside, the distance to the nearest voxel inside; inside, minus the distance to the nearest voxel outside
    plus one voxel (the smallest spacing), so that the outermost voxels of the structure have 0.

    Parameters
    ----------
    inside : bool array of any number of axes
    spacing : sequence of float, optional
        Voxel size along each axis; distances are in voxels unless given.

    Returns
    -------
    float32 array
        All 0 where the structure is empty or fills the image, since then there is no border.

    References
    ----------
    Kervadec et al., Med Image Anal 2021, doi:10.1016/j.media.2020.101851, and its published code.
    """
    found = np.zeros(inside.shape, dtype=np.float32)
    if not inside.any() or inside.all():
        return found
    box = _box_with_rim(inside)
    step = 1.0 if spacing is None else min(spacing)
    found[...] = distance_transform_edt(~inside, sampling=spacing)
    depth = distance_transform_edt(inside[box], sampling=spacing)
    found[box] -= (depth - step) * inside[box]
    return found


def _box_with_rim(mask: NDArray[np.bool_]) -> tuple[slice, ...]:
    """The box around a mask and one voxel more, which holds the nearest voxel outside of every voxel inside."""
    box = []
    for axis in range(mask.ndim):
        filled = np.flatnonzero(mask.any(axis=tuple(a for a in range(mask.ndim) if a != axis)))
        box.append(slice(max(0, int(filled[0]) - 1), int(filled[-1]) + 2))
    return tuple(box)


def distance_maps(
    label: Tensor, *, inside: Tensor, certain: Tensor, spacing: Sequence[float] | None = None
) -> Tensor:
    """Signed distances to every structure of every image of a batch, on the CPU.

    Parameters
    ----------
    label : (B, *sp) int64 tensor
        Set indices.
    inside, certain : (U, S) float tensors
        Whether a set lies surely in a structure; whether it lies surely in or surely outside.
    spacing : sequence of float, optional

    Returns
    -------
    (B, U, *sp) float32 tensor
        0 at voxels that may or may not belong to the structure.
    """
    sets = label.cpu().numpy()
    lookup, sure = inside.cpu().numpy() > 0, certain.cpu().numpy() > 0
    maps: NDArray[Any] = np.empty((len(sets), len(lookup), *sets.shape[1:]), dtype=np.float32)
    for image, out in zip(sets, maps, strict=True):
        for row, known, one in zip(lookup, sure, out, strict=True):
            one[...] = signed_distance(row[image], spacing)
            if not known.all():
                one *= known[image]
    return torch.from_numpy(maps)
