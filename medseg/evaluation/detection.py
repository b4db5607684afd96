"""Detection of targets over all cases: found, missed and invented instances, with intervals over patients."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medseg.evaluation.bootstrap import PatientBootstrap
from medseg.evaluation.detection_curves import (
    Ranking,
    average_precision,
    froc_points,
    froc_sensitivities,
    rank_case,
)
from medseg.evaluation.detection_records import CaseDetection, Overlap, StructureDetection
from medseg.evaluation.instance_match import assign
from medseg.evaluation.instance_options import DetectionOptions
from medseg.evaluation.rows import Cell

PANOPTIC_IOU = 0.5
DEFINITIONS: dict[str, str] = {
    "precision": "Found over found and invented instances.",
    "recall": "Found over all reference instances (sensitivity).",
    "f1": "2 found / (2 found + invented + missed).",
    "pq": "Panoptic quality: segmentation quality x recognition quality.",
    "sq": "Segmentation quality: mean IoU of the instances matched with IoU above 0.5.",
    "rq": "Recognition quality: F1 of the instances matched with IoU above 0.5.",
    "ap": "Average precision over confidence, 101 recalls (COCO), at an IoU of at least the given one.",
    "mean_ap": "Mean of the average precisions over the IoU thresholds.",
    "froc": "Share of the reference instances found with at most so many invented ones per case.",
    "mean_froc": "Mean of the shares over the numbers of invented instances per case.",
}
NO_REFERENCE = "no case has a reference instance"
NO_PREDICTION = "no instance was predicted"
NO_INSTANCE = "no case has an instance, predicted or in the reference"
NO_CONFIDENCE = "some predicted instances have no confidence"
_UNMATCHED = "no instance is matched with an IoU above 0.5"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rate:
    """A number of all cases together, 0..1, more is better.

    `value` is None where it is not defined, and then `reason` says why. `interval` is that of a bootstrap over
    patients, or exact where that has no spread, see `certain_interval`; None with fewer than two.
    """

    value: float | None
    interval: tuple[float, float] | None = None
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class DetectionStatistic:
    """Detection of one structure over the cases that tell it.

    Parameters
    ----------
    cases, patients : int
        Those whose reference tells the structure.
    references, predicted, found, missed, invented, set_aside : int
        Instances. Predicted ones are found, invented or set aside.
    rates : mapping of str to Rate
        precision, recall, f1, pq, sq, rq, ap_<IoU>, mean_ap, froc_<invented per case>, mean_froc.
    curve : tuple of (float, float, float)
        Confidence, invented per case, share found; empty where there is no FROC.
    """

    cases: int
    patients: int
    references: int
    predicted: int
    found: int
    missed: int
    invented: int
    set_aside: int
    rates: Mapping[str, Rate]
    curve: tuple[tuple[float, float, float], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class DetectionSummary:
    """Detection over all cases, structure by structure; and who was missed or invented where.

    Parameters
    ----------
    cases, patients : int
    level : float
        Of the intervals.
    match : str
        The rule, in words.
    structures : mapping of str to DetectionStatistic
    missed, invented, not_judged : tuple of mapping
        case_id, structure, and for instances number and text.
    """

    cases: int
    patients: int
    level: float
    match: str
    structures: Mapping[str, DetectionStatistic]
    missed: tuple[Mapping[str, Any], ...]
    invented: tuple[Mapping[str, Any], ...]
    not_judged: tuple[Mapping[str, Any], ...]

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values, without NaN, with the definition of every number."""
        return {**asdict(self), "definitions": DEFINITIONS}

    def rows(self) -> list[dict[str, Cell]]:
        """One row for each structure and number."""
        rows: list[dict[str, Cell]] = []
        for name, found in self.structures.items():
            counts: dict[str, Cell] = {
                key: getattr(found, key)
                for key in ("cases", "patients", "references", "predicted", "found", "missed", "invented")
            }
            for measure, rate in found.rates.items():
                low, high = rate.interval or (None, None)
                rows.append(
                    {
                        "structure": name,
                        "measure": measure,
                        "value": rate.value,
                        "low": low,
                        "high": high,
                        "level": self.level,
                        **counts,
                        "reason": rate.reason,
                    }
                )
        return rows


