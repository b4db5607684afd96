"""A volume and its label map made small enough for a page: blocks of voxels become one voxel.

The grey value of a block is that of its mean, its label the commonest one in it. Blocks at the far ends are
filled up with the outermost voxels.
"""

from __future__ import annotations

import gzip
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from medseg.errors import LabelError

MOST_VOXELS = 16_000_000
"""More than that and a browser without a graphics card stalls, whatever the file's size."""
_LARGEST_INDEX = 255
_LEVEL = 6

Factors = tuple[int, int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class PackedPair:
    """Image and masks as gzip NIfTI files on one grid.

    Parameters
    ----------
    image, mask : bytes
        uint8: grey 0..255 as displayed, and class indices.
    reference : bytes
        Class indices of a reference; empty where there is none.
    factors : (int, int, int)
        Voxels of the source to one of these, along each axis.
    shape : (int, int, int)
    """

    image: bytes
    mask: bytes
    factors: Factors
    shape: tuple[int, int, int]
    reference: bytes = b""

    @property
    def page_bytes(self) -> int:
        """What all take in a page, in base64."""
        return sum(4 * -(-len(part) // 3) for part in (self.image, self.mask, self.reference))


def pack(
    image: NDArray[Any],
    label_map: NDArray[Any],
    *,
    gray: Callable[[NDArray[Any]], NDArray[np.uint8]],
    affine: NDArray[np.float64],
    max_bytes: int,
    reference: NDArray[Any] | None = None,
) -> PackedPair:
    """Make a volume small enough for a page, with as little averaging as its size allows.

    Parameters
    ----------
    image : (C, I, J, K) array
        Channels are averaged.
    label_map : (I, J, K) integer array
        Class indices up to 255.
    gray : callable
        Values -> 0..255 as displayed.
    affine : (4, 4) float64 array
        Index to mm.
    max_bytes : int
        What all may take in the page, in base64.
    reference : (I, J, K) integer array, optional
        Class indices up to 255.

    Raises
    ------
    LabelError
        A class index above 255.
    """
    largest = int(label_map.max(initial=0))
    if largest > _LARGEST_INDEX:
        raise LabelError(f"the viewer shows class indices up to {_LARGEST_INDEX}, found {largest}")
    shape, spacing = label_map.shape, np.linalg.norm(affine[:3, :3], axis=0)
    # A gzip byte holds five grey voxels at most, of a noise-free image; noise is found out by packing.
    factors = first_factors(shape, spacing, min(MOST_VOXELS, max_bytes * 15 // 4))
    while True:
        small = shrink_image(image, gray, factors)
        grey = nifti_bytes(small, shrunk_affine(affine, factors))
        masks, known = (
            b""
            if labels is None
            else nifti_bytes(shrink_labels(labels, factors), shrunk_affine(affine, factors), intent="label")
            for labels in (label_map, reference)
        )
        pair = PackedPair(image=grey, mask=masks, factors=factors, shape=_shape(small), reference=known)
        if pair.page_bytes <= max_bytes or max(pair.shape) == 1:
            return pair
        factors = coarser(factors, spacing, shape)


def first_factors(shape: Sequence[int], spacing: NDArray[np.float64], voxels: int) -> Factors:
    """Smallest factors, finest axes first, that leave no more than so many voxels."""
    factors: Factors = (1, 1, 1)
    while np.prod([-(-n // f) for n, f in zip(shape, factors, strict=True)]) > max(voxels, 1):
        factors = coarser(factors, spacing, shape)
    return factors


def coarser(factors: Factors, spacing: NDArray[np.float64], shape: Sequence[int]) -> Factors:
    """One more source voxel along the axis, or equal axes, with the smallest step now."""
    steps = np.where(np.array(factors) < np.array(shape), np.array(factors) * spacing, np.inf)
    finest = steps <= steps.min() * 1.05
    i, j, k = (int(f) for f in np.array(factors) + (finest & np.isfinite(steps)))
    return i, j, k


def shrunk_affine(affine: NDArray[np.float64], factors: Factors) -> NDArray[np.float64]:
    """Affine of blocks: their centres, from that of the voxels."""
    blocks = np.diag([*map(float, factors), 1.0])
    blocks[:3, 3] = [(f - 1) / 2 for f in factors]
    return np.asarray(affine @ blocks, dtype=np.float64)


def shrink_image(
    image: NDArray[Any], gray: Callable[[NDArray[Any]], NDArray[np.uint8]], factors: Factors
) -> NDArray[np.uint8]:
    """Grey value of the mean of each block, slab by slab."""
    slabs = []
    for start in range(0, image.shape[3], factors[2]):
        slab = image[..., start : start + factors[2]].mean(axis=0, dtype=np.float32)
        slabs.append(gray(_blocks(slab, factors).mean(axis=(1, 3, 5), dtype=np.float32)))
    return np.concatenate(slabs, axis=2)


def shrink_labels(label_map: NDArray[Any], factors: Factors) -> NDArray[np.uint8]:
    """Commonest class of each block; where two are equally common, a structure before background."""
    slabs = [
        _commonest(_blocks(label_map[..., start : start + factors[2]], factors))
        for start in range(0, label_map.shape[2], factors[2])
    ]
    return np.concatenate(slabs, axis=2).astype(np.uint8)


def nifti_bytes(array: NDArray[np.uint8], affine: NDArray[np.float64], *, intent: str = "none") -> bytes:
    """A gzip NIfTI-1 file; the same array gives the same bytes. NiiVue outlines what has the intent "label"."""
    image = nib.Nifti1Image(array, affine)
    image.header.set_xyzt_units("mm")
    image.header.set_intent(intent)
    return gzip.compress(image.to_bytes(), _LEVEL, mtime=0)


def _blocks(array: NDArray[Any], factors: Factors) -> NDArray[Any]:
    """(I, f, J, g, K, h) view of an array filled up to whole blocks."""
    missing = [(0, -n % f) for n, f in zip(array.shape, factors, strict=True)]
    whole = np.pad(array, missing, mode="edge") if any(m for _, m in missing) else array
    parts = [part for n, f in zip(whole.shape, factors, strict=True) for part in (n // f, f)]
    return whole.reshape(parts)


def _commonest(blocks: NDArray[Any]) -> NDArray[Any]:
    low, high = blocks.min(axis=(1, 3, 5)), blocks.max(axis=(1, 3, 5))
    mixed = np.nonzero(low != high)
    if not len(mixed[0]):
        return np.asarray(low)
    # Nearly all blocks are of one class; only the others are counted.
    values = blocks.transpose(0, 2, 4, 1, 3, 5)[mixed].reshape(len(mixed[0]), -1)
    best, count = np.zeros(len(values), low.dtype), np.zeros(len(values), np.int64)
    classes = np.unique(values)
    for index in (*classes[classes > 0], 0):
        found = (values == index).sum(axis=1)
        best, count = np.where(found > count, index, best), np.maximum(found, count)
    low[mixed] = best
    return np.asarray(low)


def _shape(array: NDArray[Any]) -> tuple[int, int, int]:
    i, j, k = array.shape
    return i, j, k
