"""The part of an image that is worth a look: the body, or what a quick first pass found."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from medseg.geometry import GridMap
from medseg.inference.options import BodyOptions, CoarseOptions, RefineOptions
from medseg.inference.postprocess import bounding_box
from medseg.inference.refine import main_components, refine_classes
from medseg.labels import LabelTable
from medseg.transforms.image_view import GridView, ImageView
from medseg.transforms.intensity import otsu_threshold
from medseg.transforms.preprocess import Prepared
from medseg.volume import Volume

Box = tuple[slice, ...]
# The body is looked for in about so many voxels.
_SAMPLE = 1 << 20
# Foreground that is smaller than this part of its largest piece is noise.
_SPECK = 0.01


@dataclass(frozen=True, slots=True, kw_only=True)
class BodyMask:
    """Where the body is, in cells of the source grid.

    Parameters
    ----------
    cells : bool array
        Body, what lies between two parts of it, and a margin.
    step : tuple of int
        Source voxels of a cell along each axis.
    """

    cells: NDArray[np.bool_]
    step: tuple[int, ...]

    def touches(self, place: Box, grid: GridMap) -> bool:
        """Whether any of the body lies in a box of the prepared image."""
        box: list[slice] = [slice(0)] * self.cells.ndim
        for part, (axis, scale, offset) in zip(place, grid.axis_maps(), strict=True):
            ends = sorted(scale * end + offset for end in (part.start - 0.5, part.stop - 0.5))
            first, last = ((end + 0.5) / self.step[axis] for end in ends)
            box[axis] = slice(max(0, int(np.floor(first))), max(0, int(np.ceil(last))))
        return bool(self.cells[tuple(box)].any())

    def box(self, grid: GridMap) -> Box | None:
        """Smallest box of the prepared image that holds the body; None where there is none in it."""
        found = bounding_box(self.cells, (1,))
        if found is None:
            return None
        box = []
        for length, (axis, scale, offset) in zip(grid.target_shape, grid.axis_maps(), strict=True):
            ends = (found[axis].start * self.step[axis] - 0.5, found[axis].stop * self.step[axis] - 0.5)
            low, high = sorted((end - offset) / scale for end in ends)
            start, stop = max(0, int(np.floor(low + 0.5))), min(length, int(np.ceil(high + 0.5)))
            if start >= stop:
                return None
            box.append(slice(start, stop))
        return tuple(box)


def find_body(volume: Volume, options: BodyOptions) -> BodyMask:
    """The body of a volume, by its values in every few voxels.

    Parameters
    ----------
    volume : Volume
        Several channels: what is above the threshold in any of them.
    options : BodyOptions

    Raises
    ------
    InputRefusedError
        The image has no contrast.
    """
    dims = volume.spatial_dims
    step = max(1, round((np.prod(volume.spatial_shape) / _SAMPLE) ** (1 / dims)))
    steps = tuple(min(step, n) for n in volume.spatial_shape)
    sample = volume.array[(slice(None), *(slice(None, None, n) for n in steps))].astype(np.float32)
    inside = np.zeros(sample.shape[1:], dtype=np.bool_)
    for channel in sample:
        level = otsu_threshold(channel) if options.threshold is None else options.threshold
        inside |= channel > level
    return BodyMask(cells=_widened(_between(_without_specks(inside)), options.margin), step=steps)


def _without_specks(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    numbers, _ = ndimage.label(mask, structure=np.ones((3,) * mask.ndim))
    sizes = np.bincount(numbers.ravel())
    sizes[0] = 0
    return np.asarray((sizes >= max(1, _SPECK * sizes.max(initial=0)))[numbers])


def _between(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Voxels with body on both sides along all axes but one at least: lungs and bowel gas, open or not."""
    count = np.zeros(mask.shape, dtype=np.int8)
    for axis in range(mask.ndim):
        before = np.maximum.accumulate(mask, axis=axis)
        after = np.flip(np.maximum.accumulate(np.flip(mask, axis), axis=axis), axis)
        count += before & after
    return np.asarray(mask | (count >= max(1, mask.ndim - 1)))


def _widened(mask: NDArray[np.bool_], margin: float) -> NDArray[np.bool_]:
    """The mask with a margin on each side, of at least the one cell that sampling may have missed."""
    box = bounding_box(mask, (1,))
    if box is None:
        return mask
    for axis, part in enumerate(box):
        size = 2 * max(1, round(margin * (part.stop - part.start))) + 1
        mask = np.asarray(ndimage.maximum_filter1d(mask.view(np.uint8), size, axis=axis)).view(np.bool_)
    return mask


def covered_share(box: Box, shape: Sequence[int]) -> float:
    """Part of an image that a box covers."""
    return float(np.prod([(part.stop - part.start) / n for part, n in zip(box, shape, strict=True)]))


