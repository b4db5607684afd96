"""Images of the wrong kind, made from the development data, for benchmarks/gate.py."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from medseg.io.nifti import read_nifti
from medseg.io.picture import read_picture
from medseg.io.read import read_image
from medseg.volume import Source, Volume

Change = Callable[[Volume, np.random.Generator], Volume]
MEMORY = Source(paths=(), format="memory")


def picture(array: NDArray[np.generic]) -> Volume:
    """A picture without header, from (I, J) or (C, I, J) values scaled to 0..255."""
    values = np.asarray(array, dtype=np.float32)
    values = values if values.ndim == 3 else values[None]
    low, high = np.percentile(values, [0.5, 99.5])
    gray = np.clip((values - low) / max(high - low, 1e-6), 0, 1) * 255
    return Volume(array=np.ascontiguousarray(gray.astype(np.uint8)), source=MEMORY)


def block(array: NDArray[np.generic], spacing_mm: tuple[float, float, float] = (1.0, 1.0, 1.0)) -> Volume:
    """A volume in RAS from (I, J, K) or (C, I, J, K) values."""
    values = np.asarray(array)
    values = values if values.ndim == 4 else values[None]
    affine = np.diag([*spacing_mm, 1.0])
    return Volume(
        array=np.ascontiguousarray(values),
        affine=affine,
        spacing_mm=spacing_mm,
        spacing_origin="affine",
        source=MEMORY,
    )


def with_array(volume: Volume, array: NDArray[np.generic]) -> Volume:
    """The same header around other voxels: what a program does that loses the affine."""
    return replace(volume, array=np.ascontiguousarray(array), source=MEMORY, pixel_sha256="")


def flipped(axis: int) -> Change:
    """Voxels mirrored along an axis of the volume, header kept."""
    return lambda v, _: with_array(v, np.flip(v.array, axis=1 + axis))


def permuted(*order: int) -> Change:
    """Axes in another order, header kept."""
    return lambda v, _: with_array(v, v.array.transpose(0, *(1 + axis for axis in order)))


def scaled_spacing(factor: float) -> Change:
    """Spacing in another unit of length."""

    def change(volume: Volume, _: np.random.Generator) -> Volume:
        affine = np.array(volume.affine)
        affine[:3] *= factor
        spacing = tuple(step * factor for step in volume.spacing_mm or ())
        return replace(volume, affine=affine, spacing_mm=spacing)

    return change


def part(first: float, last: float, axis: int) -> Change:
    """Only a part of the field of view along an axis, as shares of its length."""

    def change(volume: Volume, _: np.random.Generator) -> Volume:
        size = volume.array.shape[1 + axis]
        rows = slice(round(first * size), round(last * size))
        index: list[slice] = [slice(None)] * volume.array.ndim
        index[1 + axis] = rows
        return with_array(volume, volume.array[tuple(index)])

    return change


def zoomed(factor: float) -> Change:
    """Other number of voxels under the same header."""

    def change(volume: Volume, _: np.random.Generator) -> Volume:
        zoom = (1.0, *(factor,) * volume.spatial_dims)
        return with_array(volume, ndimage.zoom(volume.array.astype(np.float32), zoom, order=1))

    return change


def noise(volume: Volume, rng: np.random.Generator) -> Volume:
    """Noise of the image's own mean and spread."""
    values = volume.array.astype(np.float64)
    return with_array(volume, rng.normal(values.mean(), values.std(), values.shape).astype(np.float32))


def blank(volume: Volume, _: np.random.Generator) -> Volume:
    """One value everywhere."""
    return with_array(volume, np.full_like(volume.array, 7))


def modality(name: str) -> Change:
    """The header tells another modality."""
    return lambda v, _: replace(v, modality=name)


def doubled(volume: Volume, _: np.random.Generator) -> Volume:
    """A second channel."""
    return with_array(volume, np.repeat(volume.array, 2, axis=0))


