"""What measuring needs to know of an image besides its masks: grid, patient, values."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medseg.evaluation.instance_map import slice_axis
from medseg.evaluation.intensity import Intensities
from medseg.geometry import voxel_volume_mm3
from medseg.volume import Volume


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageFacts:
    """An image without its masks, as far as instances are measured on it.

    Parameters
    ----------
    shape : tuple of int
    affine, spacing_mm, patient_orientation
        As in `Volume`.
    intensities : Intensities or None
    size_note : str
        What to mind when reading sizes.
    """

    shape: tuple[int, ...]
    affine: NDArray[np.float64] | None = None
    spacing_mm: tuple[float, ...] | None = None
    patient_orientation: tuple[str, str] | None = None
    intensities: Intensities | None = None
    size_note: str = ""

    @classmethod
    def of(cls, volume: Volume, *, intensities: Intensities | None = None, size_note: str = "") -> ImageFacts:
        """Those of a volume."""
        return cls(
            shape=volume.spatial_shape,
            affine=volume.affine,
            spacing_mm=volume.spacing_mm,
            patient_orientation=volume.patient_orientation,
            intensities=intensities,
            size_note=size_note,
        )

    @property
    def dims(self) -> int:
        """2 or 3."""
        return len(self.shape)

    @property
    def steps(self) -> NDArray[np.float64] | None:
        """(3, 3) columns: steps in mm along each axis, the third of a picture out of its plane; None where unknown."""
        if self.spacing_mm is None:
            return None
        if self.affine is None:
            return np.diag([*self.spacing_mm, 1.0][:3]).astype(np.float64)
        steps = np.array(self.affine, dtype=np.float64)[:3, :3]
        if self.dims == 2:
            steps[:, 2] = np.cross(steps[:, 0], steps[:, 1])
        return steps

    @property
    def voxel_size(self) -> tuple[float, str] | None:
        """Area of a pixel in mm2 or volume of a voxel in ml; None where the spacing is unknown."""
        if self.spacing_mm is None:
            return None
        if self.dims == 3:
            whole = np.prod(self.spacing_mm) if self.affine is None else voxel_volume_mm3(self.affine)
            return float(whole) / 1000.0, "ml"
        if self.affine is None:
            return float(np.prod(self.spacing_mm)), "mm2"
        columns = np.asarray(self.affine, dtype=np.float64)[:3, :2]
        return float(np.linalg.norm(np.cross(columns[:, 0], columns[:, 1]))), "mm2"

    @property
    def axis(self) -> int:
        """Axis along which slices follow each other; 2, the one that is not there, for pictures."""
        return 2 if self.dims == 2 else slice_axis(self.affine, self.spacing_mm)
