"""The grids that preprocessing gives images, from their headers alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from medseg.planning.fingerprint import CaseFingerprint
from medseg.planning.grids import Grid
from medseg.transforms.header_grid import grid_of_header, spacing_of
from medseg.transforms.options import PreprocessStep
from medseg.volume import ImageGrid


def prepared_grid(case: CaseFingerprint, steps: Sequence[PreprocessStep]) -> Grid:
    """Voxels and spacing of one image after the steps.

    A crop that depends on image values is left out: its box is not larger than the image.

    Raises
    ------
    MedsegError
        A step that the image cannot take, as `preprocess` would raise it.
    """
    header = ImageGrid(
        shape=case.shape,
        affine=None if case.affine is None else np.asarray(case.affine, dtype=np.float64),
        spacing_mm=case.spacing_mm,
        patient_orientation=case.patient_orientation,
    )
    grid = grid_of_header(header, steps)
    return Grid(case_id=case.case_id, shape=grid.target_shape, spacing_mm=spacing_of(header, grid))


def unseen_case(case_id: str, fact: Mapping[str, Any], *, like: CaseFingerprint) -> CaseFingerprint:
    """A case that was only checked, with the orientation of a training case, for the size of its grid."""
    spacing = fact["spacing_mm"]
    return CaseFingerprint(
        case_id=case_id,
        shape=tuple(fact["shape"]),
        channels=int(fact["channels"]),
        spacing_mm=None if spacing is None else tuple(spacing),
        affine=like.affine,
        patient_orientation=like.patient_orientation,
        modality=str(fact["modality"]),
        format=like.format,
        low=0.0,
        high=0.0,
        whole=False,
        zero_share=0.0,
        voxels={},
        foreground_voxels=0,
    )
