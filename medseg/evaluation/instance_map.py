"""Connected instances of a structure, numbered the largest first, on any label map and slab by slab."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from medseg.components import Components, components_of
from medseg.errors import ConfigError, GeometryError
from medseg.evaluation.instance_options import RecogniseOptions
from medseg.evaluation.overlap import membership
from medseg.labels import LabelTable

Box = tuple[slice, ...]
# A spacing that is larger than the others by this factor tells along which axis slices were taken.
_CLEARLY = 1.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Structures:
    """An array of indices and which of them belong to each structure.

    Parameters
    ----------
    array : (I, J, K) integer array
        Class indices of a prediction, or set indices of a reference; a picture has K = 1.
    inside : mapping of str to (V,) bool array
        Structure -> whether an index surely belongs to it.
    boxes : sequence of tuple of slice or None
        Smallest box of each index from 1 on.
    """

    array: NDArray[Any]
    inside: dict[str, NDArray[np.bool_]]
    boxes: Sequence[Box | None]

    def box(self, name: str) -> Box | None:
        """Smallest box that holds a structure; None where it is absent."""
        where = np.flatnonzero(self.inside[name]).tolist()
        found = [box for box in (self.boxes[index - 1] for index in where if index > 0) if box is not None]
        return joined(found) if found else None


def joined(boxes: Sequence[Box]) -> Box:
    """Smallest box that holds several."""
    return tuple(
        slice(min(s.start for s in axis), max(s.stop for s in axis)) for axis in zip(*boxes, strict=True)
    )


def predicted_structures(label_map: NDArray[Any], table: LabelTable, options: RecogniseOptions) -> Structures:
    """Structures of a map of class indices."""
    inside = {}
    for name, members in named_classes(table, options).items():
        inside[name] = np.zeros(table.class_count, dtype=np.bool_)
        inside[name][list(members)] = True
    return _structures(label_map, inside, table.class_count)


def reference_structures(reference: NDArray[Any], table: LabelTable, options: RecogniseOptions) -> Structures:
    """Structures of a map of set indices; a voxel that may be something else is not inside."""
    matrix = table.set_matrix
    inside = {name: membership(matrix, m).inside for name, m in named_classes(table, options).items()}
    return _structures(reference, inside, len(matrix))


def _structures(array: NDArray[Any], inside: dict[str, NDArray[np.bool_]], count: int) -> Structures:
    stack = array if array.ndim == 3 else array[..., None]
    boxes = ndimage.find_objects(stack, max_label=max(count - 1, 1))
    return Structures(array=stack, inside=inside, boxes=boxes)


def named_classes(table: LabelTable, options: RecogniseOptions) -> dict[str, tuple[int, ...]]:
    """Class indices of the structures whose instances are told.

    Raises
    ------
    ConfigError
        A name that is neither a label nor a region.
    """
    known = table.region_classes()
    wanted = tuple(label.name for label in table.labels) if options.labels == "all" else options.labels
    unknown = [name for name in wanted if name not in known]
    if unknown:
        raise ConfigError(
            f"recognise.labels names {', '.join(map(repr, unknown))}, which are neither labels nor regions; "
            f"known: {', '.join(known)}"
        )
    return {name: known[name] for name in wanted}


def slice_axis(affine: NDArray[np.float64] | None, spacing_mm: Sequence[float] | None) -> int:
    """Axis along which the slices of a volume follow each other: in-plane diameters are measured across it.

    The axis whose spacing is clearly the largest; else the one nearest to the patient's head-foot axis; else
    the last.
    """
    if spacing_mm is not None and len(spacing_mm) == 3:
        order = np.argsort(spacing_mm)
        if spacing_mm[order[2]] > _CLEARLY * spacing_mm[order[1]]:
            return int(order[2])
    if affine is None:
        return 2
    columns = np.asarray(affine, dtype=np.float64)[:3, :3]
    return int(np.argmax(np.abs(columns[2]) / np.linalg.norm(columns, axis=0)))


@dataclass(frozen=True, slots=True, kw_only=True)
class InstanceMap:
    """Instances of one structure; no array of their numbers is kept, `slabs` makes them again.

    Parameters
    ----------
    box : tuple of slice
        Where all of them lie.
    axis : int
        Slabs are whole slices along it.
    sizes : (N,) int64 array
        Voxels of instance 1 to N, the largest first; of two of one size the one met first.
    dropped : int
        Components below the least size.
    """

    box: Box
    axis: int
    sizes: NDArray[np.int64]
    dropped: int
    _found: Components
    _number: NDArray[np.int32]

    @property
    def count(self) -> int:
        """N."""
        return len(self.sizes)

    def slabs(self) -> Iterator[tuple[Box, NDArray[np.int32]]]:
        """Place in the array, and the number of the instance of each voxel there, 0 for none."""
        begin = self.box[self.axis].start
        for rows, components in self._found.slabs():
            place = list(self.box)
            place[self.axis] = slice(begin + rows.start, begin + rows.stop)
            yield tuple(place), np.moveaxis(self._number[components], 0, self.axis)


def instance_map(
    structures: Structures,
    name: str,
    *,
    options: RecogniseOptions,
    axis: int,
    voxel_size: tuple[float, str] | None,
    box: Box | None = None,
) -> InstanceMap | None:
    """Instances of a structure; None where its box is empty.

    Parameters
    ----------
    structures : Structures
    name : str
    options : RecogniseOptions
        Connectivity and least size.
    axis : int
        See `slice_axis`.
    voxel_size : (float, str) or None
        Area or volume of a voxel in mm2 or ml; None where the spacing is unknown.
    box : tuple of slice, optional
        Instead of the structure's own, to go through two maps side by side.

    Raises
    ------
    GeometryError
        A least size in a unit that the image does not have.
    """
    where = box or structures.box(name)
    if where is None:
        return None
    found = components_of(
        _moved(structures, name, where, axis),
        _moved_shape(where, axis),
        faces_only=options.connectivity == "faces",
    )
    least = least_voxels(options, voxel_size)
    order = 1 + np.argsort(-found.sizes[1:], kind="stable")
    kept = order[found.sizes[order] >= least]
    number = np.zeros(found.count + 1, dtype=np.int32)
    number[kept] = np.arange(1, len(kept) + 1)
    return InstanceMap(
        box=where,
        axis=axis,
        sizes=found.sizes[kept],
        dropped=found.count - len(kept),
        _found=found,
        _number=number,
    )


def _moved(structures: Structures, name: str, box: Box, axis: int) -> Callable[[slice], NDArray[np.bool_]]:
    part, inside = np.moveaxis(structures.array[box], axis, 0), structures.inside[name]
    return lambda rows: np.asarray(inside[part[rows]])


def _moved_shape(box: Box, axis: int) -> tuple[int, ...]:
    sizes = [s.stop - s.start for s in box]
    return (sizes.pop(axis), *sizes)


def least_voxels(options: RecogniseOptions, voxel_size: tuple[float, str] | None) -> float:
    """Least size of an instance in voxels.

    Raises
    ------
    GeometryError
        A limit in mm2 or ml for an image without a spacing, or with another number of axes.
    """
    if options.min_pixels is not None:
        return float(options.min_pixels)
    name, limit = ("min_mm2", options.min_mm2) if options.min_ml is None else ("min_ml", options.min_ml)
    if limit is None:
        return 1.0
    if voxel_size is None:
        raise GeometryError(
            f"recognise.{name} needs the voxel spacing, which this image does not tell; use min_pixels"
        )
    if voxel_size[1] != name.removeprefix("min_"):
        raise GeometryError(
            f"recognise.{name} does not go with this image, whose sizes are in {voxel_size[1]}; "
            f"use min_{voxel_size[1]} or min_pixels"
        )
    # A limit of n voxels means n also where the product is a rounding above it.
    return limit / voxel_size[0] * (1 - 1e-12)
