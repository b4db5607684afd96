"""Cleaning up a label map: components, small objects, holes.

Voxels of one structure are connected across faces, edges and corners (8 neighbours in 2-D, 26 in
3-D), so background, whose holes are filled, is connected across faces only (4 and 6): a thin
diagonal wall closes a hole, and nothing is both one object and open.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from medseg.errors import ConfigError, GeometryError
from medseg.inference.options import DropSmall, FillHoles, KeepLargest, PostprocessStep
from medseg.labels import LabelTable

MM3_PER_ML = 1000.0
Box = tuple[slice, ...]


def postprocess(
    label_map: NDArray[Any],
    steps: Sequence[PostprocessStep],
    *,
    table: LabelTable,
    spacing_mm: tuple[float, ...] | None,
) -> NDArray[Any]:
    """Apply the steps one after the other.

    Parameters
    ----------
    label_map : (*sp) integer array
        Class indices; left as it is.
    steps : sequence of PostprocessStep
        `keep_largest` and `drop_small` turn what they remove into background; `fill_holes` turns
        enclosed background into the label and never touches another label.
    table : LabelTable
        Names of labels and regions.
    spacing_mm : tuple of float or None
        Distance between voxel centres; None where it is unknown.

    Returns
    -------
    (*sp) array of the type of `label_map`

    Raises
    ------
    ConfigError
        A name that the table does not know, `fill_holes` of a region, or a unit that does not go
        with the number of axes.
    GeometryError
        A limit in mm2 or ml on an image of unknown spacing.
    """
    result = label_map.copy()
    for step in steps:
        limit = _limit_in_voxels(step, label_map.ndim, spacing_mm)
        for classes in _targets(step, table):
            box = bounding_box(result, classes)
            if box is None:
                continue
            if isinstance(step, KeepLargest):
                _keep_largest(result[box], classes, count=step.count)
            elif isinstance(step, DropSmall):
                _drop_small(result[box], classes, least=limit)
            else:
                _fill_holes(result[box], classes[0], most=limit)
    return result


def bounding_box(label_map: NDArray[Any], classes: Sequence[int]) -> Box | None:
    """Smallest box that holds all voxels of the classes, or None where there is none."""
    mask = np.isin(label_map, classes) if len(classes) > 1 else label_map == classes[0]
    box = []
    for axis in range(mask.ndim):
        line = np.flatnonzero(mask.any(axis=tuple(a for a in range(mask.ndim) if a != axis)))
        if line.size == 0:
            return None
        box.append(slice(int(line[0]), int(line[-1]) + 1))
    return tuple(box)


def _targets(step: PostprocessStep, table: LabelTable) -> list[tuple[int, ...]]:
    if step.labels == "all":
        return [(index,) for index in range(1, table.class_count)]
    known = table.region_classes()
    unknown = [name for name in step.labels if name not in known]
    if unknown:
        raise ConfigError(f"postprocess.{step.use}.labels names {unknown}; known: {', '.join(known)}")
    targets = [known[name] for name in step.labels]
    regions = [name for name in step.labels if len(known[name]) > 1]
    if isinstance(step, FillHoles) and regions:
        raise ConfigError(
            f"postprocess.fill_holes needs labels, found the region {regions[0]}; name its members"
        )
    return targets


def _limit_in_voxels(step: PostprocessStep, dims: int, spacing_mm: tuple[float, ...] | None) -> float:
    if isinstance(step, KeepLargest):
        return 0.0
    prefix = "min" if isinstance(step, DropSmall) else "max"
    mm2, ml, pixels = (getattr(step, f"{prefix}_{unit}") for unit in ("mm2", "ml", "pixels"))
    if mm2 is None and ml is None:
        return float(np.inf) if pixels is None else float(pixels)
    name = f"postprocess.{step.use}.{prefix}_{'ml' if mm2 is None else 'mm2'}"
    if dims != (3 if mm2 is None else 2):
        other = "mm2" if mm2 is None else "ml"
        raise ConfigError(
            f"{name} does not go with an image of {dims} axes; use {prefix}_{other} or {prefix}_pixels"
        )
    if spacing_mm is None:
        raise GeometryError(
            f"{name} needs the voxel spacing, which this image does not tell; use {prefix}_pixels"
        )
    voxel = float(np.prod(spacing_mm))
    return float(mm2) / voxel if mm2 is not None else float(ml) * MM3_PER_ML / voxel


def _components(mask: NDArray[np.bool_]) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Component number by voxel (0: none), and voxels by component number."""
    numbers, count = ndimage.label(mask, structure=np.ones((3,) * mask.ndim))
    sizes = np.bincount(numbers.ravel(), minlength=count + 1)
    sizes[0] = 0
    return numbers, sizes


def keep_largest_component(mask: NDArray[np.bool_], *, count: int = 1) -> NDArray[np.bool_]:
    """The `count` largest components of a mask; of two of one size the one met first."""
    numbers, sizes = _components(mask)
    if len(sizes) - 1 <= count:
        return mask
    keep = np.zeros(len(sizes), dtype=np.bool_)
    keep[np.argsort(-sizes, kind="stable")[:count]] = True
    keep[0] = False
    return keep[numbers]


def _keep_largest(part: NDArray[Any], classes: Sequence[int], *, count: int) -> None:
    mask = np.isin(part, classes)
    part[mask & ~keep_largest_component(mask, count=count)] = 0


def _drop_small(part: NDArray[Any], classes: Sequence[int], *, least: float) -> None:
    numbers, sizes = _components(np.isin(part, classes))
    small = sizes < least
    small[0] = False
    if small.any():
        part[small[numbers]] = 0


def _fill_holes(part: NDArray[Any], label: int, *, most: float) -> None:
    outside = part != label
    numbers, count = ndimage.label(outside)
    # The box fits the label, so a component at its rim is open: beyond it there is no label.
    opened = {
        int(n) for axis in range(part.ndim) for end in (0, -1) for n in np.unique(numbers.take(end, axis))
    }
    background = part == 0
    sizes = np.bincount(numbers[background], minlength=count + 1)
    fill = sizes <= most
    fill[[0, *opened]] = False
    if fill.any():
        part[fill[numbers] & background] = label