def summarise_detection(
    cases: Sequence[CaseDetection], options: DetectionOptions, *, samples: int, level: float, seed: int
) -> DetectionSummary:
    """Numbers of all cases together for each structure.

    Counts of all cases are added up before a quotient is taken, so that a case with many instances weighs more
    than one with few; the bootstrap draws patients with all their cases.

    Parameters
    ----------
    cases : sequence of CaseDetection
        In any order; the result does not depend on it.
    options : DetectionOptions
    samples, level, seed
        Of the bootstrap.
    """
    cases = sorted(cases, key=lambda case: case.case_id)
    names = dict.fromkeys(s.structure for case in cases for s in case.structures)

    def drawn(patients: Sequence[str]) -> PatientBootstrap:
        return PatientBootstrap.draw(patients, samples=samples, level=level, seed=seed)

    by_name = {
        name: [(case, s) for case in cases for s in case.structures if s.structure == name] for name in names
    }
    return DetectionSummary(
        cases=len(cases),
        patients=len({case.patient_id for case in cases}),
        level=level,
        match=rule_text(options),
        structures={
            name: _statistic(
                [(case.patient_id, s) for case, s in found if s.judged],
                options,
                drawn([case.patient_id for case, s in found if s.judged]),
            )
            for name, found in by_name.items()
        },
        missed=tuple(
            {"case_id": case.case_id, "structure": name, "number": t.number, "text": t.text}
            for name, found in by_name.items()
            for case, s in found
            for t in s.reference
            if s.judged and t.matched is None
        ),
        invented=tuple(
            {"case_id": case.case_id, "structure": name, "number": c.number, "text": c.text}
            for name, found in by_name.items()
            for case, s in found
            for c in s.predicted
            if s.judged and c.invented
        ),
        not_judged=tuple(
            {"case_id": case.case_id, "structure": name}
            for name, found in by_name.items()
            for case, s in found
            if not s.judged
        ),
    )


def rule_text(options: DetectionOptions) -> str:
    """When two instances may be matched, in words."""
    return {
        "iou": f"intersection over union of at least {options.min_iou:g}",
        "overlap": f"at least {options.min_overlap:.0%} of the reference instance covered",
        "centre": "centre of the predicted instance inside the reference instance",
    }[options.match]


@dataclass(frozen=True, slots=True)
class _Sums:
    """Counts by patient, resampled together."""

    bootstrap: PatientBootstrap
    columns: NDArray[np.intp]

    def by_patient(self, values: Sequence[float]) -> NDArray[np.float64]:
        weights = np.asarray(values, dtype=np.float64)
        count = len(self.bootstrap.patients)
        return np.bincount(self.columns, weights=weights, minlength=count).astype(np.float64)

    def quotient(self, above: Sequence[float], below: Sequence[float], reason: str) -> Rate:
        """Sum of one over the sum of the other."""
        top, bottom = self.by_patient(above), self.by_patient(below)
        return self.rate(
            lambda weights: _divide(weights @ top, weights @ bottom), reason, counting=int((bottom > 0).sum())
        )

    def rate(
        self, compute: Callable[[NDArray[np.int32]], NDArray[np.float64]], reason: str, *, counting: int
    ) -> Rate:
        """A number of all cases, and its interval; the reason where it is not defined.

        `counting` is the number of patients that it is made of.
        """
        patients = len(self.bootstrap.patients)
        value = compute(np.ones((1, patients), dtype=np.int32))[0] if patients else np.nan
        if np.isnan(value):
            return Rate(value=None, reason=reason)
        samples = compute(self.bootstrap.weights)
        samples = samples[~np.isnan(samples)]
        if value in (0.0, 1.0) and (samples == value).all():
            return Rate(value=float(value), interval=certain_interval(value, counting, self.bootstrap.level))
        return Rate(value=float(value), interval=self.bootstrap.interval(samples, patients=patients))


def certain_interval(value: float, patients: int, level: float) -> tuple[float, float] | None:
    """Interval of a rate that is 0 or 1 in every patient, of which resamples can tell nothing.

    That of a share of patients, all or none of whom have it. None with fewer than two patients.

    References
    ----------
    Clopper and Pearson, The use of confidence or fiducial limits illustrated in the case of the binomial,
    Biometrika 1934, doi:10.1093/biomet/26.4.404.
    """
    if patients < 2:
        return None
    bound = ((1 - level) / 2) ** (1 / patients)
    return (bound, 1.0) if value else (0.0, 1.0 - bound)


def _divide(above: NDArray[np.float64], below: NDArray[np.float64]) -> NDArray[np.float64]:
    quotient = np.full(above.shape, np.nan)
    np.divide(above, below, out=quotient, where=below > 0)
    return quotient


