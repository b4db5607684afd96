"""Recognised instances against those of a reference: overlaps in voxels, and the best assignment.

Voxels of which the reference does not tell whether they belong to the structure count for nothing, and neither do
those of its components below the least size: they are taken out of the union, and an instance that found no partner
and lies mostly in them is set aside, as COCO does with objects outside an area range.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from medseg.evaluation.detection_records import Candidate, Overlap, StructureDetection, Target
from medseg.evaluation.instance_map import (
    InstanceMap,
    Structures,
    instance_map,
    joined,
)
from medseg.evaluation.instance_options import DetectionOptions, RecogniseOptions
from medseg.evaluation.overlap import membership
from medseg.labels import LabelTable

# An instance that lies in open voxels by more than this share, and found no partner, is set aside.
_MOSTLY = 0.5
_TIE = 1e-7


@dataclass(frozen=True, slots=True, kw_only=True)
class Overlaps:
    """How the instances of one structure lie to each other.

    Parameters
    ----------
    predicted, reference : (N,) int64 array
        Voxels of instance 1 to N.
    open_share : (N,) float64 array
        Share of each predicted instance in voxels that the reference leaves open, or has in a component that is
        too small to be an instance.
    pairs : tuple of Overlap
    """

    predicted: NDArray[np.int64]
    reference: NDArray[np.int64]
    open_share: NDArray[np.float64]
    pairs: tuple[Overlap, ...]


def find_overlaps(
    predicted: Structures,
    reference: Structures,
    name: str,
    *,
    table: LabelTable,
    members: Sequence[int],
    options: RecogniseOptions,
    axis: int,
    voxel_size: tuple[float, str] | None,
    centres: bool = False,
) -> Overlaps:
    """Overlaps of all instances of a structure; both maps are gone through side by side, in slabs.

    Parameters
    ----------
    predicted, reference : Structures
        On one grid.
    name : str
    table : LabelTable
    members : sequence of int
        Class indices of the structure.
    options : RecogniseOptions
        What is an instance, in both.
    axis, voxel_size
        See `instance_map`.
    centres : bool, optional
        Whether centres are looked up, too; takes a second pass.
    """
    boxes = [box for box in (predicted.box(name), reference.box(name)) if box is not None]
    if not boxes:
        return _overlaps(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0), {}, frozenset())
    found = [
        instance_map(s, name, options=options, axis=axis, voxel_size=voxel_size, box=joined(boxes))
        for s in (predicted, reference)
    ]
    one, other = found
    if one is None or other is None:
        raise ValueError(f"{name} has a box but no instances")
    is_open, inside = membership(table.set_matrix, members).unknown, reference.inside[name]
    counts: dict[tuple[int, int], int] = {}
    unknown = np.zeros(one.count + 1, dtype=np.int64)
    sums = np.zeros((3, one.count + 1))
    for (place, mine), (_, theirs) in zip(one.slabs(), other.slabs(), strict=True):
        told = reference.array[place]
        silent = is_open[told] | (inside[told] & (theirs == 0))
        unknown += np.bincount(mine[silent], minlength=one.count + 1)
        for key, count in _joint(mine, theirs):
            counts[key] = counts.get(key, 0) + count
        if centres:
            sums += _index_sums(mine, place, one.count)
    hits = _centre_hits(one, other, sums) if centres else frozenset()
    return _overlaps(one.sizes, other.sizes, unknown[1:], counts, hits)


def _joint(mine: NDArray[np.int32], theirs: NDArray[np.int32]) -> Iterator[tuple[tuple[int, int], int]]:
    """(predicted, reference), voxels that they share."""
    both = (mine > 0) & (theirs > 0)
    step = int(theirs.max(initial=0)) + 1
    keys, counts = np.unique(mine[both].astype(np.int64) * step + theirs[both], return_counts=True)
    for key, count in zip(keys.tolist(), counts.tolist(), strict=True):
        yield divmod(key, step), count


def _index_sums(numbers: NDArray[np.int32], place: tuple[slice, ...], count: int) -> NDArray[np.float64]:
    where = np.nonzero(numbers)
    own = numbers[where]
    return np.stack(
        [
            np.bincount(own, weights=index + part.start, minlength=count + 1)
            for index, part in zip(where, place, strict=True)
        ]
    )


def _centre_hits(
    one: InstanceMap, other: InstanceMap, sums: NDArray[np.float64]
) -> frozenset[tuple[int, int]]:
    """(predicted, reference) where the voxel at the predicted centre is of the reference instance."""
    # Half-way between two voxels the lower index counts.
    centres = np.ceil(sums[:, 1:] / np.maximum(one.sizes, 1) - 0.5).astype(np.int64)
    hits = set()
    for place, numbers in other.slabs():
        for number, centre in enumerate(centres.T, start=1):
            inside = all(p.start <= c < p.stop for p, c in zip(place, centre, strict=True))
            index = tuple(int(c) - p.start for p, c in zip(place, centre, strict=True))
            if inside and numbers[index] > 0:
                hits.add((number, int(numbers[index])))
    return frozenset(hits)


def _overlaps(
    predicted: NDArray[np.int64],
    reference: NDArray[np.int64],
    unknown: NDArray[Any],
    counts: Mapping[tuple[int, int], int],
    hits: frozenset[tuple[int, int]],
) -> Overlaps:
    pairs = []
    for p, r in sorted(set(counts) | hits):
        shared = counts.get((p, r), 0)
        union = int(predicted[p - 1] - unknown[p - 1] + reference[r - 1]) - shared
        pairs.append(
            Overlap(
                predicted=p,
                reference=r,
                iou=shared / union,
                covered=shared / int(reference[r - 1]),
                centre=(p, r) in hits,
            )
        )
    return Overlaps(
        predicted=predicted,
        reference=reference,
        open_share=unknown / np.maximum(predicted, 1),
        pairs=tuple(pairs),
    )


def assign(pairs: Sequence[Overlap], confidences: Sequence[float | None] = ()) -> dict[int, Overlap]:
    """Match instances one to one: as many pairs as can be, of these the largest sum of IoU.

    Parameters
    ----------
    pairs : sequence of Overlap
        Those that may be matched.
    confidences : sequence of float or None, optional
        Of predicted instance 1, 2, ...; between assignments of one sum the more confident instances are
        taken, then those of smaller number.

    Returns
    -------
    dict
        Number of the predicted instance -> its pair.

    References
    ----------
    Kuhn, The Hungarian method for the assignment problem, 1955, doi:10.1002/nav.3800020109.
    """
    if not pairs:
        return {}
    order = sorted({pair.predicted for pair in pairs}, key=lambda p: (-_known(confidences, p), p))
    mine = {number: row for row, number in enumerate(order)}
    theirs = {number: column for column, number in enumerate(sorted({pair.reference for pair in pairs}))}
    # So small that all of them together do not outweigh a pair, nor the ties an overlap.
    small = 1.0 / (min(len(mine), len(theirs)) + 1)
    score = np.zeros((len(mine), len(theirs)))
    by_place = {}
    for pair in pairs:
        place = mine[pair.predicted], theirs[pair.reference]
        late = place[0] / len(mine) + place[1] / (len(mine) * len(theirs) + 1)
        score[place] = 1.0 + small * (pair.iou * (1 - _TIE) + _TIE * small * (1 - late / 2))
        by_place[place] = pair
    rows, columns = linear_sum_assignment(score, maximize=True)
    chosen = [by_place[key] for key in zip(rows.tolist(), columns.tolist(), strict=True) if key in by_place]
    return {pair.predicted: pair for pair in chosen}


def _known(confidences: Sequence[float | None], number: int) -> float:
    value = confidences[number - 1] if number <= len(confidences) else None
    return -1.0 if value is None else value


def match_structure(
    overlaps: Overlaps,
    *,
    structure: str,
    judged: bool,
    options: DetectionOptions,
    confidences: Sequence[float | None] = (),
    predicted_texts: Sequence[str] = (),
    reference_texts: Sequence[str] = (),
) -> StructureDetection:
    """Match the instances of one structure in one case."""
    admitted = [pair for pair in overlaps.pairs if pair.admitted(options)]
    matches = assign(admitted, confidences)
    found_by = {pair.reference: pair for pair in matches.values()}
    best_mine, best_theirs = _best(overlaps.pairs, "predicted"), _best(overlaps.pairs, "reference")
    predicted, reference = [], []
    for index, voxels in enumerate(overlaps.predicted.tolist()):
        pair, share = matches.get(index + 1), float(overlaps.open_share[index])
        predicted.append(
            Candidate(
                number=index + 1,
                voxels=voxels,
                confidence=confidences[index] if index < len(confidences) else None,
                matched=None if pair is None else pair.reference,
                iou=best_mine.get(index + 1, 0.0) if pair is None else pair.iou,
                open_share=share,
                set_aside=pair is None and share > _MOSTLY,
                text=predicted_texts[index] if index < len(predicted_texts) else "",
            )
        )
    for index, voxels in enumerate(overlaps.reference.tolist()):
        pair = found_by.get(index + 1)
        reference.append(
            Target(
                number=index + 1,
                voxels=voxels,
                matched=None if pair is None else pair.predicted,
                iou=best_theirs.get(index + 1, 0.0) if pair is None else pair.iou,
                text=reference_texts[index] if index < len(reference_texts) else "",
            )
        )
    return StructureDetection(
        structure=structure,
        judged=judged,
        predicted=tuple(predicted),
        reference=tuple(reference),
        pairs=overlaps.pairs,
    )


def _best(pairs: Sequence[Overlap], side: str) -> dict[int, float]:
    best: dict[int, float] = {}
    for pair in pairs:
        number = getattr(pair, side)
        best[number] = max(best.get(number, 0.0), pair.iou)
    return best
