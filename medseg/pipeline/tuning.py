"""Which clean-up steps raise Dice, tried on predictions whose reference is known.

A step moves voxels of one structure to or from background. What it does to every structure follows from
the joint histogram of a case and the moved voxels, so one look at each case serves all candidates; the
chosen steps are then applied together, and what does not hold up is dropped.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medseg.evaluation.joint_counts import joint_histogram
from medseg.evaluation.overlap import overlap_metrics, structure_counts
from medseg.inference.options import DropSmall, FillHoles, KeepLargest, PostprocessStep
from medseg.inference.postprocess import bounding_box, postprocess
from medseg.labels import LabelTable

LEAST_GAIN = 1e-4
"""A step that raises the mean Dice of its structure by no more than this is left out."""

SHARES = (0.02, 0.1, 0.3)
"""Limits of `drop_small` that are tried, as parts of the structure's median size in the references."""

_EQUAL = 1e-12


@dataclass(frozen=True, slots=True, kw_only=True)
class Masks:
    """A raw prediction and its reference.

    Parameters
    ----------
    label_map : (*sp) integer array
        Class indices.
    reference : (*sp) integer array
        Set indices of the label table.
    spacing_mm : tuple of float or None
    """

    label_map: NDArray[Any]
    reference: NDArray[Any]
    spacing_mm: tuple[float, ...] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A step of one structure, and the gain in mean Dice of that structure that it brought by itself."""

    structure: str
    step: PostprocessStep
    gain: float = 0.0
    harms: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Tuning:
    """What was chosen, and what it does.

    Parameters
    ----------
    steps : tuple of PostprocessStep
        In the order in which they are applied.
    before, after : mapping of str to float
        Mean Dice of each structure over the cases whose reference tells it. A case where prediction and
        reference are both empty counts as 1, so that the number of cases does not change.
    cases : mapping of str to int
        Cases in each mean.
    tried : tuple of Candidate
    """

    steps: tuple[PostprocessStep, ...] = ()
    before: Mapping[str, float]
    after: Mapping[str, float]
    cases: Mapping[str, int]
    tried: tuple[Candidate, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "steps": [step.model_dump(mode="json") for step in self.steps],
            "structures": {
                name: {"cases": self.cases[name], "before": self.before[name], "after": self.after[name]}
                for name in self.before
            },
            "tried": [
                {
                    "structure": c.structure,
                    "step": c.step.model_dump(mode="json", exclude_none=True),
                    "gain": c.gain,
                    "harms": list(c.harms),
                }
                for c in self.tried
            ],
        }


def candidates(
    table: LabelTable, sizes: Mapping[str, Sequence[float]], *, unit: str | None
) -> tuple[Candidate, ...]:
    """The steps that are tried: for each region, then for each label.

    Parameters
    ----------
    table : LabelTable
    sizes : mapping of str to sequence of float
        Sizes of each label in the references, in the unit.
    unit : str or None
        "ml", "mm2" or "pixels"; None: no step with a limit is tried.
    """
    found = [Candidate(structure=name, step=KeepLargest(labels=(name,))) for name in table.regions]
    for label in table.labels:
        found.append(Candidate(structure=label.name, step=KeepLargest(labels=(label.name,))))
        present = [size for size in sizes.get(label.name, ()) if size > 0]
        for share in SHARES if present and unit is not None else ():
            limit = float(f"{share * float(np.median(present)):.2g}")
            amount = max(round(limit), 1) if unit == "pixels" else limit
            step = DropSmall.model_validate({"labels": (label.name,), f"min_{unit}": amount})
            found.append(Candidate(structure=label.name, step=step))
        found.append(Candidate(structure=label.name, step=FillHoles(labels=(label.name,))))
    return tuple(found)


def tune(
    masks: Sequence[Callable[[], Masks]],
    tries: Sequence[Candidate],
    *,
    table: LabelTable,
    progress: Callable[[int, int], None] | None = None,
) -> Tuning:
    """Try every candidate by itself, choose, and keep what still helps when all are applied together.

    A step is kept where the mean Dice of its structure rises by more than `LEAST_GAIN` and that of no
    structure falls. Of steps that remove parts of one structure the best is taken.

    Parameters
    ----------
    masks : sequence of callable () -> Masks
        One for each case; called once for the trials and once for each check of the chosen steps.
    tries : sequence of Candidate
    table : LabelTable
    progress : callable (done, total), optional
    """
    names = tuple(table.region_classes())
    before = np.full((len(masks), len(names)), np.nan)
    after = np.full((len(tries), len(masks), len(names)), np.nan)
    for index, load in enumerate(masks):
        case = _Case.of(load(), table)
        before[index] = case.dice(case.histogram)
        for number, candidate in enumerate(tries):
            after[number, index] = case.dice(case.histogram + case.moved(candidate.step))
        if progress is not None:
            progress(index + 1, len(masks))
    start = _means(before)
    judged = [_judged(c, start, _means(after[n]), names) for n, c in enumerate(tries)]
    steps, means = _together(masks, _chosen(judged), start, table)
    told = [n for n, name in enumerate(names) if np.isfinite(start[n])]
    return Tuning(
        steps=tuple(c.step for c in steps),
        before={names[n]: float(start[n]) for n in told},
        after={names[n]: float(means[n]) for n in told},
        cases={names[n]: int(np.isfinite(before[:, n]).sum()) for n in told},
        tried=tuple(judged),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Case:
    masks: Masks
    table: LabelTable
    histogram: NDArray[np.int64]

    @classmethod
    def of(cls, masks: Masks, table: LabelTable) -> _Case:
        return cls(masks=masks, table=table, histogram=_histogram(masks.reference, masks.label_map, table))

    def dice(self, histogram: NDArray[np.int64]) -> list[float]:
        """Dice by structure; 1 where both are empty, NaN where the reference does not tell."""
        values = []
        for members in self.table.region_classes().values():
            counts = structure_counts(histogram, self.table.set_matrix, members)
            dice = overlap_metrics(counts)["dice"]
            values.append(dice if dice is not None else 1.0 if counts.state == "both_empty" else np.nan)
        return values

    def moved(self, step: PostprocessStep) -> NDArray[np.int64]:
        """What a step changes in the joint histogram."""
        classes = [c for name in step.labels for c in self.table.region_classes()[name]]
        box = bounding_box(self.masks.label_map, classes)
        if box is None:
            return np.zeros_like(self.histogram)
        old, reference = self.masks.label_map[box], self.masks.reference[box]
        new = postprocess(old, [step], table=self.table, spacing_mm=self.masks.spacing_mm)
        changed = new != old
        return _histogram(reference[changed], new[changed], self.table) - _histogram(
            reference[changed], old[changed], self.table
        )


def _histogram(reference: NDArray[Any], found: NDArray[Any], table: LabelTable) -> NDArray[np.int64]:
    return joint_histogram(reference, found, set_count=len(table.set_matrix), class_count=table.class_count)


def _means(dice: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean over cases by structure, NaN where no case has a value."""
    known = np.isfinite(dice)
    sums = np.where(known, dice, 0.0).sum(axis=0)
    return np.where(known.any(axis=0), sums / np.maximum(known.sum(axis=0), 1), np.nan)