def middle_slice(volume: Volume, _: np.random.Generator) -> Volume:
    """A single slice as a picture."""
    return picture(volume.array[0, :, :, volume.array.shape[3] // 2])


def as_volume(volume: Volume, _: np.random.Generator) -> Volume:
    """A picture repeated to a volume."""
    return block(np.repeat(volume.array[..., None], 12, axis=-1))


def corner(share: float) -> Change:
    """A random part of a picture, `share` of each side."""

    def change(volume: Volume, rng: np.random.Generator) -> Volume:
        parts = [slice(None)]
        for size in volume.spatial_shape:
            length = round(share * size)
            start = int(rng.integers(0, size - length + 1))
            parts.append(slice(start, start + length))
        return with_array(volume, volume.array[tuple(parts)])

    return change


def two_in_one(volume: Volume, _: np.random.Generator) -> Volume:
    """Two films side by side in one picture."""
    return with_array(volume, np.concatenate([volume.array, volume.array], axis=1))


def mask_of(volume: Volume, _: np.random.Generator) -> Volume:
    """A mask instead of an image: bright against dark."""
    values = volume.array
    return with_array(volume, (values > np.median(values)).astype(np.uint8) * 255)


def volumes(data: Path, *names: str) -> Iterator[Volume]:
    """Volumes of the development data by path, in RAS."""
    for name in names:
        path = data / name
        volume = read_nifti(path) if name.endswith(".nii.gz") else read_image([path])
        yield to_ras(volume)


def to_ras(volume: Volume) -> Volume:
    """Voxels in RAS order, whatever the file had."""
    from medseg.quality.canonical import axis_order, canonical, directions_of

    order = axis_order(directions_of(spatial_dims=3, affine=volume.affine), 3)
    array = canonical(volume.array, order)
    spacing = volume.spacing_mm or (1.0, 1.0, 1.0)
    steps = tuple(spacing[axis] for axis, _ in order or ())
    return block(array, (steps[0], steps[1], steps[2]))


def slices(data: Path, names: tuple[str, ...], axis: int, count: int) -> list[Volume]:
    """Slices across an axis of RAS volumes as they are shown, at even steps through their middle half."""
    found = []
    for volume in volumes(data, *names):
        array = volume.array[0]
        size = array.shape[axis]
        for place in np.linspace(size * 0.3, size * 0.7, max(1, count // len(names))).astype(int):
            plane = np.asarray(array.take(place, axis=axis), dtype=np.float32)
            # Display: right of the patient on the left, head or front at the top.
            plane = plane[::-1, ::-1]
            factor = 256 / max(plane.shape)
            found.append(picture(ndimage.zoom(plane, factor, order=1)))
    return found


def crops(
    volume: Volume, size_mm: tuple[float, float, float], count: int, rng: np.random.Generator
) -> list[Volume]:
    """Random parts of a volume at 1 mm, of a given size, that are not mostly empty."""
    spacing = volume.spacing_mm or (1.0, 1.0, 1.0)
    array = volume.array[0].astype(np.float32)
    floor = np.percentile(array, 30)
    found: list[Volume] = []
    for _ in range(20 * count):
        if len(found) == count:
            break
        size = [max(2, round(mm / step)) for mm, step in zip(size_mm, spacing, strict=True)]
        if any(n > m for n, m in zip(size, array.shape, strict=True)):
            size = [min(n, m) for n, m in zip(size, array.shape, strict=True)]
        start = [int(rng.integers(0, m - n + 1)) for n, m in zip(size, array.shape, strict=True)]
        piece = array[tuple(slice(s, s + n) for s, n in zip(start, size, strict=True))]
        if (piece > floor).mean() > 0.6:
            found.append(block(ndimage.zoom(piece, spacing, order=1)))
    return found


def street(data: Path, count: int, *, grey: bool) -> list[Volume]:
    """Street photographs of the test split."""
    found = []
    for path in islice(sorted((data / "driving" / "images").glob("camvid_*")), 0, None, 4):
        volume = read_picture(path)
        array = volume.array.astype(np.float32)
        found.append(picture(array.mean(axis=0)) if grey else replace(volume, source=MEMORY))
        if len(found) == count:
            break
    return found
