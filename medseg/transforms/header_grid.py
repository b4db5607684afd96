"""The grid that preprocessing gives an image, from its header alone."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from medseg.geometry import GridMap
from medseg.transforms import framing
from medseg.transforms.image_view import ArrayView
from medseg.transforms.options import Crop, Orient, Pad, PreprocessStep, Resample, Resize, Transpose
from medseg.volume import ImageGrid, Volume


def grid_of_header(header: ImageGrid, steps: Sequence[PreprocessStep]) -> GridMap:
    """From the grid of a file to that of the prepared image.

    A crop that depends on image values is left out: its box is not larger than the image.

    Raises
    ------
    MedsegError
        A step that the image cannot take, as `prepare` would raise it.
    """
    # One value seen everywhere: a volume of any size takes no memory.
    volume = Volume(
        array=np.broadcast_to(np.float32(0), (1, *header.shape)),
        affine=header.affine,
        spacing_mm=header.spacing_mm,
        patient_orientation=header.patient_orientation,
    )
    grid = GridMap.identity(header.shape)
    for step in steps:
        for move in _moves(volume, grid, step):
            grid = grid.then(move)
    return grid


def spacing_of(header: ImageGrid, grid: GridMap) -> tuple[float, ...] | None:
    """Distance between the voxels of the prepared image, mm; None where unknown."""
    if header.spacing_mm is None:
        return None
    return tuple(header.spacing_mm[source] * abs(scale) for source, scale, _ in grid.axis_maps())


def _moves(volume: Volume, grid: GridMap, step: PreprocessStep) -> tuple[GridMap, ...]:
    shape = grid.target_shape
    if isinstance(step, Orient):
        return (framing.orient_map(volume, grid, step)[0],)
    if isinstance(step, Transpose):
        return (framing.transpose_map(shape, step),)
    if isinstance(step, Resample):
        return (framing.resample_map(shape, spacing_of(volume.grid, grid), step),)
    if isinstance(step, Resize):
        return framing.resize_maps(shape, step)
    if isinstance(step, Pad):
        return (framing.pad_map(shape, step),)
    if isinstance(step, Crop) and step.method == "box":
        return (framing.crop_map(ArrayView(np.broadcast_to(np.float32(0), (1, *shape))), step)[0],)
    return ()
