"""Agreement of masks counted in voxels: Dice, IoU, precision, recall, specificity, accuracy, F1.

The reference holds SET indices (`medseg.labels`): a voxel may say "left or right lung". For one
structure it then counts as in (every class it may have belongs to the structure), out (none does)
or unknown (some do), and unknown voxels are left out of the counts of that structure only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

State = Literal["judged", "missed", "false_positive", "both_empty", "not_judged"]
OVERLAP_METRICS = ("dice", "iou", "precision", "recall", "specificity", "accuracy", "f1")


@dataclass(frozen=True, slots=True, kw_only=True)
class Membership:
    """Which set indices lie in a structure, and of which it is not known; both (S,) bool arrays.

    `partial` marks the unknown sets that name some of the classes (a mask that does not tell);
    the other unknown set admits every class (an ignored voxel).
    """

    inside: NDArray[np.bool_]
    unknown: NDArray[np.bool_]
    partial: NDArray[np.bool_]


def membership(set_matrix: NDArray[np.bool_], members: Sequence[int]) -> Membership:
    """How each set of classes relates to the union of `members`.

    Parameters
    ----------
    set_matrix : (S, L) bool array
        Whether set s admits class c (`LabelTable.set_matrix`).
    members : sequence of int
        Class indices that make up the structure.
    """
    own = np.zeros(set_matrix.shape[1], dtype=np.bool_)
    own[list(members)] = True
    some = np.asarray(set_matrix[:, own].any(axis=1), dtype=np.bool_)
    other = np.asarray(set_matrix[:, ~own].any(axis=1), dtype=np.bool_)
    everything = np.asarray(set_matrix.all(axis=1), dtype=np.bool_)
    unknown = some & other
    return Membership(inside=some & ~other, unknown=unknown, partial=unknown & ~everything)


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """Voxels of one structure: right and wrong ones, and those that the reference leaves open.

    `partial` is the part of `unknown` whose reference names some classes but not one.
    """

    tp: int
    fp: int
    fn: int
    tn: int
    unknown: int = 0
    partial: int = 0

    @property
    def judged(self) -> int:
        """Voxels that count."""
        return self.tp + self.fp + self.fn + self.tn

    @property
    def state(self) -> State:
        """How the structure stands in this case.

        "not_judged": no voxel is certain to be in, and some partly labelled voxels may be, so the
        mask never tells where the structure is; or nothing at all is judged.
        """
        in_reference, in_prediction = self.tp + self.fn > 0, self.tp + self.fp > 0
        if self.judged == 0 or (not in_reference and self.partial > 0):
            return "not_judged"
        if in_reference:
            return "judged" if in_prediction else "missed"
        return "false_positive" if in_prediction else "both_empty"


def structure_counts(
    histogram: NDArray[np.int64], set_matrix: NDArray[np.bool_], members: Sequence[int]
) -> Counts:
    """Counts of one structure from the joint histogram of the whole image."""
    which = membership(set_matrix, members)
    predicted = np.zeros(set_matrix.shape[1], dtype=np.bool_)
    predicted[list(members)] = True
    outside = ~(which.inside | which.unknown)
    return Counts(
        tp=int(histogram[np.ix_(which.inside, predicted)].sum()),
        fp=int(histogram[np.ix_(outside, predicted)].sum()),
        fn=int(histogram[np.ix_(which.inside, ~predicted)].sum()),
        tn=int(histogram[np.ix_(outside, ~predicted)].sum()),
        unknown=int(histogram[which.unknown].sum()),
        partial=int(histogram[which.partial].sum()),
    )


def overlap_metrics(counts: Counts) -> dict[str, float | None]:
    """Overlap metrics of one structure; None where a metric is not defined.

    A missed structure and a false positive on an empty reference score 0 in Dice, IoU, precision,
    recall and F1, also where the quotient is 0 / 0: the worst case, never left out of a mean.
    Nothing is defined where both masks are empty or the reference does not tell.

    Returns
    -------
    dict
        dice, iou, precision, recall, specificity, accuracy, f1; 0..1, more is better.

    References
    ----------
    Taha and Hanbury, Metrics for evaluating 3D medical image segmentation, BMC Medical Imaging
    2015, doi:10.1186/s12880-015-0068-x.
    """
    if counts.state in ("both_empty", "not_judged"):
        return dict.fromkeys(OVERLAP_METRICS)
    tp, fp, fn, tn = counts.tp, counts.fp, counts.fn, counts.tn
    dice = 2 * tp / (2 * tp + fp + fn)
    return {
        "dice": dice,
        "iou": tp / (tp + fp + fn),
        "precision": tp / (tp + fp) if tp else 0.0,
        "recall": tp / (tp + fn) if tp else 0.0,
        "specificity": tn / (tn + fp) if tn + fp else None,
        "accuracy": (tp + tn) / counts.judged,
        "f1": dice,
    }
