"""Three pictures of a volume: slices along each axis where its masks are largest."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from medseg.report.case import draw_picture
from medseg.report.page import Picture

_MAGNIFY = 12
_NAMES = {"R": "sagittal", "L": "sagittal", "A": "coronal", "P": "coronal", "H": "axial", "F": "axial"}


def draw_planes(
    gray: Callable[[int, int], NDArray[np.uint8]],
    *,
    predicted: Mapping[str, NDArray[np.bool_]],
    reference: Mapping[str, NDArray[np.bool_]],
    shape: tuple[int, int, int],
    spacing_mm: Sequence[float] | None,
    directions: Sequence[str] | None,
    max_side: int = 300,
) -> tuple[Picture, ...]:
    """One picture for each axis, of the slice on which the masks have their largest cross-section.

    Parameters
    ----------
    gray : callable (axis, index) -> (A, B) uint8 array
        A slice as displayed; its axes are the two others, in their order.
    predicted, reference : mapping of str to (I, J, K) bool array
        As for `draw_picture`.
    shape : (int, int, int)
    spacing_mm : (float, float, float) or None
    directions : (str, str, str) or None
        Patient direction in which each axis grows, such as ("L", "P", "H").
    max_side : int
        Longer side of a picture, pixels.
    """
    found = any(mask.any() for mask in predicted.values())
    masks = predicted if found else reference
    planes = []
    for axis in (2, 1, 0):
        index = largest_section(masks, axis, shape[axis])
        rest = [a for a in range(3) if a != axis]
        planes.append(
            draw_picture(
                gray(axis, index),
                predicted={name: _section(mask, axis, index) for name, mask in predicted.items()},
                reference={name: _section(mask, axis, index) for name, mask in reference.items()},
                spacing_mm=None if spacing_mm is None else [spacing_mm[a] for a in rest],
                orientation=None if directions is None else [directions[a] for a in rest],
                max_side=max_side,
                magnify=_MAGNIFY,
                title=_title(axis, index, shape[axis], directions),
            )
        )
    return tuple(planes)


def largest_section(masks: Mapping[str, NDArray[np.bool_]], axis: int, size: int) -> int:
    """Slice along an axis with the largest area of all masks together; the middle one where they are empty."""
    rest = tuple(a for a in range(3) if a != axis)
    areas = sum((mask.sum(axis=rest) for mask in masks.values()), np.zeros(size, dtype=np.int64))
    return int(areas.argmax()) if areas.any() else size // 2


def _section(mask: NDArray[np.bool_], axis: int, index: int) -> NDArray[np.bool_]:
    return np.asarray(np.moveaxis(mask, axis, 0)[index])


def _title(axis: int, index: int, size: int, directions: Sequence[str] | None) -> str:
    name = "" if directions is None else _NAMES.get(directions[axis][:1], "")
    return f"{name or f'axis {axis}'}, slice {index + 1} of {size}"
