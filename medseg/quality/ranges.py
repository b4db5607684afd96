"""Is a result plausible: size, place and form of what was found, against the results on training images.

A record is a flat dictionary of numbers that describe one result. `fit_ranges` keeps, for each
number, where most training results lie; `judge_ranges` says which numbers of a new result lie
outside (review) or far outside (implausible).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medseg.evaluation.measure import lateral_pairs
from medseg.evaluation.orientation import LateralAxis, lateral_axis
from medseg.evaluation.shape import ObjectShape, object_shape
from medseg.labels import LabelTable
from medseg.quality.canonical import axis_order, canonical, directions_of
from medseg.quality.finding import Finding

Range = dict[str, float]
_LONGEST = 256
_TAIL = 0.005
FAR = 2.0
"""Implausible: this many times as far from the median as the end of the range."""

PERCENTILES = (0.0, 0.5, 1.0, 5.0, 25.0, 50.0, 75.0, 95.0, 99.0, 99.5, 100.0)
"""Percentiles of a cohort that are kept of the numbers in `COHORT`, as "p0", "p0.5" and so on."""

COHORT = ("volume_ml", "area_cm2", "step", "offset")
"""What `cohort.cohort_record` tells; the flags judge it one by one, the gate does not."""

_UNSURE_ENDS = 2.0

_SIZE_AND_FORM = ("found", "fraction", "largest_share", "compactness", "extent", "aspect_")
_PLACE = ("place_", "ratio", "apart", "order", "level")
_PHRASES = {
    "found": "share of the structures that were found",
    "fraction": "share of the image",
    "largest_share": "share of the largest part",
    "extent": "share of the bounding box",
    "ratio": "log size ratio",
    "apart": "lateral distance",
    "level": "offset across the sides",
    "order": "left-right order",
}


def is_geometry(name: str) -> bool:
    """Whether a number of a record tells where something lies or what form it has, not how sure the network is."""
    return name.startswith((*_SIZE_AND_FORM, *_PLACE))


def plausibility_record(
    label_map: NDArray[Any],
    *,
    table: LabelTable,
    patient_orientation: tuple[str, str] | None = None,
    affine: NDArray[np.float64] | None = None,
    confidence: Mapping[str, Mapping[str, float]] | None = None,
) -> dict[str, float]:
    """Numbers that describe a result, comparable between images of any size.

    Parameters
    ----------
    label_map : (I, J) or (I, J, K) integer array
        Class indices on the grid of the image; looked at with at most 256 voxels a side.
    table : LabelTable
    patient_orientation, affine
        As in `Volume`, to tell left from right.
    confidence : mapping of label to mapping of str to float, optional
        How sure the network was, such as {"lung_left": {"mean_probability": 0.97}}.

    Returns
    -------
    dict
        Per label that was found: fraction of the image, largest_share, compactness, extent, aspect,
        place along each axis of the image in canonical order (see `canonical`: i towards the right of the patient,
        j to the front, k to the head; of a picture i to the left and j to the foot); per pair: log size ratio,
        distance of the centroids along and across
        the left-right axis (in units of the image), and their order (1: left lies on the left);
        `found` is the share of the labels that were found. Names are "<what> <label>".
    """
    step = max(1, -(-max(label_map.shape) // _LONGEST))
    small = label_map[tuple(slice(step // 2 if n > step else 0, None, step) for n in label_map.shape)]
    dims = label_map.ndim
    directions = directions_of(spatial_dims=dims, patient_orientation=patient_orientation, affine=affine)
    order = axis_order(directions, dims)
    small = canonical(small, order)
    shapes = {name: object_shape(small == table.class_index(name)) for name in table.names[1:]}
    found = {name: shape for name, shape in shapes.items() if shape is not None}
    record = {"found": len(found) / max(1, len(shapes))}
    for name, shape in found.items():
        record |= _of_one(name, shape, small.shape)
        record |= {f"{what} {name}": float(v) for what, v in (confidence or {}).get(name, {}).items()}
    lateral = _lateral(dims, patient_orientation, affine, turned=order is not None and directions is not None)
    for left, right in lateral_pairs(table):
        if left in found and right in found:
            record |= _of_pair(f"{left}/{right}", found[left], found[right], small.shape, lateral)
    return record


def _lateral(
    dims: int,
    patient_orientation: tuple[str, str] | None,
    affine: NDArray[np.float64] | None,
    *,
    turned: bool,
) -> LateralAxis | None:
    """The left-right axis of the array as it is looked at: of canonical order, or as it was stored."""
    if turned:
        return LateralAxis(axis=0, towards_left=dims == 2)
    return lateral_axis(spatial_dims=dims, patient_orientation=patient_orientation, affine=affine)


def _of_one(name: str, shape: ObjectShape, image: tuple[int, ...]) -> dict[str, float]:
    lengths = [last - first + 1 for first, last in shape.box]
    record = {
        f"fraction {name}": shape.voxels / float(np.prod(image)),
        f"largest_share {name}": shape.largest_share,
        f"compactness {name}": shape.compactness,
        f"extent {name}": shape.extent,
    }
    for one, two in combinations(range(len(lengths)), 2):
        record[f"aspect_{'ijk'[one]}{'ijk'[two]} {name}"] = float(np.log(lengths[one] / lengths[two]))
    for axis, (centre, size) in enumerate(zip(shape.centroid, image, strict=True)):
        record[f"place_{'ijk'[axis]} {name}"] = (centre + 0.5) / size
    return record


def _of_pair(
    name: str, left: ObjectShape, right: ObjectShape, image: tuple[int, ...], lateral: LateralAxis | None
) -> dict[str, float]:
    record = {f"ratio {name}": float(np.log(left.voxels / right.voxels))}
    offset = [(a - b) / size for a, b, size in zip(left.centroid, right.centroid, image, strict=True)]
    if lateral is not None:
        along = offset.pop(lateral.axis) * (1 if lateral.towards_left else -1)
        record |= {f"apart {name}": abs(along), f"order {name}": 1.0 if along > 0 else 0.0}
        record[f"level {name}"] = float(np.linalg.norm(offset))
    return record


def fit_ranges(records: Sequence[Mapping[str, float]]) -> dict[str, Range]:
    """Where the numbers of training results lie.

    Parameters
    ----------
    records : sequence of mapping
        From `plausibility_record` of predictions on images of the training's kind, best those of
        the validation split too; at least 20.

    Returns
    -------
    dict
        Name -> {"low", "median", "high", "count"}: the 0.5th and 99.5th percentile and the median.
        Plain JSON values. Names that fewer than 20 records have are left out. Numbers of `COHORT` have `PERCENTILES`,
        too.
    """
    names = sorted({name for record in records for name in record})
    ranges = {}
    for name in names:
        values = np.array([record[name] for record in records if name in record], dtype=np.float64)
        values = values[np.isfinite(values)]
        if len(values) >= 20:
            low, median, high = np.quantile(values, [_TAIL, 0.5, 1 - _TAIL])
            ranges[name] = {
                "low": float(low),
                "median": float(median),
                "high": float(high),
                "count": float(len(values)),
            }
            if name.startswith(COHORT):
                kept = np.percentile(values, PERCENTILES).tolist()
                ranges[name] |= {f"p{p:g}": value for p, value in zip(PERCENTILES, kept, strict=True)}
    return ranges


def excess(value: float, limits: Range) -> float:
    """Distance from the median in units of the end of the range on that side: above 1 lies outside."""
    low, median, high = limits["low"], limits["median"], limits["high"]
    width = high - median if value >= median else median - low
    # A number that hardly varies in training still gets a little room on either side.
    room = max(width, 0.02 * abs(median), 0.05 * (high - low), 1e-3)
    return abs(value - median) / room


def judge_ranges(
    record: Mapping[str, float], ranges: Mapping[str, Range], *, room: float = 1.0
) -> tuple[Finding, ...]:
    """Compare a result with the ranges of training results.

    Parameters
    ----------
    record, ranges : mapping
    room : float, optional
        Factor by which all ranges are wider, see `family.result_room`.

    Returns
    -------
    tuple of Finding
        Farthest outside first; "review" outside the range, "refuse" more than twice as far from
        the median as its end, or where nothing was found although training results always hold
        something.
    """
    if record.get("found") == 0 and "found" in ranges and ranges["found"]["low"] > 0:
        text = "none of the structures was found in the image"
        return (Finding(check="found", level="refuse", text=text, measured=0.0),)
    outside = []
    for name, limits in ranges.items():
        if name in record and not name.startswith(COHORT):
            far = excess(record[name], limits) / room
            # The ends of a range are known the less, the fewer results made it.
            if far > 1 + _UNSURE_ENDS / np.sqrt(limits["count"]):
                outside.append((far, name))
    return tuple(
        _finding(name, far, record[name], ranges[name]) for far, name in sorted(outside, reverse=True)
    )


def _finding(name: str, far: float, value: float, limits: Range) -> Finding:
    end = limits["high"] if value > limits["median"] else limits["low"]
    side = "above" if value > limits["median"] else "below"
    what, _, structure = name.partition(" ")
    subject = _PHRASES.get(what, what.replace("_", " ")) + (f" of {structure}" if structure else "")
    text = f"{subject} is {value:.3g}, {side} the {end:.3g} that bounds training results"
    return Finding(
        check=name, level="refuse" if far > FAR else "review", text=text, measured=value, limit=end
    )