def widened_box(box: Box, shape: Sequence[int], *, margin: float, least: Sequence[int]) -> Box:
    """A box with a margin on each side, inside of the image and, where that allows, no smaller than `least`.

    Parameters
    ----------
    box : tuple of slice
    shape : sequence of int
    margin : float
        Part of the box's length.
    least : sequence of int
        A window, so that none reaches beyond the box where the image would have gone on.
    """
    found = []
    for part, length, wanted in zip(box, shape, least, strict=True):
        room = round(margin * (part.stop - part.start))
        start, stop = max(0, part.start - room), min(length, part.stop + room)
        size = max(stop - start, min(wanted, length))
        start = min(max(0, start - (size - (stop - start)) // 2), length - size)
        found.append(slice(start, start + size))
    return tuple(found)


def cropped(prepared: Prepared, box: Box) -> Prepared:
    """A box of a prepared image; what is outside of it becomes background on the way back."""
    start, size = tuple(s.start for s in box), tuple(s.stop - s.start for s in box)
    move = GridMap.crop_or_pad(prepared.image.shape, start, size)
    return replace(prepared, image=GridView(prepared.image, move), grid=prepared.grid.then(move))


def coarse_view(image: ImageView, factor: float) -> tuple[ImageView, GridMap]:
    """An image with voxels `factor` times as far apart, and the map from its grid."""
    size = tuple(max(1, round(n / factor)) for n in image.shape)
    if size == image.shape:
        return image, GridMap.identity(image.shape)
    move = GridMap.resize(image.shape, size)
    return GridView(image, move), move


def found_box(
    label_map: NDArray[Any], grid: GridMap, options: CoarseOptions, table: LabelTable, *, least: Sequence[int]
) -> Box | None:
    """Box of the full image around the structures that a coarse pass found.

    Parameters
    ----------
    label_map : (*coarse) integer array
    grid : GridMap
        Full to coarse image.
    options : CoarseOptions
    table : LabelTable
    least : sequence of int
        Smallest box.

    Returns
    -------
    tuple of slice, or None
        None where nothing was found, or not each of the structures that are named.
    """
    structures = refine_classes(RefineOptions(labels=options.labels), table)
    missing = [classes for classes in structures if not np.isin(label_map, classes).any()]
    if len(missing) == len(structures) or (missing and options.labels != "all"):
        return None
    box = bounding_box(main_components(label_map, structures), (1,))
    if box is None:
        return None
    full = []
    for part, length, (_, scale, offset) in zip(box, grid.source_shape, grid.axis_maps(), strict=True):
        low, high = scale * (part.start - 0.5) + offset, scale * (part.stop - 0.5) + offset
        full.append(slice(max(0, int(np.floor(low + 0.5))), min(length, int(np.ceil(high + 0.5)))))
    return widened_box(tuple(full), grid.source_shape, margin=options.margin, least=least)


@dataclass(frozen=True, slots=True, kw_only=True)
class Narrowed:
    """The part of a prepared image that is looked at.

    Parameters
    ----------
    prepared : Prepared
    wanted : callable or None
        Whether a box of it is shown; None: all of it.
    passes : int
        2 where a coarse pass came before.
    notes : tuple of str
    """

    prepared: Prepared
    wanted: Callable[[Box], bool] | None = None
    passes: int = 1
    notes: tuple[str, ...] = ()


def narrow_to_body(
    volume: Volume, prepared: Prepared, options: BodyOptions, *, window: Sequence[int]
) -> Narrowed:
    """The part of an image that holds the body.

    Parameters
    ----------
    volume : Volume
        Source of `prepared`.
    prepared : Prepared
    options : BodyOptions
    window : sequence of int
        No box is smaller where the image is not.
    """
    body = find_body(volume, options)
    box, shape = body.box(prepared.grid), prepared.image.shape
    if box is None or covered_share(box, shape) < options.min_share:
        share = 0.0 if box is None else covered_share(box, shape)
        return Narrowed(
            prepared=prepared,
            notes=(
                f"The body was found in only {share:.1%} of the image, so the network was shown all of it.",
            ),
        )
    part = cropped(prepared, widened_box(box, shape, margin=0.0, least=window))
    share = covered_share(box, shape)
    return Narrowed(
        prepared=part,
        wanted=lambda place: body.touches(place, part.grid),
        notes=(
            f"Only the box of the body, {share:.0%} of the image, was shown to the network; the rest is background.",
        ),
    )


def narrow_to_found(
    narrowed: Narrowed,
    options: CoarseOptions,
    table: LabelTable,
    *,
    window: Sequence[int] | None,
    label: Callable[[ImageView], NDArray[Any]],
) -> Narrowed:
    """The part of an image in which a coarse pass found structures.

    Parameters
    ----------
    narrowed : Narrowed
    options : CoarseOptions
    table : LabelTable
    window : sequence of int or None
        Of the second pass; None: the whole part at once.
    label : callable
        Image -> label map, windows side by side.
    """
    image = narrowed.prepared.image
    coarse, grid = coarse_view(image, options.factor)
    box = found_box(label(coarse), grid, options, table, least=window or (1,) * len(image.shape))
    if box is None:
        note = "The coarse pass did not find what it looked for, so the network was shown the whole image."
        return replace(narrowed, notes=(*narrowed.notes, note))
    share = covered_share(box, image.shape)
    note = f"A coarse pass found the structures in {share:.0%} of the image; only that was looked at closely."
    shift = tuple(part.start for part in box)
    inner = narrowed.wanted

    def wanted(place: Box) -> bool:
        moved = tuple(slice(s.start + n, s.stop + n) for s, n in zip(place, shift, strict=True))
        return inner is None or inner(moved)

    return Narrowed(
        prepared=cropped(narrowed.prepared, box),
        wanted=None if inner is None else wanted,
        passes=2,
        notes=(*narrowed.notes, note),
    )
