"""Curves over confidence: average precision and FROC, with bootstrap resamples of the patients at once.

Instances enter from the most to the least confident; those of one confidence enter together, so that their order
makes no difference. Each takes the free reference instance that it overlaps most, if any is good enough; one
that finds only taken ones is invented.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medseg.evaluation.detection_records import Overlap, StructureDetection

_RECALLS = 101
# Quotients that should be equal differ by rounding.
_ROUNDING = 1e-9


@dataclass(frozen=True, slots=True, kw_only=True)
class RankedCase:
    """Confidences of a case from the highest down, and whether each instance finds one of the reference."""

    patient_id: str
    confidences: tuple[float, ...]
    found: tuple[bool, ...]
    references: int


def rank_case(found: StructureDetection, patient_id: str, *, admitted: Sequence[Overlap]) -> RankedCase:
    """Greedy matching by confidence.

    Parameters
    ----------
    found : StructureDetection
        Every predicted instance that was not set aside has a confidence.
    patient_id : str
    admitted : sequence of Overlap
        Pairs that may be matched.

    References
    ----------
    Lin et al., Microsoft COCO, ECCV 2014, doi:10.1007/978-3-319-10602-1_48, and its evaluation code.
    """
    by_predicted: dict[int, list[Overlap]] = {}
    for pair in admitted:
        by_predicted.setdefault(pair.predicted, []).append(pair)
    best = {number: max(pair.iou for pair in pairs) for number, pairs in by_predicted.items()}
    order = sorted(
        (c for c in found.predicted if c.confidence is not None),
        key=lambda c: (-(c.confidence or 0.0), -best.get(c.number, 0.0), c.number),
    )
    taken: set[int] = set()
    confidences, hits = [], []
    for candidate in order:
        free = [p for p in by_predicted.get(candidate.number, ()) if p.reference not in taken]
        if free:
            taken.add(max(free, key=lambda pair: (pair.iou, -pair.reference)).reference)
        elif candidate.set_aside or candidate.open_share > 0.5:
            continue
        confidences.append(float(candidate.confidence or 0.0))
        hits.append(bool(free))
    return RankedCase(
        patient_id=patient_id,
        confidences=tuple(confidences),
        found=tuple(hits),
        references=len(found.reference),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranking:
    """Instances of all cases by falling confidence.

    Parameters
    ----------
    confidences : (N,) float array
    found : (N,) bool array
    columns : (N,) int array
        Patient of each, as a column of the bootstrap's weights.
    ends : (T,) int array
        Last instance of each distinct confidence.
    references, cases : (P,) float array
        By patient.
    """

    confidences: NDArray[np.float64]
    found: NDArray[np.bool_]
    columns: NDArray[np.intp]
    ends: NDArray[np.intp]
    references: NDArray[np.float64]
    cases: NDArray[np.float64]

    @classmethod
    def of(cls, cases: Sequence[RankedCase], columns: NDArray[np.intp], patients: int) -> Ranking:
        """Join cases; `columns` holds the patient of each."""
        confidences = np.array([c for case in cases for c in case.confidences], dtype=np.float64)
        found = np.array([f for case in cases for f in case.found], dtype=np.bool_)
        owner = np.repeat(columns, [len(case.found) for case in cases]).astype(np.intp)
        order = np.argsort(-confidences, kind="stable")
        confidences = confidences[order]
        ends = np.flatnonzero(np.append(confidences[1:] != confidences[:-1], True)[: len(confidences)])
        counts = np.array([case.references for case in cases], dtype=np.float64)
        return cls(
            confidences=confidences,
            found=found[order],
            columns=owner[order],
            ends=ends,
            references=np.bincount(columns, weights=counts, minlength=patients).astype(np.float64),
            cases=np.bincount(columns, minlength=patients).astype(np.float64),
        )

    def running(self, weights: NDArray[np.int32]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """(B, T) found and invented instances down to each confidence, for weights (B, P) of the patients."""
        each = weights[:, self.columns].astype(np.float64)
        found = np.cumsum(each * self.found, axis=1)[:, self.ends]
        return found, np.cumsum(each * ~self.found, axis=1)[:, self.ends]


def average_precision(ranking: Ranking, weights: NDArray[np.int32]) -> NDArray[np.float64]:
    """Mean over the recalls 0, 0.01, ..., 1 of the best precision at that recall or a larger one; 1 is best.

    Parameters
    ----------
    ranking : Ranking
    weights : (B, P) int array
        How often each patient counts; all ones for the data themselves.

    Returns
    -------
    (B,) float array
        NaN where no reference instance was drawn.

    References
    ----------
    Lin et al., Microsoft COCO, ECCV 2014: 101 recalls. Everingham et al., PASCAL VOC, IJCV 2010,
    doi:10.1007/s11263-009-0275-4: the envelope.
    """
    total = weights @ ranking.references
    result = np.where(total > 0, 0.0, np.nan)
    if not len(ranking.ends):
        return result
    found, invented = ranking.running(weights)
    with np.errstate(invalid="ignore", divide="ignore"):
        recall = found / total[:, None]
        precision = np.where(found + invented > 0, found / (found + invented), 0.0)
    envelope = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    # How many of the 101 recalls are reached with each confidence for the first time.
    reached = np.where(recall > 0, np.floor(np.nan_to_num(recall) * (_RECALLS - 1) + _ROUNDING) + 1, 0.0)
    # Recall 0 is reached at once, by the first instance.
    reached = np.maximum(reached, 1.0)
    new = np.diff(reached, axis=1, prepend=0.0)
    return np.asarray(np.where(total > 0, (envelope * new).sum(axis=1) / _RECALLS, np.nan), dtype=np.float64)


def froc_sensitivities(
    ranking: Ranking, weights: NDArray[np.int32], levels: Sequence[float]
) -> NDArray[np.float64]:
    """Share of the reference instances that is found with at most so many invented ones per case.

    Parameters
    ----------
    ranking, weights
        See `average_precision`.
    levels : sequence of float
        Invented instances per case, M of them.

    Returns
    -------
    (B, M) float array
        NaN where no reference instance was drawn.

    References
    ----------
    Bunch et al., A free response approach to the measurement and characterization of radiographic observer
    performance, Proc SPIE 1977, doi:10.1117/12.955926. Setio et al., LUNA16, Med Image Anal 2017,
    doi:10.1016/j.media.2017.06.015: the levels.
    """
    total, cases = weights @ ranking.references, weights @ ranking.cases
    best = np.zeros((len(weights), len(levels)))
    if len(ranking.ends):
        found, invented = ranking.running(weights)
        allowed = cases[:, None] * (1 + _ROUNDING)
        for index, level in enumerate(levels):
            best[:, index] = np.where(invented <= level * allowed, found, 0.0).max(axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(np.where(total[:, None] > 0, best / total[:, None], np.nan), dtype=np.float64)


def froc_points(ranking: Ranking) -> list[tuple[float, float, float]]:
    """(confidence, invented per case, share found) at each distinct confidence, from the highest down."""
    ones = np.ones((1, len(ranking.references)), dtype=np.int32)
    found, invented = ranking.running(ones)
    total, cases = float(ranking.references.sum()), float(ranking.cases.sum())
    if not total or not cases:
        return []
    return [
        (float(ranking.confidences[end]), float(i / cases), float(f / total))
        for end, i, f in zip(ranking.ends, invented[0], found[0], strict=True)
    ]
