"""Where the pixels of a DICOM image lie: spacing in the image or at the detector, directions, affine."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medseg.geometry import affine_lps_to_ras
from medseg.io.dicom_header import DicomHeader
from medseg.io.orientation import letters_of_affine, letters_of_header
from medseg.volume import SpacingOrigin

#: Modalities whose image is a shadow on a detector: no patient coordinates, whatever the header says.
PROJECTION = frozenset({"CR", "DX", "RG", "MG", "IO", "PX", "XA", "RF", "SC", "RTIMAGE"})
_SMALLEST_MM, _LARGEST_MM = 1e-4, 100.0
_EQUAL = 1e-4
_ORTHOGONAL = 1e-3


@dataclass(frozen=True, slots=True, kw_only=True)
class PixelGrid:
    """Spacing (i, j) in mm, letters and affine of one image; None where the file does not tell."""

    spacing_mm: tuple[float, float] | None
    spacing_origin: SpacingOrigin
    patient_orientation: tuple[str, str] | None
    affine: NDArray[np.float64] | None
    notes: tuple[str, ...]


def grid_of(header: DicomHeader, modality: str) -> PixelGrid:
    """Grid of a single image.

    Parameters
    ----------
    header : DicomHeader
    modality : str
        Images of a modality in `PROJECTION` get no affine.

    References
    ----------
    DICOM PS3.3 10.7.1.3: Pixel Spacing equal to Imager Pixel Spacing is measured at the detector; a
    different one, or one with a Calibration Type, is corrected for the magnification in the patient.
    """
    notes: list[str] = []
    spacing, origin = _spacing(header, modality, notes)
    affine = None if modality in PROJECTION else _affine(header, spacing, notes)
    letters = (
        letters_of_header(header.texts("PatientOrientation")) if affine is None else letters_of_affine(affine)
    )
    if affine is None and letters is None and any(header.texts("PatientOrientation")):
        notes.append("the patient orientation in the header cannot be read")
    return PixelGrid(
        spacing_mm=spacing,
        spacing_origin="affine" if affine is not None else origin,
        patient_orientation=letters,
        affine=affine,
        notes=tuple(notes),
    )


def _spacing(
    header: DicomHeader, modality: str, notes: list[str]
) -> tuple[tuple[float, float] | None, SpacingOrigin]:
    pixel = _pair(header, "PixelSpacing", notes)
    imager = _pair(header, "ImagerPixelSpacing", notes)
    if pixel is not None:
        return pixel, _origin_of_pixel_spacing(header, modality, pixel, imager)
    if imager is not None:
        return imager, "imager_pixel_spacing"
    scanned = _pair(header, "NominalScannedPixelSpacing", notes)
    if scanned is not None:
        notes.append("spacing of a scanned film, measured on the film")
        return scanned, "imager_pixel_spacing"
    ratio = header.numbers("PixelAspectRatio")
    if len(ratio) == 2 and all(v > 0 for v in ratio) and ratio[0] != ratio[1]:
        notes.append(
            f"pixels are not square (aspect ratio {ratio[0]:g}:{ratio[1]:g}) and their size is unknown"
        )
    return None, "unknown"


def _origin_of_pixel_spacing(
    header: DicomHeader, modality: str, pixel: tuple[float, float], imager: tuple[float, float] | None
) -> SpacingOrigin:
    if header.code("PixelSpacingCalibrationType"):
        return "calibrated"
    if imager is None:
        return "pixel_spacing"
    same = all(math.isclose(a, b, rel_tol=_EQUAL) for a, b in zip(pixel, imager, strict=True))
    return "imager_pixel_spacing" if same else "calibrated"


def _pair(header: DicomHeader, keyword: str, notes: list[str]) -> tuple[float, float] | None:
    """(along i, along j) in mm of a spacing that DICOM gives as between rows, between columns."""
    found = header.numbers(keyword)
    if not found:
        return None
    if len(found) != 2 or not all(_SMALLEST_MM <= v <= _LARGEST_MM for v in found):
        notes.append(
            f"{keyword} is not two lengths between {_SMALLEST_MM:g} and {_LARGEST_MM:g} mm, not used"
        )
        return None
    return found[1], found[0]


def _affine(
    header: DicomHeader, spacing: tuple[float, float] | None, notes: list[str]
) -> NDArray[np.float64] | None:
    """Voxel to RAS+ mm of a slice in patient coordinates; its third axis is the thickness, else 1 mm."""
    position, cosines = header.numbers("ImagePositionPatient"), header.numbers("ImageOrientationPatient")
    if not position and not cosines:
        return None
    along_i, along_j = np.array(cosines[:3]), np.array(cosines[3:])
    if spacing is None or len(position) != 3 or len(cosines) != 6 or not _orthonormal(along_i, along_j):
        notes.append("the patient coordinates in the header are incomplete or not orthogonal, not used")
        return None
    thickness = header.numbers("SliceThickness")
    depth = thickness[0] if len(thickness) == 1 and 0 < thickness[0] < math.inf else 1.0
    affine_lps = np.eye(4)
    affine_lps[:3, 0] = along_i * spacing[0]
    affine_lps[:3, 1] = along_j * spacing[1]
    affine_lps[:3, 2] = np.cross(along_i, along_j) * depth
    affine_lps[:3, 3] = position
    return affine_lps_to_ras(affine_lps) if np.isfinite(affine_lps).all() else None


def _orthonormal(along_i: NDArray[np.float64], along_j: NDArray[np.float64]) -> bool:
    errors = (np.linalg.norm(along_i) - 1, np.linalg.norm(along_j) - 1, along_i @ along_j)
    return bool(np.max(np.abs(errors)) < _ORTHOGONAL)
