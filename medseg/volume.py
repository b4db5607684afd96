"""Volume: an image or label map together with where its voxels are. What stages hand to each other."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from medseg.errors import GeometryError
from medseg.geometry import same_affine

SpacingOrigin = Literal["affine", "pixel_spacing", "imager_pixel_spacing", "calibrated", "unknown"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """The files a volume was read from, enough to refer to them in a DICOM object.

    Parameters
    ----------
    paths : tuple of Path
        One file, or one per slice in the order of the last voxel axis.
    format : str
    sha256 : str
        Of the file's bytes; of several, SHA-256 over their hashes. "" where it was not computed.
    sop_class_uid, series_instance_uid, study_instance_uid, frame_of_reference_uid : str
        "" where the file has none.
    sop_instance_uids : tuple of str
        DICOM instance of each slice along the last voxel axis, one entry for a radiograph; a
        multi-frame instance stands once for each of its slices. Empty for files that are not DICOM.
    frame_numbers : tuple of int
        For slices of multi-frame instances: number of the frame, from 1. Empty for single frames.
    """

    paths: tuple[Path, ...]
    format: Literal["dicom", "nifti", "itk", "picture", "other", "memory"]
    sha256: str = ""
    sop_class_uid: str = ""
    sop_instance_uids: tuple[str, ...] = ()
    frame_numbers: tuple[int, ...] = ()
    series_instance_uid: str = ""
    study_instance_uid: str = ""
    frame_of_reference_uid: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageGrid:
    """A Volume without its values: where the voxels are and which files they came from.

    What exporters need of an image, and what a DICOM series gives before a pixel is decoded. The
    fields are those of `Volume`.
    """

    shape: tuple[int, ...]
    affine: NDArray[np.float64] | None = None
    spacing_mm: tuple[float, ...] | None = None
    patient_orientation: tuple[str, str] | None = None
    modality: str = ""
    source: Source = field(default_factory=lambda: Source(paths=(), format="memory"))
    header: dict[str, str] = field(default_factory=dict)

    def same(self, other: ImageGrid, *, tolerance_mm: float = 0.01) -> bool:
        """Whether both have the same shape and, where both have an affine, the same affine."""
        if self.shape != other.shape:
            return False
        if self.affine is None or other.affine is None:
            return True
        return same_affine(self.affine, other.affine, self.shape, tolerance_mm=tolerance_mm)


@dataclass(frozen=True, slots=True, kw_only=True)
class Volume:
    """An array and its grid.

    Parameters
    ----------
    array : (C, I, J) or (C, I, J, K) array
        Channels first. For a radiograph or picture i runs along a row (column index, towards the
        right of the display) and j down a column; that is NIfTI's order, the transpose of NumPy
        pictures.
    affine : (4, 4) float64 array or None
        Voxel centre (i, j, k, 1) to mm in RAS+. None where the file defines no patient
        coordinates: radiographs and plain pictures.
    spacing_mm : tuple of float, or None
        Distance between voxel centres along i, j (, k). None where it is unknown; never 1.
    spacing_origin : str
        Where the spacing comes from. "imager_pixel_spacing" is measured at the detector plane,
        not in the patient (DICOM PS3.3 10.7.1.3).
    patient_orientation : (str, str) or None
        For pictures without an affine: the patient direction in which i and j grow, DICOM
        (0020,0020) style, such as ("L", "F") for a chest film on display. None where unknown.
    modality : str
        DICOM modality, or "" where the file does not say.
    source : Source
    pixel_sha256 : str
        Hash of the decoded pixels and their shape, to find duplicates whatever the file.
    notes : tuple of str
        Findings that a reader of the result must know, one sentence each, no identifiers.
    header : dict
        Acquisition facts that carry no identity (view position, burned-in annotation, ...).
    """

    array: NDArray[Any]
    affine: NDArray[np.float64] | None = None
    spacing_mm: tuple[float, ...] | None = None
    spacing_origin: SpacingOrigin = "unknown"
    patient_orientation: tuple[str, str] | None = None
    modality: str = ""
    source: Source = field(default_factory=lambda: Source(paths=(), format="memory"))
    pixel_sha256: str = ""
    notes: tuple[str, ...] = ()
    header: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.array.ndim not in (3, 4):
            raise GeometryError(
                f"a volume is (C, I, J) or (C, I, J, K), found an array of shape {self.array.shape}"
            )
        if self.spacing_mm is not None and len(self.spacing_mm) != self.spatial_dims:
            raise GeometryError(
                f"{self.spatial_dims} axes need {self.spatial_dims} spacings, found {self.spacing_mm}"
            )

    @property
    def spatial_dims(self) -> int:
        """2 for radiographs and pictures, 3 for volumes."""
        return self.array.ndim - 1

    @property
    def spatial_shape(self) -> tuple[int, ...]:
        """(I, J) or (I, J, K)."""
        return tuple(int(n) for n in self.array.shape[1:])

    @property
    def grid(self) -> ImageGrid:
        """The volume without its values."""
        return ImageGrid(
            shape=self.spatial_shape,
            affine=self.affine,
            spacing_mm=self.spacing_mm,
            patient_orientation=self.patient_orientation,
            modality=self.modality,
            source=self.source,
            header=self.header,
        )

    def same_grid(self, other: Volume, *, tolerance_mm: float = 0.01) -> bool:
        """Whether both have the same shape and, where both have an affine, the same affine."""
        return self.grid.same(other.grid, tolerance_mm=tolerance_mm)
