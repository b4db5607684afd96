"""Grids and the maps between them: affines, spacing, orientation. NumPy only.

World is RAS+ in millimetres, float64. A bare `affine` maps a voxel centre (i, j, k, 1) to RAS+.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import permutations

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


def same_affine(
    first: NDArray[np.float64],
    second: NDArray[np.float64],
    shape: tuple[int, ...],
    *,
    tolerance_mm: float = 0.01,
) -> bool:
    """Whether two affines put no corner of a grid of `shape` further apart than the tolerance."""
    corners = np.array(np.meshgrid(*[[0, n - 1] for n in (*shape, 1)[:3]])).reshape(3, -1)
    corners = np.vstack([corners, np.ones(corners.shape[1])])
    gap = np.abs((np.asarray(first) - np.asarray(second)) @ corners)[:3]
    return bool(gap.max() <= tolerance_mm)


def affine_from_slices(
    positions_lps: NDArray[np.float64],
    orientation_lps: NDArray[np.float64],
    pixel_spacing_mm: tuple[float, float],
    *,
    tolerance_mm: float = 0.01,
) -> NDArray[np.float64]:
    """Index-to-world affine of a stack of parallel DICOM slices, in RAS+.

    The slice axis follows the positions themselves, so a tilted gantry gives a sheared
    affine, not a wrong one.

    Parameters
    ----------
    positions_lps : (N, 3) float array
        Image Position (Patient) in stacking order, N >= 2: centre of the first voxel of
        each slice, mm, LPS+.
    orientation_lps : (6,) float array
        Image Orientation (Patient): cosines along a row (column index grows), then along
        a column.
    pixel_spacing_mm : (float, float)
        Pixel Spacing: between rows, then between columns.
    tolerance_mm : float, optional
        Largest accepted distance of a position from the even grid through the first and last.

    Returns
    -------
    (4, 4) float64 array
        Maps (column, row, slice, 1) to mm in RAS+.

    Raises
    ------
    GeometryError
        Fewer than two slices, or slices that are not on an even line; the message names the worst.

    References
    ----------
    DICOM PS3.3 C.7.6.2.1.1, equation C.7.6.2.1-1.
    """
    positions = np.asarray(positions_lps, dtype=np.float64)
    if len(positions) < 2:
        raise GeometryError(f"expected two slices or more to place a stack, found {len(positions)}")
    step = (positions[-1] - positions[0]) / (len(positions) - 1)
    gaps = np.linalg.norm(positions - (positions[0] + np.outer(np.arange(len(positions)), step)), axis=1)
    worst = int(gaps.argmax())
    if gaps[worst] > tolerance_mm:
        raise GeometryError(
            f"slice {worst + 1} of {len(positions)} lies {gaps[worst]:.3f} mm from where an even step of "
            f"{float(np.linalg.norm(step)):.3f} mm puts it (tolerance {tolerance_mm:g} mm)"
        )
    orientation = np.asarray(orientation_lps, dtype=np.float64)
    affine_lps = np.eye(4)
    affine_lps[:3, 0] = orientation[:3] * pixel_spacing_mm[1]
    affine_lps[:3, 1] = orientation[3:] * pixel_spacing_mm[0]
    affine_lps[:3, 2] = step
    affine_lps[:3, 3] = positions[0]
    return affine_lps_to_ras(affine_lps)


def tilt_degrees(affine: NDArray[np.float64]) -> float:
    """Angle between the slice axis (the third) and the normal of the slices; 0 for a box-shaped grid."""
    columns = np.asarray(affine, dtype=np.float64)[:3, :3]
    normal = np.cross(columns[:, 0], columns[:, 1])
    length = np.linalg.norm(normal) * np.linalg.norm(columns[:, 2])
    cosine = float(abs(normal @ columns[:, 2]) / length)
    return float(np.degrees(np.arccos(min(cosine, 1.0))))


def axis_codes(affine: NDArray[np.float64]) -> str:
    """World direction nearest to each voxel axis as a letter of R L A P S I, such as "LPS".

    The letters name where an axis leads to, as nibabel's do. Each world axis is used once, by the
    assignment of voxel axes to world axes that loses least, as oblique scans need.
    """
    columns = np.asarray(affine, dtype=np.float64)[:3, :3]
    cosines = columns / np.linalg.norm(columns, axis=0)
    world = max(permutations(range(3)), key=lambda p: sum(abs(cosines[p[a], a]) for a in range(3)))
    return "".join(("RL", "AP", "SI")[w][int(cosines[w, axis] < 0)] for axis, w in enumerate(world))


def lattice_map(
    source_affine: NDArray[np.float64],
    source_shape: tuple[int, ...],
    target_affine: NDArray[np.float64],
    target_shape: tuple[int, ...],
    *,
    tolerance_mm: float = 0.01,
) -> GridMap | None:
    """Map from source to target grid where their voxels coincide, up to order and direction of the axes.

    Parameters
    ----------
    source_affine, target_affine : (4, 4) float64 array
        Voxel to RAS+ mm.
    source_shape, target_shape : tuple of int
        Three axes each; they may cover different parts of the lattice.
    tolerance_mm : float, optional
        Largest distance between two voxels that count as one.

    Returns
    -------
    GridMap or None
        None where the voxels do not fall on each other: then only resampling leads over.
    """
    matrix = np.linalg.inv(np.asarray(source_affine, dtype=np.float64)) @ np.asarray(target_affine)
    whole = np.asarray(np.rint(matrix), dtype=np.float64)
    linear = np.abs(whole[:3, :3])
    if (linear.sum(axis=0) != 1).any() or (linear.sum(axis=1) != 1).any() or linear.max() != 1:
        return None
    if not same_affine(
        np.asarray(source_affine) @ whole, target_affine, target_shape, tolerance_mm=tolerance_mm
    ):
        return None
    return GridMap(source_shape=source_shape, target_shape=target_shape, matrix=whole)


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
