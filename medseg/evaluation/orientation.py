"""Which way a voxel axis runs in the patient: needed for left, right and horizontal width."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, kw_only=True)
class LateralAxis:
    """The voxel axis that runs between the patient's sides.

    Parameters
    ----------
    axis : int
        Voxel axis, 0 for i.
    towards_left : bool
        Whether the index grows towards the patient's left.
    assumed : bool
        Taken from the usual display of a frontal film, since the file does not say.
    """

    axis: int
    towards_left: bool
    assumed: bool = False


def lateral_axis(
    *,
    spatial_dims: int,
    patient_orientation: tuple[str, str] | None = None,
    affine: NDArray[np.float64] | None = None,
) -> LateralAxis | None:
    """Find the left-right axis of an image.

    Parameters
    ----------
    spatial_dims : int
        2 or 3.
    patient_orientation : (str, str), optional
        Directions in which i and j grow, DICOM (0020,0020); the first letter of each counts.
    affine : (4, 4) array, optional
        Index to RAS+, for volumes; goes first.

    Returns
    -------
    LateralAxis, or None where no axis runs left-right (a lateral film). A picture that says
    nothing is taken as displayed: i grows towards the patient's left (`assumed`).
    """
    if affine is not None:
        rights = np.asarray(affine)[0, :spatial_dims]
        axis = int(np.argmax(np.abs(rights)))
        cosine = abs(rights[axis]) / np.linalg.norm(np.asarray(affine)[:3, axis])
        return LateralAxis(axis=axis, towards_left=bool(rights[axis] < 0)) if cosine > 0.5 else None
    if patient_orientation is None:
        return LateralAxis(axis=0, towards_left=True, assumed=True) if spatial_dims == 2 else None
    for axis, letters in enumerate(patient_orientation):
        if letters[:1] in ("L", "R"):
            return LateralAxis(axis=axis, towards_left=letters[0] == "L")
    return None
