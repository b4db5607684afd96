"""Numbers of results that a training cohort bounds: volumes, steps between slices, positions to each other.

`cohort_record` describes one result; `ranges.fit_ranges` keeps where the cohort lies, and the bundle carries it. Sizes
are of whole structures: one that the field of view cuts off has none.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medseg.evaluation.quantities import CaseMeasures, StructureMeasures
from medseg.geometry import voxel_volume_mm3
from medseg.labels import LabelTable
from medseg.quality.canonical import axis_order, directions_of
from medseg.quality.input_facts import AXES
from medseg.quality.place import MaskOf
from medseg.quality.ranges import PERCENTILES, Range
from medseg.quality.slice_steps import largest_step, slice_axis

MOST_LABELS = 12
"""With more labels the positions of all pairs are too many numbers."""


def mask_of(label_map: NDArray[Any], index: int) -> MaskOf:
    """The mask of one class, box by box."""
    return lambda box: np.asarray(label_map[box] == index, dtype=np.bool_)


def cohort_record(
    label_map: NDArray[Any],
    *,
    table: LabelTable,
    measures: CaseMeasures,
    affine: NDArray[np.float64] | None = None,
    patient_orientation: tuple[str, str] | None = None,
) -> dict[str, float]:
    """Numbers of one result: `volume_ml`, `area_cm2`, `step` of labels and regions, `offset` of pairs of labels.

    Parameters
    ----------
    label_map : (*sp) integer array
        Class indices.
    table : LabelTable
    measures : CaseMeasures
        Of the same label map.
    affine, patient_orientation
        As in `Volume`.

    Returns
    -------
    dict
        "<what> <structure>" -> number.
    """
    record: dict[str, float] = {}
    for name in table.names[1:]:
        s = measures.structures[name]
        size = size_of(s, measures, affine)
        if size is not None and not s.cut_off:
            record[f"{'volume_ml' if label_map.ndim == 3 else 'area_cm2'} {name}"] = size
        if s.shape is not None and label_map.ndim == 3:
            axis = slice_axis(measures.spacing_mm, 3)
            step = largest_step(s.shape.box, mask_of(label_map, table.class_index(name)), axis)
            if step is not None:
                record[f"step {name}"] = step.value
    return record | offsets(measures, table, affine=affine, patient_orientation=patient_orientation)


def size_of(s: StructureMeasures, measures: CaseMeasures, affine: NDArray[np.float64] | None) -> float | None:
    """Volume in ml or area in cm2; None where it is absent or the spacing is unknown."""
    cell = cell_mm(measures, affine)
    if s.shape is None or cell is None:
        return None
    return s.shape.voxels * cell / (1000.0 if len(measures.image_shape) == 3 else 100.0)


def cell_mm(measures: CaseMeasures, affine: NDArray[np.float64] | None) -> float | None:
    """Volume (area) of a voxel in mm3 (mm2), also of a sheared grid; None where the spacing is unknown."""
    if measures.spacing_mm is None:
        return None
    if affine is not None and len(measures.image_shape) == 3:
        return voxel_volume_mm3(np.asarray(affine, dtype=np.float64))
    return float(np.prod(measures.spacing_mm))


def offsets(
    measures: CaseMeasures,
    table: LabelTable,
    *,
    affine: NDArray[np.float64] | None = None,
    patient_orientation: tuple[str, str] | None = None,
) -> dict[str, float]:
    """`offset <axis> <a>/<b>`: from the centroid of b to that of a along each axis of the body, over their size.

    The size is the root (cube root) of what both fill, so that a child and an adult have the same numbers. Lengths are
    in mm where the spacing is known and in voxels otherwise.
    """
    dims = len(measures.image_shape)
    order = axis_order(
        directions_of(spatial_dims=dims, patient_orientation=patient_orientation, affine=affine), dims
    )
    names = table.names[1:]
    if order is None or len(names) > MOST_LABELS:
        return {}
    steps = np.array(measures.spacing_mm or (1.0,) * dims)
    shapes = {name: measures.structures[name].shape for name in names}
    found = {}
    for one, two in combinations(names, 2):
        a, b = shapes[one], shapes[two]
        if a is None or b is None or measures.structures[one].cut_off or measures.structures[two].cut_off:
            continue
        size = float((a.voxels + b.voxels) * np.prod(steps)) ** (1.0 / dims)
        apart = (np.array(a.centroid) - np.array(b.centroid)) * steps / size
        for target, (axis, flip) in zip(AXES[dims], order, strict=True):
            found[f"offset {target} {one}/{two}"] = float(-apart[axis] if flip else apart[axis])
    return found


def at_percentile(limits: Range, percentile: float) -> float:
    """Value of a cohort at a percentile, 0..100, interpolated between those that are stored."""
    known = [(p, limits[f"p{p:g}"]) for p in PERCENTILES if f"p{p:g}" in limits]
    if not known:
        known = [(0.5, limits["low"]), (50.0, limits["median"]), (99.5, limits["high"])]
    return float(np.interp(percentile, [p for p, _ in known], [v for _, v in known]))


def percentile_of(value: float, limits: Range) -> float:
    """Share of a cohort below a value, in percent, interpolated between the stored percentiles; 0..100."""
    levels = [p for p in PERCENTILES if f"p{p:g}" in limits] or [0.5, 50.0, 99.5]
    values = [at_percentile(limits, p) for p in levels]
    return float(np.interp(value, values, levels, left=0.0, right=100.0))


def cohort_percentiles(
    record: Mapping[str, float], ranges: Mapping[str, Range]
) -> dict[str, dict[str, float]]:
    """For a page: each size of a result with its percentile in the cohort, and the cohort's median.

    Returns
    -------
    dict
        "volume_ml liver" -> {"value", "percentile", "median", "low", "high", "count"}.
    """
    return {
        name: {
            "value": value,
            "percentile": percentile_of(value, ranges[name]),
            **{key: ranges[name][key] for key in ("low", "median", "high", "count")},
        }
        for name, value in record.items()
        if name in ranges and name.split(" ")[0] in ("volume_ml", "area_cm2")
    }
