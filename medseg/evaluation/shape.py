"""Where an object lies and what form it has: box, centroid, parts, holes, compactness. NumPy and SciPy."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medseg.components import components_of, components_of_array
from medseg.evaluation.surface import border, crop_box


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectShape:
    """Geometry of one mask, in voxel indices.

    Parameters
    ----------
    voxels : int
    box : tuple of (int, int)
        First and last index along each axis, both inside.
    centroid : tuple of float
        Mean voxel index.
    touches : tuple of str
        Faces of the image that the mask reaches: "i first", "i last", "j first", ...
    parts : int
        Face-connected components.
    largest_share : float
        Voxels of the largest part over all, 0..1.
    hole_voxels : int
        Voxels of closed holes (background that does not reach the outside).
    compactness : float
        2-D: 4 pi area / border length^2, border length in border voxels (about 1 for a disc, less
        for ragged masks; depends little on resolution). 3-D: 36 pi volume^2 / border voxels^3.
    extent : float
        Voxels over those of the box, 0..1.
    """

    voxels: int
    box: tuple[tuple[int, int], ...]
    centroid: tuple[float, ...]
    touches: tuple[str, ...]
    parts: int
    largest_share: float
    hole_voxels: int
    compactness: float
    extent: float


def object_shape(
    mask: NDArray[np.bool_],
    *,
    start: tuple[int, ...] | None = None,
    image_shape: tuple[int, ...] | None = None,
) -> ObjectShape | None:
    """Describe a mask; None when it is empty.

    Parameters
    ----------
    mask : (I, J) or (I, J, K) bool array
    start, image_shape : tuple of int, optional
        Where the mask is a crop that holds the whole object: its first voxel in the image, and the
        shape of the image. Indices of the result are those of the image.
    """
    own = crop_box(mask)
    if own is None:
        return None
    crop = mask[own]
    offset = start or (0,) * mask.ndim
    box = tuple(slice(b.start + first, b.stop + first) for b, first in zip(own, offset, strict=True))
    voxels = int(np.count_nonzero(crop))
    sizes = _part_sizes(crop)
    edge = int(np.count_nonzero(border(crop)))
    return ObjectShape(
        voxels=voxels,
        box=tuple((b.start, b.stop - 1) for b in box),
        centroid=_centroid(crop, tuple(b.start for b in box)),
        touches=_touches(box, image_shape or mask.shape),
        parts=len(sizes),
        largest_share=float(sizes.max() / voxels),
        hole_voxels=_hole_voxels(crop),
        compactness=_compactness(voxels, edge, mask.ndim),
        extent=voxels / crop.size,
    )


def _part_sizes(crop: NDArray[np.bool_]) -> NDArray[np.int64]:
    return components_of_array(crop, faces_only=True).sizes[1:]


def _hole_voxels(crop: NDArray[np.bool_]) -> int:
    """Background components that do not reach the outside of the box."""
    outside = components_of(lambda rows: ~crop[rows], crop.shape, faces_only=True)
    return int(outside.sizes[~outside.at_rim].sum())


def _centroid(crop: NDArray[np.bool_], start: tuple[int, ...]) -> tuple[float, ...]:
    """Mean index along each axis, from sums over the other axes: no list of voxels is made."""
    centre = []
    for axis, first in enumerate(start):
        others = tuple(a for a in range(crop.ndim) if a != axis)
        profile = crop.sum(axis=others, dtype=np.int64)
        centre.append(first + float((profile * np.arange(len(profile))).sum() / profile.sum()))
    return tuple(centre)


def _touches(box: tuple[slice, ...], shape: tuple[int, ...]) -> tuple[str, ...]:
    found = []
    for name, part, size in zip("ijk", box, shape, strict=False):
        # An axis with a single slice has no outside to be cut off at.
        if size > 1 and part.start == 0:
            found.append(f"{name} first")
        if size > 1 and part.stop == size:
            found.append(f"{name} last")
    return tuple(found)


def _compactness(voxels: int, edge: int, dims: int) -> float:
    if dims == 2:
        return float(4 * np.pi * voxels / edge**2)
    return float(36 * np.pi * voxels**2 / edge**3)


def widest_extent(mask: NDArray[np.bool_], axis: int) -> int:
    """Largest distance between outermost mask voxels on one line along `axis`, both included.

    Parameters
    ----------
    mask : (I, J) bool array
    axis : int
        0 or 1.
    """
    lines = np.moveaxis(mask, axis, 0)
    filled = lines.any(axis=0)
    if not filled.any():
        return 0
    lines = lines[:, filled]
    first = np.argmax(lines, axis=0)
    last = len(lines) - 1 - np.argmax(lines[::-1], axis=0)
    return int((last - first).max()) + 1
