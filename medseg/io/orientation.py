"""Affines of files: whether they can be used, and letters for the directions in which axes grow."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from medseg.errors import GeometryError

SMALLEST_MM, LARGEST_MM = 1e-6, 1e4
_UNUSABLE = "the affine is not finite, flat or absurd: voxel axes"
_POSITIVE_NEGATIVE_RAS = (("R", "L"), ("A", "P"), ("H", "F"))
_AXIS_OF = {letter: axis for axis, pair in enumerate(_POSITIVE_NEGATIVE_RAS) for letter in pair}


def check_affine(affine: NDArray[np.float64], path: Path) -> None:
    """Refuse an affine that is not finite, flattens an axis, or has voxels beyond any scanner's.

    Raises
    ------
    GeometryError
        Names the lengths of the voxel axes in mm.
    """
    check_numbers(affine, path)
    lengths = np.linalg.norm(affine[:3, :3], axis=0)
    usable = bool(((lengths >= SMALLEST_MM) & (lengths <= LARGEST_MM)).all())
    if not usable or abs(np.linalg.det(affine[:3, :3] / lengths)) < 1e-6:
        raise GeometryError(f"{path}: {_UNUSABLE} of {lengths.tolist()} mm")


def check_numbers(affine: NDArray[np.float64], path: Path) -> None:
    """Refuse an affine with which nothing can be computed: infinities become NaN, squares of large numbers overflow.

    Raises
    ------
    GeometryError
        Names the voxel axes in mm.
    """
    axes = affine[:3, :3]
    if not (np.isfinite(affine).all() and (np.abs(axes) <= LARGEST_MM).all()):
        raise GeometryError(
            f"{path}: {_UNUSABLE} {axes.T.tolist()} in mm, first voxel at {affine[:3, 3].tolist()}"
        )


def letters_of_affine(affine: NDArray[np.float64]) -> tuple[str, str] | None:
    """Patient directions nearest to voxel axes i and j, as DICOM (0020,0020) letters.

    Parameters
    ----------
    affine : (4, 4) float64 array
        Voxel to RAS+ mm.

    Returns
    -------
    (str, str) or None
        Such as ("L", "P") for an axial slice on display, and so also for a chest film that ITK saved
        as NIfTI: ITK gives a picture the axes of an axial slice, whatever it shows. None where an
        axis has no length or both axes point along the same patient axis.
    """
    letters = []
    for axis in (0, 1):
        direction = np.asarray(affine, dtype=np.float64)[:3, axis]
        main = int(np.abs(direction).argmax())
        if not np.isfinite(direction).all() or direction[main] == 0:
            return None
        letters.append(_POSITIVE_NEGATIVE_RAS[main][int(direction[main] < 0)])
    first, second = letters
    return (first, second) if _AXIS_OF[first] != _AXIS_OF[second] else None


def letters_of_header(values: tuple[str, ...]) -> tuple[str, str] | None:
    """Main letters of a Patient Orientation (0020,0020), such as ("L", "F") for ["LA", "FP"].

    None where the two values do not name two different patient axes. Animals' directions
    (quadruped codes) are not read.

    References
    ----------
    DICOM PS3.3 C.7.6.1.1.1.
    """
    if len(values) != 2 or not all(values):
        return None
    if not all(set(value) <= set(_AXIS_OF) for value in values):
        return None
    first, second = values[0][0], values[1][0]
    return (first, second) if _AXIS_OF[first] != _AXIS_OF[second] else None
