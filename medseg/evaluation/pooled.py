"""Intersection over union of classes counted over all cases together, and its mean (mIoU)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medseg.evaluation.bootstrap import PatientBootstrap
from medseg.evaluation.cases import CaseEvaluation


@dataclass(frozen=True, slots=True, kw_only=True)
class PooledIou:
    """IoU of each structure over all voxels of all cases, and the mean over structures.

    Parameters
    ----------
    mean : float or None
        Over the structures that occur; None where none does. 1 is best.
    mean_interval : (float, float) or None
        Bootstrap over patients at `level`; None with fewer than two patients.
    structures : mapping of str to float or None
        None for a structure that occurs nowhere.
    absent : tuple of str
        Structures that no case has in reference or prediction; they are left out of the mean.
    cases, patients : int
    """

    mean: float | None
    mean_interval: tuple[float, float] | None
    level: float
    structures: Mapping[str, float | None]
    absent: tuple[str, ...]
    cases: int
    patients: int

    @property
    def text(self) -> str:
        """The mean in a few words."""
        if self.mean is None:
            return "mean IoU not defined: no structure occurs"
        low_high = self.mean_interval
        spread = "" if low_high is None else f" ({low_high[0]:.3f}-{low_high[1]:.3f})"
        left_out = f", {len(self.absent)} absent" if self.absent else ""
        count = len(self.structures) - len(self.absent)
        return f"mean IoU {self.mean:.3f}{spread} of {count} structures{left_out}"


def pooled_iou(
    cases: Sequence[CaseEvaluation], names: Sequence[str], bootstrap: PatientBootstrap
) -> PooledIou:
    """IoU = TP / (TP + FP + FN) with the counts of all cases added up, and its mean over structures.

    The usual score of scene segmentation: large and small images weigh by their voxels, and a class
    weighs the same however rare it is. A class that occurs and is never found counts 0, and so does
    one that is predicted and occurs nowhere. Voxels that the reference leaves open do not count.

    Parameters
    ----------
    cases : sequence of CaseEvaluation
    names : sequence of str
        Structures of the mean. They should not overlap; with a region beside its labels voxels
        count twice.
    bootstrap : PatientBootstrap
        Drawn from the patients of these cases. A resample averages the structures that occur in it.

    References
    ----------
    Everingham et al., The PASCAL Visual Object Classes Challenge, IJCV 2010,
    doi:10.1007/s11263-009-0275-4.
    """
    column = bootstrap.columns([case.patient_id for case in cases])
    hits = np.zeros((len(bootstrap.patients), len(names)))
    union = np.zeros_like(hits)
    for patient, case in zip(column, cases, strict=True):
        for place, name in enumerate(names):
            found = case.structure(name)
            if found is not None and found.state != "not_judged":
                counts = found.counts
                hits[patient, place] += counts.tp
                union[patient, place] += counts.tp + counts.fp + counts.fn
    each = _quotients(hits.sum(axis=0)[None], union.sum(axis=0)[None])[0]
    samples = _means(_quotients(bootstrap.weights @ hits, bootstrap.weights @ union))
    mean = _means(each[None])
    return PooledIou(
        mean=float(mean[0]) if mean.size else None,
        mean_interval=bootstrap.interval(samples, patients=len(bootstrap.patients)),
        level=bootstrap.level,
        structures={name: None if np.isnan(v) else float(v) for name, v in zip(names, each, strict=True)},
        absent=tuple(name for name, v in zip(names, each, strict=True) if np.isnan(v)),
        cases=len(cases),
        patients=len(bootstrap.patients),
    )


def _quotients(hits: NDArray[np.float64], union: NDArray[np.float64]) -> NDArray[np.float64]:
    """IoU, NaN where a structure does not occur."""
    quotients = np.full(hits.shape, np.nan)
    np.divide(hits, union, out=quotients, where=union > 0)
    return quotients


def _means(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean of each row over its numbers; rows without any are left out."""
    known = ~np.isnan(values)
    counts = known.sum(axis=1)
    sums = np.where(known, values, 0.0).sum(axis=1)
    return np.asarray(sums[counts > 0] / counts[counts > 0], dtype=np.float64)
