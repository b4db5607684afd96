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

from medseg.components import Components, components_of, components_of_array
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
    clean_up(result, steps, table=table, spacing_mm=spacing_mm)
    return result


def clean_up(
    label_map: NDArray[Any],
    steps: Sequence[PostprocessStep],
    *,
    table: LabelTable,
    spacing_mm: tuple[float, ...] | None,
) -> None:
    """The same in place; beside the label map it takes a few megabytes, whatever its size. See `postprocess`."""
    boxes = class_boxes(label_map, table.class_count)
    for step in steps:
        limit = _limit_in_voxels(step, label_map.ndim, spacing_mm)
        for classes in _targets(step, table):
            box = joined_box(boxes, classes)
            if box is None:
                continue
            if isinstance(step, KeepLargest):
                _keep_largest(label_map[box], classes, count=step.count)
            elif isinstance(step, DropSmall):
                _drop_small(label_map[box], classes, least=limit)
            else:
                _fill_holes(label_map[box], classes[0], most=limit)


def class_boxes(label_map: NDArray[Any], class_count: int) -> list[Box | None]:
    """Smallest box of each class from 1 on; None where there is none of it."""
    return list(ndimage.find_objects(label_map, max_label=max(class_count - 1, 1)))


def joined_box(boxes: Sequence[Box | None], classes: Sequence[int]) -> Box | None:
    """Smallest box that holds the boxes of several classes, or None where all are absent."""
    found = [box for box in (boxes[index - 1] for index in classes if index > 0) if box is not None]
    if not found:
        return None
    return tuple(
        slice(min(s.start for s in axis), max(s.stop for s in axis)) for axis in zip(*found, strict=True)
    )


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


def keep_largest_component(mask: NDArray[np.bool_], *, count: int = 1) -> NDArray[np.bool_]:
    """The `count` largest components of a mask; of two of one size the one met first."""
    found = components_of_array(mask)
    if found.count <= count:
        return mask
    keep, kept = found.largest(count), np.zeros(mask.shape, dtype=np.bool_)
    for rows, numbers in found.slabs():
        kept[rows] = keep[numbers]
    return kept


def _components(part: NDArray[Any], classes: Sequence[int]) -> Components:
    """Components of the voxels of several classes."""
    if len(classes) == 1:
        return components_of(lambda rows: np.asarray(part[rows] == classes[0]), part.shape)
    return components_of(lambda rows: np.isin(part[rows], classes), part.shape)


def _keep_largest(part: NDArray[Any], classes: Sequence[int], *, count: int) -> None:
    found = _components(part, classes)
    if found.count > count:
        _remove(part, found, ~found.largest(count))


def _drop_small(part: NDArray[Any], classes: Sequence[int], *, least: float) -> None:
    found = _components(part, classes)
    _remove(part, found, found.sizes < least)


def _remove(part: NDArray[Any], found: Components, which: NDArray[np.bool_]) -> None:
    """Turn components into background. Rows change only after their numbers are known."""
    which = which.copy()
    which[0] = False
    if which.any():
        for rows, numbers in found.slabs():
            part[rows][which[numbers]] = 0


def _fill_holes(part: NDArray[Any], label: int, *, most: float) -> None:
    # The box holds all of the label, so what reaches its rim is open: beyond it there is no label.
    found = components_of(lambda rows: np.asarray(part[rows] != label), part.shape, faces_only=True)
    closed = ~found.at_rim
    closed[0] = False
    if not closed.any():
        return
    background = np.zeros(found.count + 1, dtype=np.int64)
    for rows, numbers in found.slabs():
        background += np.bincount(numbers[part[rows] == 0], minlength=found.count + 1)
    fill = closed & (background <= most)
    for rows, numbers in found.slabs():
        part[rows][fill[numbers] & (part[rows] == 0)] = label
