"""Which part of an image, and which way round: the grid maps of orient, crop, resize, resample, pad."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from medseg.errors import ConfigError, GeometryError, InputRefusedError
from medseg.geometry import GridMap, axis_codes
from medseg.transforms.image_view import ImageView, Kind, slab_boxes, whole
from medseg.transforms.intensity import otsu_threshold
from medseg.transforms.options import Crop, Orient, Pad, Resample, Resize, Transpose
from medseg.transforms.preprocess_options import HEAD_AND_FOOT, OPPOSITE
from medseg.volume import Volume

Back = Literal["smooth", "linear", "nearest"]
"""How a prediction goes back along an axis; smooth widens the filter where the source is coarser."""

# Moves the far end of 500 voxels by less than a hundredth of one.
_SAME_SCALE = 1e-5
# A smaller part of a voxel at the far end is rounding and gets no voxel of its own.
_LEAST_VOXEL = 1e-3
# A border that leaves less of an axis than this is more likely a dark image than a border.
_LEAST_CONTENT = 0.25


def source_directions(volume: Volume) -> tuple[str, ...] | None:
    """Patient direction, one of L R A P S I, in which each axis of a volume grows; None where unknown."""
    if volume.patient_orientation is not None:
        # PS3.3 C.7.6.1.1.1: the first letter of several names the main direction.
        letters = tuple(HEAD_AND_FOOT.get(text[:1], text[:1]) for text in volume.patient_orientation)
        return letters if all(letter in OPPOSITE for letter in letters) else None
    if volume.affine is None:
        return None
    letters = tuple(axis_codes(volume.affine))
    return letters[: volume.spatial_dims]


def orient_map(volume: Volume, grid: GridMap, step: Orient) -> tuple[GridMap, str]:
    """Map that makes the axes grow as `step` says, and a note where that cannot be done.

    Parameters
    ----------
    volume : Volume
        The source, which knows its directions.
    grid : GridMap
        Source to the present array: earlier steps may have moved axes already.
    step : Orient

    Returns
    -------
    (GridMap, str)
        Identity and one sentence where the orientation is unknown or has other axes; else "".
    """
    shape = grid.target_shape
    wanted = step.directions
    if len(wanted) != len(shape):
        raise ConfigError(f"orient: to {step.to!r} names {len(wanted)} axes, the image has {len(shape)}")
    directions = source_directions(volume)
    if directions is None:
        return GridMap.identity(shape), f"The orientation is unknown; taken to be {step.to}."
    present = [
        OPPOSITE[directions[source]] if scale < 0 else directions[source]
        for source, scale, _ in grid.axis_maps()
    ]
    axes, flips = [], []
    for letter in wanted:
        match = [i for i, d in enumerate(present) if d in (letter, OPPOSITE[letter])]
        if not match:
            found = " and ".join(directions)
            return GridMap.identity(
                shape
            ), f"The axes grow towards {found}, which cannot become {step.to}; left."
        axes.append(match[0])
        flips.append(present[match[0]] != letter)
    return GridMap.permute_flip(shape, tuple(axes), tuple(flips)), ""


def transpose_map(shape: tuple[int, ...], step: Transpose) -> GridMap:
    """Map that puts the axes into another order."""
    if len(step.axes) != len(shape):
        raise ConfigError(
            f"transpose: axes {list(step.axes)} names {len(step.axes)} axes, the image has {len(shape)}"
        )
    return GridMap.permute_flip(shape, step.axes, (False,) * len(shape))


def crop_map(view: ImageView, step: Crop) -> tuple[GridMap, str]:
    """Map to the box that `step` describes, and a note where a border crop was not believed.

    Raises
    ------
    GeometryError
        A fixed box reaches beyond the image.
    InputRefusedError
        No voxel is foreground.
    """
    shape = view.shape
    if step.method == "box" and step.start is not None and step.size is not None:
        if len(step.start) != len(shape):
            raise ConfigError(f"crop: start names {len(step.start)} axes, the image has {len(shape)}")
        if any(a + n > full for a, n, full in zip(step.start, step.size, shape, strict=True)):
            raise GeometryError(
                f"crop: the box at {step.start} of size {step.size} reaches beyond the image of size {shape}"
            )
        return GridMap.crop_or_pad(shape, step.start, step.size), ""
    if step.method == "nonzero":
        box = nonzero_box(view)
        return GridMap.crop_or_pad(shape, tuple(a for a, _ in box), tuple(b - a for a, b in box)), ""
    array = whole(view)
    gray = array[0] if array.shape[0] == 1 else array.mean(axis=0)
    if step.method == "foreground":
        box = foreground_box(gray, threshold=step.threshold, margin=step.margin)
    else:
        box = content_box(gray, tolerance=step.tolerance)
        if any(b - a < _LEAST_CONTENT * n for (a, b), n in zip(box, shape, strict=True)):
            kept = " x ".join(str(b - a) for a, b in box)
            return GridMap.identity(shape), f"A border crop would leave {kept} pixels; nothing was cropped."
    start = tuple(a for a, _ in box)
    return GridMap.crop_or_pad(shape, start, tuple(b - a for a, b in box)), ""


def foreground_box(
    image: NDArray[np.float32], *, threshold: float | None, margin: int
) -> tuple[tuple[int, int], ...]:
    """(first, one past the last) voxel along each axis of what exceeds the threshold, with a margin."""
    level = otsu_threshold(image) if threshold is None else threshold
    mask = image > level
    box = []
    for axis, length in enumerate(image.shape):
        others = tuple(a for a in range(image.ndim) if a != axis)
        hits = np.flatnonzero(mask.any(axis=others))
        if hits.size == 0:
            raise InputRefusedError(f"crop: no voxel lies above the foreground threshold {level:g}")
        box.append((max(0, int(hits[0]) - margin), min(length, int(hits[-1]) + 1 + margin)))
    return tuple(box)


def nonzero_box(view: ImageView) -> tuple[tuple[int, int], ...]:
    """(first, one past the last) voxel along each axis of what is not zero in some channel; all of a zero image."""
    hits = [np.zeros(n, dtype=np.bool_) for n in view.shape]
    for box in slab_boxes(view):
        mask = (view.read(box) != 0).any(axis=0)
        for axis, (along, hit) in enumerate(zip(box, hits, strict=True)):
            hit[along] |= mask.any(axis=tuple(a for a in range(mask.ndim) if a != axis))
    places = [np.flatnonzero(hit) for hit in hits]
    return tuple(
        (int(found[0]), int(found[-1]) + 1) if found.size else (0, n)
        for found, n in zip(places, view.shape, strict=True)
    )


def content_box(image: NDArray[np.float32], *, tolerance: float) -> tuple[tuple[int, int], ...]:
    """Box that is left when lines of nothing but black or nothing but white are taken off the rim.

    Conservative: a line goes only if every pixel of it lies within `tolerance` (part of the range from
    the 1st to the 99th percentile) of one and the same end of that range. Removed lines no longer
    count, so that a frame whose sides overlap is taken off as a whole.
    """
    low, high = np.percentile(image, (1, 99))
    dark, bright = low + tolerance * (high - low), high - tolerance * (high - low)
    box = [(0, n) for n in image.shape]
    while True:
        before = list(box)
        for axis in range(image.ndim):
            part = image[tuple(slice(a, b) for a, b in box)]
            others = tuple(a for a in range(image.ndim) if a != axis)
            flat = (part.max(axis=others) <= dark) | (part.min(axis=others) >= bright)
            content = np.flatnonzero(~flat)
            if content.size == 0:
                return tuple((0, n) for n in image.shape)
            first = box[axis][0]
            box[axis] = (first + int(content[0]), first + int(content[-1]) + 1)
        if box == before:
            return tuple(box)


def resize_maps(shape: tuple[int, ...], step: Resize) -> tuple[GridMap, GridMap]:
    """Map to the new number of voxels, then the padding that fills up `size` (identity if none)."""
    if len(step.size) != len(shape):
        raise ConfigError(
            f"resize: size {list(step.size)} names {len(step.size)} axes, the image has {len(shape)}"
        )
    inner = step.size
    if step.keep_aspect:
        factor = min(new / old for new, old in zip(step.size, shape, strict=True))
        inner = tuple(max(1, round(n * factor)) for n in shape)
    return GridMap.resize(shape, inner), centred(inner, step.size)


def resample_map(shape: tuple[int, ...], spacing_mm: tuple[float, ...] | None, step: Resample) -> GridMap:
    """Map to the new spacing, exact about the same centre or the nearest that keeps the outer edges."""
    old, new = _spacings(shape, spacing_mm, step)
    if step.fit == "extent":
        # In this order the last digit is that of nnU-Net's compute_new_shape; half voxels go to the even number.
        target = tuple(max(1, round(a / b * n)) for a, b, n in zip(old, new, shape, strict=True))
        return GridMap.resize(shape, target)
    scale = np.asarray(new) / np.asarray(old)
    # Files keep spacings in single precision: 0.8 comes back as 0.80000001, which is the same spacing.
    scale[np.abs(scale - 1) < _SAME_SCALE] = 1
    target = tuple(max(1, int(n)) for n in np.ceil(np.asarray(shape) / scale - _LEAST_VOXEL))
    matrix = np.diag([*scale, 1.0])
    matrix[:-1, -1] = (np.asarray(shape) - 1) / 2 - scale * (np.asarray(target) - 1) / 2
    return GridMap(source_shape=shape, target_shape=target, matrix=matrix)


def resample_kinds(
    shape: tuple[int, ...], spacing_mm: tuple[float, ...] | None, step: Resample
) -> tuple[tuple[Kind, ...], tuple[Back, ...]]:
    """How each axis is interpolated, and how a prediction goes back along it."""
    if step.interpolation == "linear":
        plain: list[Kind] = ["linear"] * len(shape)
        smooth: list[Back] = ["smooth"] * len(shape)
        return tuple(plain), tuple(smooth)
    old, new = _spacings(shape, spacing_mm, step)
    there, back = (coarse_axis(*pair, limit=step.separate_above) for pair in ((old, new), (new, old)))
    kinds: list[Kind] = ["nearest" if axis == there else "cubic" for axis in range(len(shape))]
    ways: list[Back] = ["nearest" if axis == back else "linear" for axis in range(len(shape))]
    return tuple(kinds), tuple(ways)


def coarse_axis(first: Sequence[float], second: Sequence[float], *, limit: float | None) -> int | None:
    """The one axis that is more than `limit` times as coarse as the finest, by the first spacing or else the second.

    None where no spacing is so uneven, or two axes share the largest one.
    """
    if limit is None:
        return None
    for spacing in (first, second):
        if max(spacing) / min(spacing) > limit:
            coarse = [axis for axis, size in enumerate(spacing) if max(spacing) / size == 1]
            return coarse[0] if len(coarse) == 1 else None
    return None


def _spacings(
    shape: tuple[int, ...], spacing_mm: tuple[float, ...] | None, step: Resample
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Spacing before and after, axes that are left alone filled in."""
    if len(step.spacing_mm) != len(shape):
        raise ConfigError(
            f"resample: spacing_mm names {len(step.spacing_mm)} axes, the image has {len(shape)}"
        )
    if spacing_mm is None:
        raise GeometryError(
            "resample: the file does not say how far its pixels are apart; use resize instead"
        )
    new = (old if size is None else size for old, size in zip(spacing_mm, step.spacing_mm, strict=True))
    return tuple(spacing_mm), tuple(new)


def pad_map(shape: tuple[int, ...], step: Pad) -> GridMap:
    """Map that adds voxels on both sides, never takes any away."""
    if step.size is not None:
        if len(step.size) != len(shape):
            raise ConfigError(
                f"pad: size {list(step.size)} names {len(step.size)} axes, the image has {len(shape)}"
            )
        return centred(shape, tuple(max(old, new) for old, new in zip(shape, step.size, strict=True)))
    multiple = step.multiple or 1
    return centred(shape, tuple(-(-n // multiple) * multiple for n in shape))


def centred(shape: tuple[int, ...], target: tuple[int, ...]) -> GridMap:
    """Map that pads on both sides; an odd voxel goes to the far side."""
    start = tuple(-((new - old) // 2) for old, new in zip(shape, target, strict=True))
    return GridMap.crop_or_pad(shape, start, target)
