"""Faults put into held-out masks: how many the flags find, and how many right masks they flag.

    MEDSEG_DATA=../shared/data python benchmarks/mask_flags.py [--split validation|test]

Masks: references of radiographs (shenzhen: one value for both lungs, sides by position, cleaned up as results are) and
of the hippocampus; ranges are those that the shipped bundles carry. The test masks are the test split and fold 0,
which no range saw; limits were chosen on the validation split and fold 1. A fault counts as found where a flag that was
not there before has one of the codes that the fault is about.
"""

from __future__ import annotations

import argparse
import csv
import os
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from medseg.errors import MedsegError
from medseg.evaluation.measure import measure_case
from medseg.io.nifti import read_nifti
from medseg.labels import LabelTable
from medseg.models.bundle import read_bundle
from medseg.pipeline.bundle_gate import read_cohort_margin, read_ranges
from medseg.quality.flag import CaseFlags, ResultFacts
from medseg.quality.flags import judge_result
from medseg.quality.ranges import Range

PROJECT = Path(__file__).resolve().parent.parent
Labels = NDArray[np.uint8]
Fault = Callable[[Labels, np.random.Generator], Labels]


@dataclass(frozen=True, slots=True, kw_only=True)
class Cohort:
    """Held-out masks of one model, with what its bundle knows."""

    name: str
    table: LabelTable
    ranges: dict[str, Range]
    margin: float
    masks: list[Labels]
    affine: NDArray[np.float64] | None
    spacing_mm: tuple[float, ...] | None

    def judge(self, label_map: Labels) -> CaseFlags:
        """All flags of a label map."""
        measures = measure_case(
            label_map,
            table=self.table,
            measures=(),
            case_id="c",
            spacing_mm=self.spacing_mm,
            affine=self.affine,
        )
        return judge_result(
            ResultFacts(
                label_map=label_map,
                table=self.table,
                measures=measures,
                ranges=self.ranges,
                cohort_margin=self.margin,
                affine=self.affine,
            )
        )


def manifest(name: str) -> list[dict[str, str]]:
    """Rows of a manifest of the project."""
    with (PROJECT / "data_manifests" / name).open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def lungs(path: Path) -> Labels:
    """The two largest parts of a lung mask, filled, right lung 1 and left lung 2; (I, J)."""
    numbers, count = ndimage.label(np.asarray(Image.open(path)).T > 0)
    sizes = ndimage.sum_labels(numbers > 0, numbers, range(1, count + 1))
    two = [int(n) + 1 for n in np.argsort(-np.asarray(sizes))[:2]]
    parts = [ndimage.binary_fill_holes(numbers == number) for number in two]
    parts.sort(key=lambda part: ndimage.center_of_mass(part)[0])
    found = np.zeros(numbers.shape, np.uint8)
    for value, part in enumerate(parts, start=1):
        found[part] = value
    return found


def cohorts(data: Path, split: str) -> list[Cohort]:
    """Radiographs and hippocampi of a split."""
    chest, hippocampus = read_bundle("chest-xray-lungs"), read_bundle("mr-hippocampus")
    films = [
        row
        for row in manifest("chest_xray_lungs.csv")
        if row["split"] == split and row["source"] == "shenzhen"
    ]
    fold = {"test": "0", "validation": "1"}[split]
    heads = [row for row in manifest("hippocampus.csv") if row["fold"] == fold]
    volumes = [
        np.asarray(read_nifti(data / "hippocampus" / r["label"]).array[0], dtype=np.uint8) for r in heads
    ]
    return [
        Cohort(
            name="radiographs",
            table=chest.table,
            ranges=read_ranges(chest),
            margin=read_cohort_margin(chest),
            masks=[lungs(data / "cxr" / row["label"]) for row in films],
            affine=None,
            spacing_mm=None,
        ),
        Cohort(
            name="hippocampus",
            table=hippocampus.table,
            ranges=read_ranges(hippocampus),
            margin=read_cohort_margin(hippocampus),
            masks=volumes,
            affine=np.eye(4),
            spacing_mm=(1.0, 1.0, 1.0),
        ),
    ]


def slab(share: float) -> Fault:
    """A slab in the middle of the longest part of a label is lost; a share of its length across the last axis."""

    def fault(labels: Labels, rng: np.random.Generator) -> Labels:
        found, value = labels.copy(), int(rng.integers(1, 3))
        filled = np.flatnonzero((labels == value).any(axis=tuple(range(labels.ndim - 1))))
        width = max(2, round(share * len(filled)))
        start = filled[0] + (len(filled) - width) // 2
        part = found[..., start : start + width]
        part[part == value] = 0
        return found

    return fault


