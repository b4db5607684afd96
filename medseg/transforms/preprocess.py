"""Deterministic image preparation: the same steps for training and for a new image, none of them random."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medseg.errors import InputRefusedError
from medseg.geometry import GridMap
from medseg.transforms import framing
from medseg.transforms.framing import Back
from medseg.transforms.image_view import ArrayView, GridView, ImageView, Kind, slab_boxes, slabs, whole
from medseg.transforms.options import Crop, Orient, Pad, PreprocessStep, Resample, Resize, Transpose
from medseg.transforms.regrid import label_to_grid
from medseg.transforms.value_steps import change_values
from medseg.volume import Volume

__all__ = ["Prepared", "label_to_grid", "prepare", "preprocess"]

_GEOMETRIC = Orient | Transpose | Crop | Resample | Resize | Pad


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """An image as the network takes it, and the way back.

    Parameters
    ----------
    image : ImageView
        (C, *target) float32 values, read in boxes.
    grid : GridMap
        All geometric steps as one map: source grid of the file to that of `image`.
    spacing_mm : tuple of float, or None
        Distance between voxel centres along each axis of `image`; None where unknown.
    notes : tuple of str
        What a reader must know of the preparation, one sentence each.
    back : tuple of {"smooth", "linear", "nearest"}
        How a prediction goes back along each axis of `image`; empty: smooth along all.
    """

    image: ImageView
    grid: GridMap
    spacing_mm: tuple[float, ...] | None
    notes: tuple[str, ...] = ()
    back: tuple[Back, ...] = ()

    @property
    def array(self) -> NDArray[np.float32]:
        """(C, *target) C-contiguous array; made anew where the image is made as it is read."""
        return np.ascontiguousarray(whole(self.image))

    def kept(self, keep_bytes: float) -> Prepared:
        """The same with its values made and kept, where they take at most so much memory."""
        return replace(self, image=_kept(self.image, keep_bytes))


def preprocess(
    volume: Volume,
    steps: Sequence[PreprocessStep],
    *,
    statistics: Mapping[str, float] | None = None,
) -> Prepared:
    """Apply `steps` in their order; the whole result is in memory, and shares none with `volume`.

    See `prepare` for parameters and errors.
    """
    prepared = prepare(volume, steps, statistics=statistics)
    array = whole(prepared.image)
    if np.may_share_memory(array, volume.array):
        array = array.copy()
    return replace(prepared, image=ArrayView(np.ascontiguousarray(array)))


def prepare(
    volume: Volume,
    steps: Sequence[PreprocessStep],
    *,
    statistics: Mapping[str, float] | None = None,
    keep_bytes: float = math.inf,
) -> Prepared:
    """Say how `steps`, in their order, make an image that can be read.

    Parameters
    ----------
    volume : Volume
        Left unchanged.
    steps : sequence of PreprocessStep
    statistics : mapping, optional
        `mean` and `std` of the training data, for ``standardise: dataset``.
    keep_bytes : float, optional
        The result of a geometric step that takes at most so much memory is made at once and kept; a larger one is
        made of its source as it is read, box by box.

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
    _refuse_broken(volume.array)
    view: ImageView = ArrayView(volume.array)
    grid = GridMap.identity(volume.spatial_shape)
    smooth: list[Back] = ["smooth"] * volume.spatial_dims
    back = tuple(smooth)
    notes: list[str] = []
    for step in steps:
        if isinstance(step, _GEOMETRIC):
            kinds, ways = _kinds(volume, grid, step)
            back = back if ways is None else ways
            for move, note in _moves(volume, view, grid, step):
                fill = None
                if isinstance(step, Pad) and step.value is not None:
                    fill = np.full(view.channels, step.value, dtype=np.float32)
                made = GridView(view, move, outside=fill, kinds=kinds)
                view, grid = _kept(made, keep_bytes), grid.then(move)
                back = tuple(back[source] for source, _, _ in move.axis_maps())
                notes += [note] if note else []
        else:
            view = change_values(view, step, statistics)
    return Prepared(
        image=_kept(view, keep_bytes),
        grid=grid,
        spacing_mm=_spacing(volume, grid),
        notes=tuple(notes),
        back=back,
    )


def _kinds(
    volume: Volume, grid: GridMap, step: PreprocessStep
) -> tuple[tuple[Kind, ...] | None, tuple[Back, ...] | None]:
    """How a step interpolates each axis, and how predictions go back; None where it is as by default, or as before."""
    if not isinstance(step, Resample):
        return None, None
    return framing.resample_kinds(grid.target_shape, _spacing(volume, grid), step)


def _refuse_broken(array: NDArray[Any]) -> None:
    bad = 0
    if array.dtype.kind == "f":
        bad = sum(int(part.size - np.isfinite(part).sum()) for part in slabs(ArrayView(array)))
    if array.size == 0 or bad:
        raise InputRefusedError(f"the image has {bad} values that are not finite, of {array.size}")


def _kept(view: ImageView, keep_bytes: float) -> ImageView:
    """The view, or its values where they are small enough."""
    if isinstance(view, ArrayView) or 4 * view.channels * math.prod(view.shape) > keep_bytes:
        return view
    # Slab by slab: at once, the float32 source of a small result may be many times as large.
    array = np.empty((view.channels, *view.shape), dtype=np.float32)
    for box in slab_boxes(view):
        array[(slice(None), *box)] = view.read(box)
    return ArrayView(array)


def _moves(
    volume: Volume, view: ImageView, grid: GridMap, step: Orient | Transpose | Crop | Resample | Resize | Pad
) -> list[tuple[GridMap, str]]:
    """The maps that a geometric step consists of, each with a note or "", in the order they apply."""
    shape = grid.target_shape
    if isinstance(step, Orient):
        return [framing.orient_map(volume, grid, step)]
    if isinstance(step, Transpose):
        return [(framing.transpose_map(shape, step), "")]
    if isinstance(step, Crop):
        return [framing.crop_map(view, step)]
    if isinstance(step, Resample):
        return [(framing.resample_map(shape, _spacing(volume, grid), step), "")]
    if isinstance(step, Resize):
        return [(move, "") for move in framing.resize_maps(shape, step)]
    return [(framing.pad_map(shape, step), "")]


def _spacing(volume: Volume, grid: GridMap) -> tuple[float, ...] | None:
    """Spacing of the grid's target axes in mm."""
    if volume.spacing_mm is None:
        return None
    return tuple(volume.spacing_mm[source] * abs(scale) for source, scale, _ in grid.axis_maps())
