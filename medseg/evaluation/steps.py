"""Steps from voxel to voxel in mm, so that distances and sizes are right on oblique and sheared grids."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import numpy as np
from numpy.typing import NDArray

from medseg.errors import GeometryError


def voxel_steps(
    dims: int, spacing_mm: Sequence[float] | None, affine: NDArray[np.float64] | None = None
) -> NDArray[np.float64] | None:
    """Matrix that turns a difference of voxel indices into mm, up to a rotation.

    Parameters
    ----------
    dims : int
        Axes d of the image, 2 or 3.
    spacing_mm : sequence of float, or None
        Along each axis. None: unknown, whatever the affine says.
    affine : (4, 4) float64 array, optional
        Voxel to world. Where it is given it counts, and may be oblique or sheared.

    Returns
    -------
    (d, d) float64 array or None
        Upper triangular R with ``R.T @ R = A.T @ A``, A the first d columns of the affine: for every
        difference o of indices, ``|R @ o|`` is the distance in mm. Diagonal for a box-shaped grid.

    Raises
    ------
    GeometryError
        The number of spacings differs from that of the axes, or the grid has no extent.
    """
    if spacing_mm is None:
        return None
    if len(spacing_mm) != dims:
        raise GeometryError(f"{dims} axes need {dims} spacings, found {tuple(spacing_mm)}")
    if affine is None:
        return np.diag(np.asarray(spacing_mm, dtype=np.float64))
    columns = np.asarray(affine, dtype=np.float64)[:3, :dims]
    try:
        return np.asarray(np.linalg.cholesky(columns.T @ columns).T, dtype=np.float64)
    except np.linalg.LinAlgError as err:
        raise GeometryError(f"the affine {columns.tolist()} gives voxels without extent") from err


def voxel_size(steps: NDArray[np.float64]) -> float:
    """Area in mm2 or volume in mm3 of one voxel; `steps` as `voxel_steps` gives them."""
    return float(np.prod(np.diag(steps)))


def image_diagonal(shape: Sequence[int], steps: NDArray[np.float64] | None) -> float:
    """Longest diagonal of the whole image, the worst distance that a missed structure can have.

    In mm, or in voxels where `steps` is None. On a sheared grid the diagonals differ.
    """
    matrix = np.eye(len(shape)) if steps is None else steps
    signs = np.array(list(product((1.0, -1.0), repeat=len(shape))))
    return float(np.linalg.norm(signs * np.asarray(shape) @ matrix.T, axis=1).max())


def ball(steps: NDArray[np.float64], radius: float) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Differences of indices within a radius, nearest first, and their lengths.

    Parameters
    ----------
    steps : (d, d) float64 array
        See `voxel_steps`.
    radius : float
        In the unit of the steps.

    Returns
    -------
    offsets : (N, d) int64 array
        Every difference whose length is at most the radius; the first is zero.
    lengths : (N,) float64 array
    """
    # |e_i . o| = |row_i(R^-1) . (R o)| <= |row_i(R^-1)| r bounds each index.
    reach = np.floor(np.linalg.norm(np.linalg.inv(steps), axis=1) * radius * (1 + 1e-12)).astype(int)
    axes = np.meshgrid(*(np.arange(-n, n + 1) for n in reach), indexing="ij")
    offsets = np.stack([axis.ravel() for axis in axes], axis=1).astype(np.int64)
    lengths = np.linalg.norm(offsets @ steps.T, axis=1)
    inside = np.flatnonzero(lengths <= radius * (1 + 1e-12))
    order = inside[np.argsort(lengths[inside], kind="stable")]
    return offsets[order], np.asarray(lengths[order], dtype=np.float64)
