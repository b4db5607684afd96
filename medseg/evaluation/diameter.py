"""Longest diameter of an object on any grid: straight, oblique or sheared."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import ConvexHull

_BLOCK = 512


def longest_diameter(mask: NDArray[np.bool_], steps: NDArray[np.float64]) -> float:
    """Largest distance between two points of an object's surface, in the unit of `steps`; 0 when empty.

    The surface is that of the mesh which marching cubes at level one half draws around the mask: its
    corners lie half-way between a voxel centre inside and one outside, that is in the middle of the
    outer voxel faces. It counts whole slices: a single voxel is as long as its longest edge, and a ball
    that holds the centres of its voxels is measured too long by at most one step of the grid. Between
    voxel centres a structure on one slice would have no height, and a box would be a voxel too short.

    Parameters
    ----------
    mask : (I, J) or (I, J, K) bool array
        Voxels outside the array count as outside the object.
    steps : (N, 2) or (N, 3) float array
        Columns: the step in space from one voxel to the next along each axis, such as the linear part
        of an affine. Columns need not be perpendicular.

    References
    ----------
    Image Biomarker Standardisation Initiative, reference manual, arXiv 1612.07003: maximum 3D
    diameter, L0JK.
    """
    points = np.concatenate([_end_points(mask, axis) for axis in range(mask.ndim)])
    if not len(points):
        return 0.0
    # An affine map keeps the hull's corners, and half integers are exact: the hull is that of the indices.
    corners = points[ConvexHull(points).vertices] @ np.asarray(steps, dtype=np.float64).T
    squared = (corners**2).sum(axis=1)
    longest = 0.0
    for first in range(0, len(corners), _BLOCK):
        block = slice(first, first + _BLOCK)
        apart = squared[block, None] + squared[None] - 2 * corners[block] @ corners.T
        longest = max(longest, float(apart.max()))
    return float(np.sqrt(longest))


def _end_points(mask: NDArray[np.bool_], axis: int) -> NDArray[np.float64]:
    """(P, d) voxel indices of the outer faces that end the lines along one axis and may be corners of the hull."""
    lines = np.moveaxis(mask, axis, 0)
    filled = lines.any(axis=0)
    first = np.where(filled, lines.argmax(axis=0) - 0.5, np.inf)
    last = np.where(filled, len(lines) - lines[::-1].argmax(axis=0) - 0.5, -np.inf)
    ends = []
    for height, sign in ((first, 1.0), (last, -1.0)):
        where = np.nonzero(filled & ~_between(sign * height))
        ends.append(np.stack([height[where], *(index.astype(np.float64) for index in where)], axis=1))
    columns = [*range(1, axis + 1), 0, *range(axis + 1, mask.ndim)]
    return np.concatenate(ends)[:, columns]


def _between(height: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Where a line's end is no lower than the middle of its two neighbours' ends, so that it is no corner.

    It then lies between that middle and the other end of its own line. A corner of the hull lies between
    no two of the points, so all corners stay.
    """
    inner = np.zeros(height.shape, dtype=np.bool_)
    for axis in range(height.ndim):
        now, own = np.moveaxis(inner, axis, 0), np.moveaxis(height, axis, 0)
        now[1:-1] |= own[1:-1] >= (own[:-2] + own[2:]) / 2
    return inner
