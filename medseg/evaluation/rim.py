"""Rims of masks: the voxels of a mask near its border, and how far two rims agree."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from medseg.evaluation.steps import ball
from medseg.evaluation.surface import border

_MOST_OFFSETS = 1024


def rim(
    mask: NDArray[np.bool_],
    *,
    steps: NDArray[np.float64],
    width: float,
    unknown: NDArray[np.bool_] | None = None,
) -> NDArray[np.bool_]:
    """Voxels of a mask whose centre lies within `width` of the centre of one of its border voxels.

    Parameters
    ----------
    mask : (I, J) or (I, J, K) bool array
    steps : (d, d) float64 array
        See `steps.voxel_steps`; `width` is in its unit.
    width : float
        Border voxels themselves belong to the rim at any width.
    unknown : bool array, optional
        No border runs along these voxels.
    """
    edge = border(mask, unknown)
    offsets, _ = ball(steps, width)
    if len(offsets) > _MOST_OFFSETS:
        return edge | _near_by_tree(mask & ~edge, edge, steps, width)
    reach = np.abs(offsets).max(axis=0)
    padded = np.pad(np.zeros_like(mask), [(int(n), int(n)) for n in reach])
    inner = tuple(slice(int(n), int(n) + size) for n, size in zip(reach, mask.shape, strict=True))
    places = np.argwhere(edge) + reach
    strides = np.array([int(np.prod(padded.shape[axis + 1 :])) for axis in range(mask.ndim)])
    flat, where = padded.ravel(), places @ strides
    for jump in offsets @ strides:
        flat[where + jump] = True
    return np.asarray(flat.reshape(padded.shape)[inner] & mask, dtype=np.bool_)


def _near_by_tree(
    inner: NDArray[np.bool_], edge: NDArray[np.bool_], steps: NDArray[np.float64], width: float
) -> NDArray[np.bool_]:
    """Voxels of `inner` within the width of the edge, for widths of many voxels."""
    places = np.argwhere(inner)
    tree = cKDTree(np.argwhere(edge) @ steps.T, leafsize=32)
    reach = width * (1 + 1e-12)
    near = tree.query(places @ steps.T, distance_upper_bound=np.nextafter(reach, np.inf))[0] <= reach
    found = np.zeros_like(inner)
    found[tuple(places[near].T)] = True
    return found


def boundary_iou(
    prediction: NDArray[np.bool_],
    reference: NDArray[np.bool_],
    *,
    steps: NDArray[np.float64],
    width: float,
    unknown: NDArray[np.bool_] | None = None,
) -> float | None:
    """Boundary IoU: intersection over union of the rims of both masks; 0..1, 1 is best.

    Parameters
    ----------
    prediction, reference : bool arrays of the same shape
    steps, width, unknown
        See `rim`.

    Returns
    -------
    float, or None where neither mask has a border to judge.

    References
    ----------
    Cheng et al., Boundary IoU: improving object-centric image segmentation evaluation, CVPR 2021,
    doi:10.1109/CVPR46437.2021.01508.
    """
    one, two = (rim(m, steps=steps, width=width, unknown=unknown) for m in (prediction, reference))
    union = np.count_nonzero(one | two)
    return float(np.count_nonzero(one & two) / union) if union else None
