"""Diameters of an object on any grid, straight, oblique or sheared: the longest, and the two of a plane."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import ConvexHull

_BLOCK = 512
# Diameters that differ by rounding alone are one length.
_SAME = 1e-9


@dataclass(frozen=True, slots=True, kw_only=True)
class PlaneAxes:
    """Long and short axis of an object in one plane, in the unit of the steps.

    Parameters
    ----------
    long, short : float
    ends : ((float, float), (float, float))
        Where the long axis begins and ends, as indices along the two axes of the plane.
    """

    long: float
    short: float
    ends: tuple[tuple[float, float], tuple[float, float]]


def plane_axes(mask: NDArray[np.bool_], steps: NDArray[np.float64]) -> PlaneAxes | None:
    """Longest diameter in a plane and the longest one perpendicular to it, as radiologists measure lesions.

    Both are those of the convex hull of the outline that `longest_diameter` uses, so a single pixel has axes
    of one pixel. The short axis is a chord of the hull. Of several longest diameters of one length the one
    with the longest perpendicular counts.

    Parameters
    ----------
    mask : (I, J) bool array
    steps : (N, 2) float array
        Columns: the step in space from one pixel to the next along each axis.

    Returns
    -------
    PlaneAxes or None
        None for an empty mask.

    References
    ----------
    Eisenhauer et al., New response evaluation criteria in solid tumours: revised RECIST guideline (version
    1.1), Eur J Cancer 2009, doi:10.1016/j.ejca.2008.10.026: the longest diameter in the plane of measurement,
    and the perpendicular short axis of nodes.
    """
    points = np.concatenate([_end_points(mask, axis) for axis in range(2)])
    if not len(points):
        return None
    corners = points[ConvexHull(points).vertices]
    # The triangular factor keeps all lengths and angles of the plane, in two coordinates.
    flat = corners @ np.linalg.qr(np.asarray(steps, dtype=np.float64))[1].T
    apart = np.hypot(*np.moveaxis(flat[:, None] - flat[None], -1, 0))
    longest = float(apart.max())
    first, last = np.nonzero(np.triu(apart >= longest * (1 - _SAME), k=1))
    shorts = [_widest_chord(flat, flat[a], flat[b]) for a, b in zip(first, last, strict=True)]
    best = int(np.argmax(np.round(np.array(shorts) / longest, 9)))
    a, b = (corners[int(where[best])] for where in (first, last))
    return PlaneAxes(
        long=longest, short=shorts[best], ends=((float(a[0]), float(a[1])), (float(b[0]), float(b[1])))
    )


def _widest_chord(
    polygon: NDArray[np.float64], start: NDArray[np.float64], stop: NDArray[np.float64]
) -> float:
    """Longest chord of a convex polygon at right angles to a line: it passes through a corner."""
    direction = (stop - start) / np.linalg.norm(stop - start)
    along = (polygon - start) @ direction
    across = (polygon - start) @ np.array([-direction[1], direction[0]])
    there, beyond = np.roll(along, -1), np.roll(across, -1)
    run = there - along
    # An edge that runs across begins and ends where its neighbours do.
    edges = np.abs(run) > _SAME
    share = (along[:, None] - along[None, edges]) / run[None, edges]
    height = across[None, edges] + share * (beyond - across)[None, edges]
    hit = (share >= -_SAME) & (share <= 1 + _SAME)
    top = np.where(hit, height, -np.inf).max(axis=1)
    bottom = np.where(hit, height, np.inf).min(axis=1)
    return float((top - bottom).max())


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