def ball(shape: tuple[int, ...], centre: NDArray[Any], radius: float) -> NDArray[np.bool_]:
    """A ball (disc)."""
    grid = np.indices(shape)
    return ((grid - np.reshape(centre, (-1, *(1,) * len(shape)))) ** 2).sum(axis=0) <= radius**2


def blob(radius: float) -> Fault:
    """A ball of a label elsewhere, apart from all others; the radius in units of the root of its size."""

    def fault(labels: Labels, rng: np.random.Generator) -> Labels:
        found, value = labels.copy(), int(rng.integers(1, 3))
        r = radius * np.count_nonzero(labels == value) ** (1 / labels.ndim)
        far = np.asarray(ndimage.distance_transform_edt(np.pad(labels == 0, 1)))[
            (slice(1, -1),) * labels.ndim
        ]
        places = np.argwhere(far > r + 2)
        centre = (
            places[rng.integers(len(places))] if len(places) else np.unravel_index(far.argmax(), far.shape)
        )
        found[ball(labels.shape, np.asarray(centre), r) & (labels == 0)] = value
        return found

    return fault


def hole(radius: float) -> Fault:
    """A closed hole at the deepest place of a label."""

    def fault(labels: Labels, rng: np.random.Generator) -> Labels:
        found, value = labels.copy(), int(rng.integers(1, 3))
        mask = labels == value
        depth = np.asarray(ndimage.distance_transform_edt(mask))
        centre = np.unravel_index(depth.argmax(), depth.shape)
        r = min(radius * np.count_nonzero(mask) ** (1 / labels.ndim), float(depth.max()) - 1.01)
        found[ball(labels.shape, np.asarray(centre), max(r, 0.5)) & mask] = 0
        return found

    return fault


def swapped(labels: Labels, _: np.random.Generator) -> Labels:
    """Both labels exchanged."""
    return np.array([0, 2, 1], np.uint8)[labels]


def mirrored(axis: int) -> Fault:
    """The mask mirrored, the header kept."""
    return lambda labels, _: np.ascontiguousarray(np.flip(labels, axis=axis))


def shifted(share: float) -> Fault:
    """All slices above the middle moved sideways, by a share of the width of what is there."""

    def fault(labels: Labels, _: np.random.Generator) -> Labels:
        found = labels.copy()
        filled = np.flatnonzero(labels.any(axis=tuple(range(labels.ndim - 1))))
        middle = int(np.median(filled))
        width = np.count_nonzero(labels[..., middle].any(axis=tuple(range(1, labels.ndim - 1))))
        part = labels[..., middle:]
        found[..., middle:] = np.roll(part, max(2, round(share * width)), axis=0)
        return found

    return fault


def resized(factor: float) -> Fault:
    """Both labels grown or shrunk to about a multiple of their size."""

    def fault(labels: Labels, _: np.random.Generator) -> Labels:
        found = np.zeros_like(labels)
        inside = np.asarray(ndimage.distance_transform_edt(labels > 0))
        outside, nearest = ndimage.distance_transform_edt(labels == 0, return_indices=True)
        goal = factor * np.count_nonzero(labels)
        signed = np.where(labels > 0, -inside, outside)
        limit = np.partition(signed.ravel(), int(goal))[int(goal)]
        kept = signed < limit
        found[kept] = labels[tuple(nearest)][kept]
        return found

    return fault