def _judged(
    candidate: Candidate, start: NDArray[np.float64], means: NDArray[np.float64], names: Sequence[str]
) -> Candidate:
    gain = means[names.index(candidate.structure)] - start[names.index(candidate.structure)]
    harms = tuple(name for n, name in enumerate(names) if means[n] < start[n] - _EQUAL)
    return Candidate(
        structure=candidate.structure,
        step=candidate.step,
        gain=float(gain) if np.isfinite(gain) else 0.0,
        harms=harms,
    )


def _chosen(judged: Iterable[Candidate]) -> list[Candidate]:
    """The best step of each structure that removes, and the one that fills, in the order they are applied."""
    best: dict[tuple[bool, str], Candidate] = {}
    for candidate in judged:
        key = (isinstance(candidate.step, FillHoles), candidate.structure)
        least = best[key].gain + _EQUAL if key in best else LEAST_GAIN
        if candidate.gain > least and not candidate.harms:
            best[key] = candidate
    return sorted(best.values(), key=lambda candidate: isinstance(candidate.step, FillHoles))


def _together(
    masks: Sequence[Callable[[], Masks]],
    chosen: Sequence[Candidate],
    start: NDArray[np.float64],
    table: LabelTable,
) -> tuple[list[Candidate], NDArray[np.float64]]:
    """The steps that help when they are applied one after the other, and the means that they give."""
    names, kept = tuple(table.region_classes()), list(chosen)
    while kept:
        rows = []
        for load in masks:
            case = load()
            cleaned = postprocess(
                case.label_map, [c.step for c in kept], table=table, spacing_mm=case.spacing_mm
            )
            done = Masks(label_map=cleaned, reference=case.reference, spacing_mm=case.spacing_mm)
            measured = _Case.of(done, table)
            rows.append(measured.dice(measured.histogram))
        means = _means(np.array(rows))
        fell = {name for n, name in enumerate(names) if means[n] < start[n] - _EQUAL}
        if not fell:
            return kept, means
        theirs = [c for c in kept if c.structure in fell]
        kept = [c for c in kept if c not in theirs] if theirs else kept[:-1]
    return [], start
