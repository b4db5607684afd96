"""Agreement of masks at their borders: HD95 and normalised surface Dice, in 2-D and 3-D.

Definitions are MONAI's (`compute_hausdorff_distance` with percentile 95, `compute_surface_dice`
without sub-voxels): border voxels are those with a face neighbour outside the mask, distances are
Euclidean between voxel centres. The work is done on the border voxels alone with a k-d tree: on a
radiograph of 4892 x 4020 pixels that takes 0.1 s where a distance transform takes 3.5 s.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from medseg.errors import GeometryError


@dataclass(frozen=True, slots=True, kw_only=True)
class SurfaceDistances:
    """Distances between two borders, in the unit of the spacing.

    `to_reference` has one entry per border voxel of the prediction, `to_prediction` one per border
    voxel of the reference.
    """

    to_reference: NDArray[np.float64]
    to_prediction: NDArray[np.float64]


def border(mask: NDArray[np.bool_], unknown: NDArray[np.bool_] | None = None) -> NDArray[np.bool_]:
    """Voxels of a mask that have a face neighbour outside it; the edge of the image counts as outside.

    Parameters
    ----------
    mask : bool array of any shape
    unknown : bool array of the same shape, optional
        Voxels of which it is not known whether they belong to the mask: no border runs along them.
    """
    body = mask if unknown is None else mask | unknown
    inner = body.copy()
    for axis in range(mask.ndim):
        now, source = np.moveaxis(inner, axis, 0), np.moveaxis(body, axis, 0)
        now[1:] &= source[:-1]
        now[:-1] &= source[1:]
        now[[0, -1]] = False
    return mask & ~inner


def crop_box(mask: NDArray[np.bool_]) -> tuple[slice, ...] | None:
    """Smallest box that holds every voxel of the mask; None for an empty mask."""
    box = []
    for axis in range(mask.ndim):
        others = tuple(a for a in range(mask.ndim) if a != axis)
        filled = np.flatnonzero(mask.any(axis=others))
        if filled.size == 0:
            return None
        box.append(slice(int(filled[0]), int(filled[-1]) + 1))
    return tuple(box)


def surface_distances(
    prediction: NDArray[np.bool_],
    reference: NDArray[np.bool_],
    *,
    spacing: Sequence[float] | None,
    unknown: NDArray[np.bool_] | None = None,
) -> SurfaceDistances | None:
    """Distance from every border voxel of one mask to the nearest border voxel of the other.

    Parameters
    ----------
    prediction, reference : bool arrays of the same shape, 2-D or 3-D
    spacing : sequence of float, or None
        Distance between voxel centres along each axis. None: distances are in voxels.
    unknown : bool array, optional
        Voxels that count for neither mask.

    Returns
    -------
    SurfaceDistances, or None where one of the masks has no border to judge.

    Raises
    ------
    GeometryError
        The shapes differ, or the spacing has the wrong length.
    """
    if prediction.shape != reference.shape:
        raise GeometryError(f"masks must share a grid, found {prediction.shape} and {reference.shape}")
    scale = np.ones(prediction.ndim) if spacing is None else np.asarray(spacing, dtype=np.float64)
    if scale.shape != (prediction.ndim,):
        raise GeometryError(f"{prediction.ndim} axes need {prediction.ndim} spacings, found {spacing}")
    if unknown is not None:
        prediction, reference = prediction & ~unknown, reference & ~unknown
    box = crop_box(prediction | reference)
    if box is None:
        return None
    # One voxel of margin where there is room: an unknown voxel outside the box must still be seen.
    box = tuple(slice(max(0, b.start - 1), b.stop + 1) for b in box)
    inside = None if unknown is None else unknown[box]
    points = [np.argwhere(border(mask[box], inside)) * scale for mask in (prediction, reference)]
    if not all(len(p) for p in points):
        return None
    # The tree's default leaves hold 16 points; 32 answer one large query faster.
    trees = [cKDTree(p, leafsize=32) for p in points]
    return SurfaceDistances(
        to_reference=trees[1].query(points[0])[0], to_prediction=trees[0].query(points[1])[0]
    )


def hd95(distances: SurfaceDistances) -> float:
    """95th percentile Hausdorff distance: the larger of the two directed percentiles; 0 is best.

    Percentiles are interpolated linearly, as `torch.quantile` does. Pooling both directions before
    the percentile, as some tools do, gives another, mostly smaller number.

    References
    ----------
    Huttenlocher et al., Comparing images using the Hausdorff distance, PAMI 1993,
    doi:10.1109/34.232073. MONAI `compute_hausdorff_distance(percentile=95)`.
    """
    return float(max(np.percentile(distances.to_reference, 95), np.percentile(distances.to_prediction, 95)))


def nsd(distances: SurfaceDistances, tolerance: float) -> float:
    """Normalised surface Dice: share of both borders within `tolerance` of the other; 0..1, 1 is best.

    Compared in single precision, so that a distance equal to the tolerance up to rounding counts.

    References
    ----------
    Nikolov et al., Clinically applicable segmentation of head and neck anatomy for radiotherapy,
    JMIR 2021, doi:10.2196/26151. MONAI `compute_surface_dice(use_subvoxels=False)`.
    """
    both = np.concatenate([distances.to_reference, distances.to_prediction]).astype(np.float32)
    return float(np.count_nonzero(both <= np.float32(tolerance)) / both.size)


def image_diagonal(shape: Sequence[int], spacing: Sequence[float] | None) -> float:
    """Length of the diagonal of the whole image, the worst distance that a missed structure can have."""
    scale = np.ones(len(shape)) if spacing is None else np.asarray(spacing, dtype=np.float64)
    return float(np.linalg.norm(np.asarray(shape) * scale))