def cropped(labels: Labels, rng: np.random.Generator) -> Labels:
    """The field of view ends inside a structure."""
    axis = int(rng.integers(labels.ndim))
    filled = np.flatnonzero(labels.any(axis=tuple(a for a in range(labels.ndim) if a != axis)))
    cut = int(filled[len(filled) // 4])
    return np.ascontiguousarray(labels.take(range(cut, labels.shape[axis]), axis=axis))


def merged(labels: Labels, _: np.random.Generator) -> Labels:
    """Both structures under one label."""
    return (labels > 0).astype(np.uint8)


def missing(labels: Labels, rng: np.random.Generator) -> Labels:
    """A structure was not found."""
    return np.where(labels == rng.integers(1, 3), 0, labels).astype(np.uint8)


def leaked(labels: Labels, rng: np.random.Generator) -> Labels:
    """Half of one structure carries the label of the other."""
    found, value = labels.copy(), int(rng.integers(1, 3))
    places = np.argwhere(labels == value)
    axis = labels.ndim - 1 if labels.ndim == 2 else 1
    other = np.argwhere(labels == 3 - value)[:, axis].mean()
    near = np.abs(places[:, axis] - other) <= np.median(np.abs(places[:, axis] - other))
    found[tuple(places[near].T)] = 3 - value
    return found


def half(labels: Labels, rng: np.random.Generator) -> Labels:
    """Half of a structure was missed."""
    found, value = labels.copy(), int(rng.integers(1, 3))
    places = np.argwhere(labels == value)
    axis = labels.ndim - 1
    gone = places[:, axis] > np.median(places[:, axis])
    found[tuple(places[gone].T)] = 0
    return found


def specks(labels: Labels, rng: np.random.Generator) -> Labels:
    """Single voxels of a label all over the background."""
    found = labels.copy()
    noise = rng.random(labels.shape) < 0.02
    found[noise & (labels == 0)] = rng.integers(1, 3)
    return found


FAULTS: dict[str, tuple[Fault, frozenset[str], frozenset[int]]] = {
    "slab lost, 15 % of the length": (slab(0.15), frozenset({"Q201", "Q203"}), frozenset({2, 3})),
    "blob elsewhere": (blob(0.2), frozenset({"Q201"}), frozenset({2, 3})),
    "single voxels all over": (specks, frozenset({"Q201", "Q101"}), frozenset({2, 3})),
    "closed hole": (hole(0.2), frozenset({"Q202"}), frozenset({2, 3})),
    "labels exchanged": (swapped, frozenset({"Q303", "Q304"}), frozenset({2, 3})),
    "mirrored left to right": (mirrored(0), frozenset({"Q303"}), frozenset({2})),
    "mirrored front to back": (mirrored(1), frozenset({"Q304"}), frozenset({3})),
    "mirrored head to foot": (mirrored(2), frozenset({"Q304"}), frozenset({3})),
    "upper slices shifted by half the width": (shifted(0.5), frozenset({"Q203", "Q201"}), frozenset({3})),
    "shrunk to 40 % of the size": (resized(0.4), frozenset({"Q301"}), frozenset({2, 3})),
    "grown to 220 % of the size": (resized(2.2), frozenset({"Q301"}), frozenset({2, 3})),
    "field of view cut": (cropped, frozenset({"Q101"}), frozenset({2, 3})),
    "structures merged": (merged, frozenset({"Q501", "Q301"}), frozenset({2, 3})),
    "structure missing": (missing, frozenset({"Q501"}), frozenset({2, 3})),
    "half a structure under the other label": (
        leaked,
        frozenset({"Q201", "Q301", "Q302", "Q303", "Q304"}),
        frozenset({2, 3}),
    ),
    "half a structure missed": (half, frozenset({"Q301", "Q302", "Q304"}), frozenset({2, 3})),
}
"""Name -> what is done, codes that find it, numbers of axes it is for."""


def codes(found: CaseFlags) -> set[tuple[str, str]]:
    """Code and structure of each flag."""
    return {(flag.code, flag.structure) for flag in found.flags}


def measure(cohort: Cohort) -> None:
    """Print counts for one cohort."""
    rng = np.random.default_rng(0)
    clean = [cohort.judge(mask) for mask in cohort.masks]
    alarms = [flags for flags in clean if flags.verdict in ("review", "fail")]
    which = Counter(code for flags in alarms for code in {f.code for f in flags.flags})
    print(f"\n{cohort.name}: {len(clean)} right masks, {len(alarms)} flagged {dict(which)}")
    print(f"{'fault':<44}{'masks':>6}{'found':>7}  flags of those codes")
    total = hits = 0
    for name, (fault, expected, axes) in FAULTS.items():
        if cohort.masks[0].ndim not in axes:
            continue
        new = [
            {code for code, _ in codes(cohort.judge(fault(mask, rng))) - codes(before) if code in expected}
            for mask, before in zip(cohort.masks, clean, strict=True)
        ]
        seen = sum(bool(item) for item in new)
        by = Counter(code for item in new for code in item)
        print(f"{name:<44}{len(new):>6}{seen:>7}  {dict(sorted(by.items()))}", flush=True)
        total, hits = total + len(new), hits + seen
    print(f"{'all faults':<44}{total:>6}{hits:>7}  {hits / total:.1%}")


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--split", choices=["validation", "test"], default="test")
    given = parser.parse_args()
    for cohort in cohorts(Path(os.environ["MEDSEG_DATA"]), given.split):
        measure(cohort)


if __name__ == "__main__":
    try:
        main()
    except MedsegError as err:
        sys.exit(str(err))
