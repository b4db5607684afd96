"""Predicted and true size of each structure of a case, for the intervals of sizes. NumPy only."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medseg.calibration.conformal import LEVEL, Conformal, SizeError, fit_interval, size_score
from medseg.evaluation.joint_counts import joint_histogram
from medseg.labels import LabelTable

NO_CASES = "no calibration case shows it whole"


@dataclass(frozen=True, slots=True, kw_only=True)
class SizePair:
    """Voxels of one structure in a prediction and in its reference.

    Parameters
    ----------
    predicted, reference : int
    unknown : int
        Voxels whose reference does not tell whether they belong to it.
    cut_off : bool
        Whether the prediction or the reference reaches the edge of the image.
    """

    predicted: int
    reference: int
    unknown: int
    cut_off: bool

    @property
    def counts(self) -> bool:
        """Whether it says how far the size of a whole structure may be off."""
        return not self.cut_off and self.unknown == 0 and (self.predicted > 0 or self.reference > 0)


def size_pairs(prediction: NDArray[Any], reference: NDArray[Any], table: LabelTable) -> dict[str, SizePair]:
    """Sizes of every label and region.

    Parameters
    ----------
    prediction : (*source) integer array
        Class indices.
    reference : (*source) integer array
        Set indices (`LabelTable.encode`).
    table : LabelTable
    """
    matrix = table.set_matrix
    counts = joint_histogram(reference, prediction, set_count=len(matrix), class_count=table.class_count)
    edges = [_edge_counts(reference, len(matrix)), _edge_counts(prediction, table.class_count)]
    found = {}
    for name, members in table.region_classes().items():
        inside, outside = told(matrix, members)
        predicted = counts[:, list(members)]
        found[name] = SizePair(
            predicted=int(predicted.sum()),
            reference=int(counts[inside].sum()),
            unknown=int(counts[~inside & ~outside].sum()),
            cut_off=bool(edges[0][inside].any() or edges[1][list(members)].any()),
        )
    return found


def fit_sizes(
    cases: Iterable[tuple[str, Mapping[str, SizePair]]], structures: Sequence[str], *, level: float = LEVEL
) -> dict[str, Conformal]:
    """The interval of each structure.

    Parameters
    ----------
    cases : iterable of (patient_id, pairs by structure)
    structures : sequence of str
    level : float, optional
    """
    errors: dict[str, list[SizeError]] = {name: [] for name in structures}
    for patient_id, pairs in cases:
        for name in structures:
            pair = pairs.get(name)
            if pair is not None and pair.counts:
                score = size_score(pair.predicted, pair.reference)
                errors[name].append(SizeError(patient_id=patient_id, score=score))
    return {
        name: fit_interval(found, level=level)
        if found
        else Conformal(level=level, quantile=None, cases=0, patients=0, reason=NO_CASES)
        for name, found in errors.items()
    }


def told(matrix: NDArray[np.bool_], members: Sequence[int]) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """(S,) whether all classes of a set belong to a structure, and whether none does.

    Parameters
    ----------
    matrix : (S, L) bool array
        `LabelTable.set_matrix`.
    members : sequence of int
        Classes of the structure.
    """
    chosen = np.zeros(matrix.shape[1], dtype=np.bool_)
    chosen[list(members)] = True
    others, own = (np.asarray((matrix & part).any(axis=1), dtype=np.bool_) for part in (~chosen, chosen))
    return ~others, ~own


def _edge_counts(values: NDArray[Any], count: int) -> NDArray[np.int64]:
    """How often each value occurs on the faces of an image; voxels of an edge count twice."""
    total = np.zeros(count, dtype=np.int64)
    for axis in range(values.ndim):
        for end in (0, -1):
            face = np.take(values, end, axis=axis).ravel()
            total += np.bincount(face.astype(np.int64), minlength=count)
    return total
