"""Planes of the patient cut out of a volume, whatever way its voxels lie: oblique, tilted, with uneven steps."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Plane = Literal["axial", "coronal", "sagittal"]
PLANES: tuple[Plane, ...] = ("axial", "coronal", "sagittal")

_AXES: dict[Plane, tuple[int, int, int]] = {"axial": (2, 0, 1), "coronal": (1, 0, 2), "sagittal": (0, 1, 2)}
"""World axis along which a plane is moved, then that of its width and that of its height."""


@dataclass(frozen=True, slots=True)
class Space:
    """Where the voxels of a volume lie, and planes through it.

    Parameters
    ----------
    shape : (int, int, int)
    affine : (4, 4) float64 array
        Index to mm. Where the file knows no patient, the spacings on its diagonal.
    known : bool
        Whether the affine is in RAS+. If not, planes are those of the array and have no directions.
    """

    shape: tuple[int, int, int]
    affine: NDArray[np.float64]
    known: bool = True

    @classmethod
    def of(
        cls,
        shape: tuple[int, int, int],
        affine: NDArray[np.float64] | None,
        spacing_mm: tuple[float, ...] | None,
    ) -> Space:
        """Of a volume whose affine may be unknown."""
        if affine is not None:
            return cls(shape, np.asarray(affine, dtype=np.float64))
        return cls(shape, np.diag([*(spacing_mm or (1.0, 1.0, 1.0)), 1.0]), known=False)

    @property
    def box(self) -> NDArray[np.float64]:
        """(3, 2) lowest and highest place of the volume along each world axis, outer edges, mm."""
        corners = np.array(list(product(*((-0.5, n - 0.5) for n in self.shape))))
        world = corners @ self.affine[:3, :3].T + self.affine[:3, 3]
        return np.stack([world.min(axis=0), world.max(axis=0)], axis=1)

    @property
    def finest_mm(self) -> float:
        """Smallest step between voxels."""
        return float(np.linalg.norm(self.affine[:3, :3], axis=0).min())

    def world(self, indices: NDArray[Any]) -> NDArray[np.float64]:
        """(N, 3) places of (N, 3) voxel indices, mm."""
        return np.asarray(indices @ self.affine[:3, :3].T + self.affine[:3, 3], dtype=np.float64)


@dataclass(frozen=True, slots=True)
class Cut:
    """A rectangle of a plane, as it is shown.

    Parameters
    ----------
    plane : Plane
    position_mm : float
        Place along the axis that is perpendicular to it.
    view : (3, 2) float64 array
        What is shown along each world axis, mm.
    step_mm : float
        Width of a pixel.
    """

    plane: Plane
    position_mm: float
    view: NDArray[np.float64]
    step_mm: float

    @property
    def size(self) -> tuple[int, int]:
        """Pixels along width and height."""
        _, right, down = _AXES[self.plane]
        spans = self.view[[right, down], 1] - self.view[[right, down], 0]
        width, height = (max(round(float(span / self.step_mm)), 1) for span in spans)
        return width, height

    def points(self, space: Space, *, finer: int = 1) -> NDArray[np.float64]:
        """(height * finer, width * finer, 3) voxel indices of the centres of the pixels, row by row.

        A known patient has the right side on the left of the picture; a sagittal plane has the front there;
        the head is up.
        """
        across, right, down = _AXES[self.plane]
        width, height = (n * finer for n in self.size)
        place = np.empty((height, width, 3))
        place[..., across] = self.position_mm
        for axis, count, along in ((right, width, 1), (down, height, 0)):
            low, high = self.view[axis]
            steps = low + (np.arange(count) + 0.5) * (high - low) / count
            # Display runs towards left, back and feet: against RAS+.
            steps = steps[::-1] if space.known else steps
            place[..., axis] = steps[None, :] if along else steps[:, None]
        inverse = np.linalg.inv(space.affine)
        return np.asarray(place @ inverse[:3, :3].T + inverse[:3, 3], dtype=np.float64)


@dataclass(frozen=True, slots=True)
class Neighbours:
    """The eight voxels around each point, and how much of each it has.

    Parameters
    ----------
    indices : tuple of three (8, *points) int arrays
    weights : (8, *points) float32 array
        Sum 1; 0 for points outside the volume.
    """

    indices: tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.intp]]
    weights: NDArray[np.float32]

    @classmethod
    def of(cls, points: NDArray[np.float64], shape: tuple[int, int, int]) -> Neighbours:
        """Of (*points, 3) voxel indices."""
        last = np.array(shape) - 1
        inside = ((points >= -0.5) & (points <= last + 0.5)).all(axis=-1)
        held = np.clip(points, 0, last)
        low = np.minimum(np.floor(held).astype(np.intp), np.maximum(last - 1, 0))
        part = (held - low).astype(np.float32)
        weights = np.empty((8, *points.shape[:-1]), np.float32)
        found = np.empty((3, 8, *points.shape[:-1]), np.intp)
        for corner, offsets in enumerate(product((0, 1), repeat=3)):
            weights[corner] = inside
            for axis, offset in enumerate(offsets):
                weights[corner] *= part[..., axis] if offset else 1 - part[..., axis]
                found[axis, corner] = np.minimum(low[..., axis] + offset, last[axis])
        return cls((found[0], found[1], found[2]), weights)

    def values(self, array: NDArray[Any]) -> NDArray[np.float32]:
        """Linear interpolation of an (I, J, K) or (C, I, J, K) array, the mean of its channels; 0 outside."""
        taken = array[(..., *self.indices)]
        if array.ndim == 4:
            taken = taken.mean(axis=0, dtype=np.float32)
        return np.asarray((taken * self.weights).sum(axis=0), dtype=np.float32)

    def shares(self, label_map: NDArray[Any]) -> dict[int, NDArray[np.float32]]:
        """Class index -> how much of each point is of that class; 0 (background) is left out."""
        taken = label_map[self.indices]
        return {
            int(index): np.asarray((self.weights * (taken == index)).sum(axis=0), dtype=np.float32)
            for index in np.unique(taken)
            if index
        }
