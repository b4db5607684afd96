"""Grids and the maps between them: affines, spacing, orientation. NumPy only.

World is RAS+ in millimetres, float64. A bare `affine` maps a voxel centre (i, j, k, 1) to RAS+.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medseg.errors import GeometryError

LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


def affine_lps_to_ras(affine_lps: NDArray[np.float64]) -> NDArray[np.float64]:
    """Affine whose world is LPS+ (DICOM, ITK) -> the same grid in RAS+; its own inverse."""
    return LPS_TO_RAS @ np.asarray(affine_lps, dtype=np.float64)


def spacing_of(affine: NDArray[np.float64]) -> tuple[float, ...]:
    """Distance in mm between neighbouring voxel centres along each voxel axis."""
    return tuple(float(v) for v in np.linalg.norm(np.asarray(affine)[:3, :3], axis=0))


@dataclass(frozen=True, slots=True, kw_only=True)
class GridMap:
    """How the grid that a step makes lies in the grid that it was given.

    Preprocessing is a chain of such maps; composed, they say where each voxel of the network's
    grid came from, so that a prediction goes back with one interpolation instead of one per step.

    Parameters
    ----------
    source_shape, target_shape : tuple of int
        Spatial shape before and after the step, same number of axes d.
    matrix : (d+1, d+1) float64 array
        Homogeneous map of a target voxel index to the source voxel index, centres at integers.
        Each row of the linear part has exactly one entry that is not zero: steps permute, flip,
        shift and scale axes, they do not shear or rotate.
    """

    source_shape: tuple[int, ...]
    target_shape: tuple[int, ...]
    matrix: NDArray[np.float64]

    def __post_init__(self) -> None:
        dims = len(self.source_shape)
        if len(self.target_shape) != dims or self.matrix.shape != (dims + 1, dims + 1):
            raise GeometryError(
                f"a grid map needs {dims} axes and a {dims + 1} x {dims + 1} matrix, "
                f"found target {self.target_shape} and matrix {self.matrix.shape}"
            )
        linear = self.matrix[:dims, :dims] != 0
        if not (linear.sum(axis=0) == 1).all() or not (linear.sum(axis=1) == 1).all():
            raise GeometryError("a grid map may permute, flip, shift and scale axes, not shear them")

    @classmethod
    def identity(cls, shape: tuple[int, ...]) -> GridMap:
        """The map of a step that leaves the grid alone."""
        return cls(source_shape=shape, target_shape=shape, matrix=np.eye(len(shape) + 1))

    @classmethod
    def crop_or_pad(
        cls, source_shape: tuple[int, ...], start: tuple[int, ...], target_shape: tuple[int, ...]
    ) -> GridMap:
        """Target voxel 0 is source voxel `start`, which may be negative (padding)."""
        matrix = np.eye(len(source_shape) + 1)
        matrix[:-1, -1] = start
        return cls(source_shape=source_shape, target_shape=target_shape, matrix=matrix)

    @classmethod
    def resize(cls, source_shape: tuple[int, ...], target_shape: tuple[int, ...]) -> GridMap:
        """Same field of view, other number of voxels: outer edges coincide, not centres."""
        scale = np.asarray(source_shape, dtype=np.float64) / np.asarray(target_shape)
        matrix = np.diag([*scale, 1.0])
        matrix[:-1, -1] = 0.5 * scale - 0.5
        return cls(source_shape=source_shape, target_shape=target_shape, matrix=matrix)

    @classmethod
    def permute_flip(
        cls, source_shape: tuple[int, ...], axes: tuple[int, ...], flips: tuple[bool, ...]
    ) -> GridMap:
        """Target axis t is source axis ``axes[t]``, read backwards where ``flips[t]``."""
        dims = len(source_shape)
        matrix = np.zeros((dims + 1, dims + 1))
        matrix[dims, dims] = 1.0
        for target_axis, (source_axis, flip) in enumerate(zip(axes, flips, strict=True)):
            matrix[source_axis, target_axis] = -1.0 if flip else 1.0
            matrix[source_axis, dims] = source_shape[source_axis] - 1 if flip else 0
        shape = tuple(source_shape[axis] for axis in axes)
        return cls(source_shape=source_shape, target_shape=shape, matrix=matrix)

    def then(self, following: GridMap) -> GridMap:
        """This step and after it `following`, as one map."""
        if following.source_shape != self.target_shape:
            raise GeometryError(
                f"steps do not join: one makes {self.target_shape}, the next expects {following.source_shape}"
            )
        return GridMap(
            source_shape=self.source_shape,
            target_shape=following.target_shape,
            matrix=self.matrix @ following.matrix,
        )

    def inverse(self) -> GridMap:
        """The map that leads back: source and target change places."""
        return GridMap(
            source_shape=self.target_shape,
            target_shape=self.source_shape,
            matrix=np.asarray(np.linalg.inv(self.matrix), dtype=np.float64),
        )

    def axis_maps(self) -> tuple[tuple[int, float, float], ...]:
        """For each target axis: (source axis, scale, offset) with source = scale * target + offset."""
        dims = len(self.source_shape)
        maps = []
        for target_axis in range(dims):
            source_axis = int(np.flatnonzero(self.matrix[:dims, target_axis])[0])
            maps.append(
                (
                    source_axis,
                    float(self.matrix[source_axis, target_axis]),
                    float(self.matrix[source_axis, dims]),
                )
            )
        return tuple(maps)