def _statistic(
    found: Sequence[tuple[str, StructureDetection]], options: DetectionOptions, bootstrap: PatientBootstrap
) -> DetectionStatistic:
    sums = _Sums(bootstrap, bootstrap.columns([patient for patient, _ in found]))
    parts = [s for _, s in found]
    hits = [sum(t.matched is not None for t in s.reference) for s in parts]
    missed = [len(s.reference) - hit for s, hit in zip(parts, hits, strict=True)]
    invented = [sum(c.invented for c in s.predicted) for s in parts]
    predicted = [hit + more for hit, more in zip(hits, invented, strict=True)]
    rates = {
        "precision": sums.quotient(hits, predicted, NO_PREDICTION),
        "recall": sums.quotient(hits, [len(s.reference) for s in parts], NO_REFERENCE),
        "f1": sums.quotient(
            [2 * hit for hit in hits],
            [2 * hit + i + m for hit, i, m in zip(hits, invented, missed, strict=True)],
            NO_INSTANCE,
        ),
        **_panoptic(parts, sums),
    }
    curves, curve = _curves(found, options, sums)
    return DetectionStatistic(
        cases=len(found),
        patients=len(bootstrap.patients),
        references=sum(len(s.reference) for s in parts),
        predicted=sum(len(s.predicted) for s in parts),
        found=sum(hits),
        missed=sum(missed),
        invented=sum(invented),
        set_aside=sum(c.set_aside for s in parts for c in s.predicted),
        rates=rates | curves,
        curve=curve,
    )


def _panoptic(parts: Sequence[StructureDetection], sums: _Sums) -> dict[str, Rate]:
    """Panoptic quality and its two factors.

    References
    ----------
    Kirillov et al., Panoptic segmentation, CVPR 2019, doi:10.1109/CVPR.2019.00963: an IoU above 0.5 makes
    the matching unique; sums over all cases; voxels that the reference leaves open count for nothing.
    """
    counts = [_panoptic_counts(s) for s in parts]
    matched, overlap, halves = (np.array([c[k] for c in counts], dtype=np.float64) for k in range(3))
    return {
        "pq": sums.quotient(overlap.tolist(), (matched + halves).tolist(), NO_INSTANCE),
        "sq": sums.quotient(overlap.tolist(), matched.tolist(), _UNMATCHED),
        "rq": sums.quotient(matched.tolist(), (matched + halves).tolist(), NO_INSTANCE),
    }


def _panoptic_counts(found: StructureDetection) -> tuple[int, float, float]:
    """Matched pairs, the sum of their IoU, and half the number of instances without a match."""
    pairs = assign([pair for pair in found.pairs if pair.iou > PANOPTIC_IOU]).values()
    matched = {pair.predicted for pair in pairs}
    alone = sum(c.number not in matched and c.open_share <= PANOPTIC_IOU for c in found.predicted)
    missed = len(found.reference) - len(pairs)
    return len(pairs), sum(pair.iou for pair in pairs), (alone + missed) / 2


def _curves(
    found: Sequence[tuple[str, StructureDetection]], options: DetectionOptions, sums: _Sums
) -> tuple[dict[str, Rate], tuple[tuple[float, float, float], ...]]:
    """Average precisions and the FROC, where every predicted instance has a confidence."""
    if any(c.confidence is None and not c.set_aside for _, s in found for c in s.predicted):
        keys = [*(f"ap_{t:g}" for t in options.ap_iou), "mean_ap"]
        keys += [*(f"froc_{level:g}" for level in options.froc), "mean_froc"]
        return {key: Rate(value=None, reason=NO_CONFIDENCE) for key in keys}, ()

    def ranked(admitted: Callable[[Overlap], bool]) -> Ranking:
        cases = [rank_case(s, p, admitted=[pair for pair in s.pairs if admitted(pair)]) for p, s in found]
        return Ranking.of(cases, sums.columns, len(sums.bootstrap.patients))

    precise = [ranked(partial(_at_least, t)) for t in options.ap_iou]
    free = ranked(lambda pair: pair.admitted(options))
    told = int((free.references > 0).sum())
    rates = {
        f"ap_{t:g}": sums.rate(partial(average_precision, ranking), NO_REFERENCE, counting=told)
        for t, ranking in zip(options.ap_iou, precise, strict=True)
    }
    rates["mean_ap"] = sums.rate(
        lambda w: np.mean([average_precision(ranking, w) for ranking in precise], axis=0),
        NO_REFERENCE,
        counting=told,
    )
    for level in options.froc:
        rates[f"froc_{level:g}"] = sums.rate(
            partial(_mean_share, free, (level,)), NO_REFERENCE, counting=told
        )
    rates["mean_froc"] = sums.rate(partial(_mean_share, free, options.froc), NO_REFERENCE, counting=told)
    return rates, tuple(froc_points(free))


def _at_least(threshold: float, pair: Overlap) -> bool:
    return pair.iou >= threshold


def _mean_share(ranking: Ranking, levels: Sequence[float], weights: NDArray[np.int32]) -> NDArray[np.float64]:
    return np.asarray(froc_sensitivities(ranking, weights, levels).mean(axis=1), dtype=np.float64)
