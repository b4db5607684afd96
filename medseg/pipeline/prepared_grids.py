"""The grids that preprocessing gives images, from their headers alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from medseg.geometry import GridMap
from medseg.planning.fingerprint import CaseFingerprint
from medseg.planning.grids import Grid
from medseg.transforms import framing
from medseg.transforms.image_view import ArrayView
from medseg.transforms.options import Crop, Orient, Pad, PreprocessStep, Resample, Resize, Transpose
from medseg.volume import Volume


def prepared_grid(case: CaseFingerprint, steps: Sequence[PreprocessStep]) -> Grid:
    """Voxels and spacing of one image after the steps.

    A crop that depends on image values is left out: its box is not larger than the image.

    Raises
    ------
    MedsegError
        A step that the image cannot take, as `preprocess` would raise it.
    """
    volume = _without_values(case)
    grid = GridMap.identity(volume.spatial_shape)
    for step in steps:
        for move in _moves(volume, grid, step):
            grid = grid.then(move)
    return Grid(case_id=case.case_id, shape=grid.target_shape, spacing_mm=_spacing(volume, grid))


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


def _without_values(case: CaseFingerprint) -> Volume:
    # One value seen everywhere: a volume of any size takes no memory.
    array = np.broadcast_to(np.float32(0), (1, *case.shape))
    return Volume(
        array=array,
        affine=None if case.affine is None else np.asarray(case.affine, dtype=np.float64),
        spacing_mm=case.spacing_mm,
        patient_orientation=case.patient_orientation,
    )


def _moves(volume: Volume, grid: GridMap, step: PreprocessStep) -> tuple[GridMap, ...]:
    shape = grid.target_shape
    if isinstance(step, Orient):
        return (framing.orient_map(volume, grid, step)[0],)
    if isinstance(step, Transpose):
        return (framing.transpose_map(shape, step),)
    if isinstance(step, Resample):
        return (framing.resample_map(shape, _spacing(volume, grid), step),)
    if isinstance(step, Resize):
        return framing.resize_maps(shape, step)
    if isinstance(step, Pad):
        return (framing.pad_map(shape, step),)
    if isinstance(step, Crop) and step.method == "box":
        return (framing.crop_map(ArrayView(np.broadcast_to(np.float32(0), (1, *shape))), step)[0],)
    return ()


def _spacing(volume: Volume, grid: GridMap) -> tuple[float, ...] | None:
    if volume.spacing_mm is None:
        return None
    return tuple(volume.spacing_mm[source] * abs(scale) for source, scale, _ in grid.axis_maps())
