"""Deterministic image preparation: the same steps for training and for a new image, none of them random."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medseg.errors import InputRefusedError
from medseg.geometry import GridMap
from medseg.transforms import framing, intensity
from medseg.transforms.clahe import clahe
from medseg.transforms.options import (
    Binarise,
    Crop,
    Denoise,
    Equalise,
    Gray,
    Normalise,
    Orient,
    Pad,
    PreprocessStep,
    Resample,
    Resize,
    Standardise,
)
from medseg.transforms.regrid import label_to_grid, regrid
from medseg.volume import Volume

__all__ = ["Prepared", "label_to_grid", "preprocess"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """An image as the network takes it, and the way back.

    Parameters
    ----------
    array : (C, *target) float32 array
        C-contiguous.
    grid : GridMap
        All geometric steps as one map: source grid of the file to `array`'s.
    spacing_mm : tuple of float, or None
        Distance between voxel centres along each axis of `array`; None where unknown.
    notes : tuple of str
        What a reader must know of the preparation, one sentence each.
    """

    array: NDArray[np.float32]
    grid: GridMap
    spacing_mm: tuple[float, ...] | None
    notes: tuple[str, ...] = ()


def preprocess(
    volume: Volume,
    steps: Sequence[PreprocessStep],
    *,
    statistics: Mapping[str, float] | None = None,
) -> Prepared:
    """Apply `steps` in their order.

    Parameters
    ----------
    volume : Volume
        Left unchanged.
    steps : sequence of PreprocessStep
    statistics : mapping, optional
        `mean` and `std` of the training data, for ``standardise: dataset``.

    Returns
    -------
    Prepared

    Raises
    ------
    InputRefusedError
        Values that are not finite, or an image without contrast or foreground.
    GeometryError
        A box outside of the image; resampling of an image whose spacing is unknown.
    ConfigError
        A step that does not fit the number of axes, or lacks `statistics`.
    """
    array = np.asarray(volume.array, dtype=np.float32)
    if array.size == 0 or not np.isfinite(array).all():
        bad = int(array.size - np.isfinite(array).sum())
        raise InputRefusedError(f"the image has {bad} values that are not finite, of {array.size}")
    grid = GridMap.identity(volume.spatial_shape)
    notes: list[str] = []
    for step in steps:
        if isinstance(step, Orient | Crop | Resample | Resize | Pad):
            for move, note in _moves(volume, array, grid, step):
                fill = None
                if isinstance(step, Pad) and step.value is not None:
                    fill = np.full(array.shape[0], step.value, dtype=np.float32)
                array, grid = regrid(array, move, outside=fill), grid.then(move)
                notes += [note] if note else []
        else:
            array = _change_values(array, step, statistics)
    if np.may_share_memory(array, volume.array):
        array = array.copy()
    return Prepared(
        array=np.ascontiguousarray(array), grid=grid, spacing_mm=_spacing(volume, grid), notes=tuple(notes)
    )


def _moves(
    volume: Volume, array: NDArray[np.float32], grid: GridMap, step: Orient | Crop | Resample | Resize | Pad
) -> list[tuple[GridMap, str]]:
    """The maps that a geometric step consists of, each with a note or "", in the order they apply."""
    shape = grid.target_shape
    if isinstance(step, Orient):
        return [framing.orient_map(volume, grid, step)]
    if isinstance(step, Crop):
        return [framing.crop_map(array, step)]
    if isinstance(step, Resample):
        return [(framing.resample_map(shape, _spacing(volume, grid), step), "")]
    if isinstance(step, Resize):
        return [(move, "") for move in framing.resize_maps(shape, step)]
    return [(framing.pad_map(shape, step), "")]


def _change_values(
    array: NDArray[np.float32],
    step: Gray | Binarise | Normalise | Standardise | Equalise | Denoise,
    statistics: Mapping[str, float] | None,
) -> NDArray[np.float32]:
    if isinstance(step, Gray):
        return intensity.to_gray(array, step)
    if isinstance(step, Binarise):
        return intensity.binarise(array, step)
    if isinstance(step, Normalise):
        return intensity.normalise(array, step)
    if isinstance(step, Standardise):
        return intensity.standardise(array, step, statistics)
    if isinstance(step, Equalise):
        if step.method == "histogram":
            return intensity.equalise_histogram(array, bins=step.bins)
        return clahe(array, bins=step.bins, clip_limit=step.clip_limit, tiles=step.tiles)
    # SciPy's filters and SimpleITK load only for pipelines that filter, so that a prediction starts at once.
    from medseg.transforms.denoise import denoise

    return denoise(array, step)


def _spacing(volume: Volume, grid: GridMap) -> tuple[float, ...] | None:
    """Spacing of the grid's target axes in mm."""
    if volume.spacing_mm is None:
        return None
    return tuple(volume.spacing_mm[source] * abs(scale) for source, scale, _ in grid.axis_maps())
