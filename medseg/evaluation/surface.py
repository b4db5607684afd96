"""Agreement of masks at their borders: HD, HD95, ASSD and normalised surface Dice, in 2-D and 3-D.

Definitions are MONAI's (`compute_hausdorff_distance`, `compute_average_surface_distance` with
symmetric=True, `compute_surface_dice` without sub-voxels): border voxels are those with a face
neighbour outside the mask, distances are Euclidean between voxel centres. Most border voxels of a
usable mask lie on the other border or a few voxels off it, so the voxels around each are looked at
first, nearest first; only for those left over is a k-d tree built. Both are exact on any grid,
sheared ones included, where a distance transform is not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from medseg.errors import GeometryError
from medseg.evaluation.steps import ball

#: Voxels looked at around a border voxel before the tree is asked: about as long as one query takes.
_NEAR_VOXELS = 256


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
    spacing: Sequence[float] | None = None,
    steps: NDArray[np.float64] | None = None,
    unknown: NDArray[np.bool_] | None = None,
) -> SurfaceDistances | None:
    """Distance from every border voxel of one mask to the nearest border voxel of the other.

    Parameters
    ----------
    prediction, reference : bool arrays of the same shape, 2-D or 3-D
    spacing : sequence of float, or None
        Distance between voxel centres along each axis. None: distances are in voxels.
    steps : (d, d) float64 array, optional
        For grids that are not box-shaped, instead of `spacing`; see `steps.voxel_steps`.
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
    if steps is None:
        scale = np.ones(prediction.ndim) if spacing is None else np.asarray(spacing, dtype=np.float64)
        if scale.shape != (prediction.ndim,):
            raise GeometryError(f"{prediction.ndim} axes need {prediction.ndim} spacings, found {spacing}")
        steps = np.diag(scale)
    if unknown is not None:
        prediction, reference = prediction & ~unknown, reference & ~unknown
    box = crop_box(prediction | reference)
    if box is None:
        return None
    # One voxel of margin where there is room: an unknown voxel outside the box must still be seen.
    box = tuple(slice(max(0, b.start - 1), b.stop + 1) for b in box)
    inside = None if unknown is None else unknown[box]
    return border_distances(border(prediction[box], inside), border(reference[box], inside), steps)


def border_distances(
    first: NDArray[np.bool_], second: NDArray[np.bool_], steps: NDArray[np.float64]
) -> SurfaceDistances | None:
    """Distances between two sets of voxels, each to the nearest of the other set.

    Parameters
    ----------
    first, second : bool arrays of the same shape
        Borders of the prediction and of the reference.
    steps : (d, d) float64 array
        See `steps.voxel_steps`.

    Returns
    -------
    SurfaceDistances, or None where one of the sets is empty.
    """
    near = _Neighbourhood.around(steps, first.ndim)
    padded = [np.pad(one, near.margins) for one in (first, second)]
    places = [np.flatnonzero(one) for one in padded]
    if not all(p.size for p in places):
        return None
    search = _Search(near=near, steps=steps, shape=padded[0].shape)
    return SurfaceDistances(
        to_reference=search.nearest(places[0], padded[1], places[1]),
        to_prediction=search.nearest(places[1], padded[0], places[0]),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Neighbourhood:
    """Index differences by ascending length; `margins` is how far they reach along each axis."""

    offsets: NDArray[np.int64]
    lengths: NDArray[np.float64]
    margins: tuple[tuple[int, int], ...]

    @classmethod
    def around(cls, steps: NDArray[np.float64], dims: int) -> _Neighbourhood:
        content = np.pi if dims == 2 else 4 * np.pi / 3
        radius = (_NEAR_VOXELS * abs(np.linalg.det(steps)) / content) ** (1 / dims)
        offsets, lengths = ball(steps, float(radius))
        # Thick slices leave a disc of more voxels; what is cut off is left to the tree.
        offsets, lengths = offsets[:_NEAR_VOXELS], lengths[:_NEAR_VOXELS]
        reach = np.abs(offsets).max(axis=0)
        return cls(offsets=offsets, lengths=lengths, margins=tuple((int(n), int(n)) for n in reach))

    def shells(self) -> list[tuple[float, NDArray[np.int64]]]:
        """(length, offsets) of equal length up to rounding."""
        ends = np.flatnonzero(np.diff(self.lengths) > 1e-9 * self.lengths[1:]) + 1
        parts = np.split(self.offsets, ends)
        return list(zip(self.lengths[[0, *ends]].tolist(), parts, strict=True))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Search:
    """Nearest voxels of a set in an array with margins; voxels are named by their flat index."""

    near: _Neighbourhood
    steps: NDArray[np.float64]
    shape: tuple[int, ...]

    def nearest(
        self, places: NDArray[np.intp], target: NDArray[np.bool_], target_places: NDArray[np.intp]
    ) -> NDArray[np.float64]:
        """(N,) distance of each place to the nearest voxel of the target."""
        found = np.empty(places.size)
        flat, left, where = target.ravel(), np.arange(places.size), places
        strides = np.array([int(np.prod(self.shape[axis + 1 :])) for axis in range(len(self.shape))])
        for length, offsets in self.near.shells():
            jumps = offsets @ strides
            hit = flat[where + jumps[0]]
            for jump in jumps[1:]:
                hit |= flat[where + jump]
            found[left[hit]] = length
            left, where = left[~hit], where[~hit]
            if not left.size:
                return found
        tree = cKDTree(self._points(target_places), leafsize=32, balanced_tree=False)
        found[left] = tree.query(self._points(where))[0]
        return found

    def _points(self, places: NDArray[np.intp]) -> NDArray[np.float64]:
        """(N, d) positions in the unit of the steps."""
        return np.stack(np.unravel_index(places, self.shape), axis=1) @ self.steps.T


def hd(distances: SurfaceDistances) -> float:
    """Hausdorff distance: the largest distance of either border to the other; 0 is best.

    References
    ----------
    Huttenlocher et al., Comparing images using the Hausdorff distance, PAMI 1993,
    doi:10.1109/34.232073. MONAI `compute_hausdorff_distance(percentile=None)`.
    """
    return float(max(distances.to_reference.max(), distances.to_prediction.max()))


def assd(distances: SurfaceDistances) -> float:
    """Average symmetric surface distance: mean over the border voxels of both masks; 0 is best.

    The mean of all distances, not the mean of the two directed means (MASD).

    References
    ----------
    Heimann et al., Comparison and evaluation of methods for liver segmentation from CT datasets,
    IEEE TMI 2009, doi:10.1109/TMI.2009.2013851. MONAI `compute_average_surface_distance(symmetric=True)`.
    """
    total = distances.to_reference.sum() + distances.to_prediction.sum()
    return float(total / (distances.to_reference.size + distances.to_prediction.size))


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
