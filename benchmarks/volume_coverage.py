"""How often the true size lies in the interval that a model gives: 90 % asked, what is found.

    python -P benchmarks/volume_coverage.py --data FOLDER [--model mr-hippocampus|chest-xray-lungs ...] [--splits N]
        [--output OUT.json] [--cache FOLDER]

FOLDER holds `hippocampus` and `cxr`, as data_manifests/*.md describe them. Cases that a network was trained on say
nothing, so hippocampi are predicted out of fold, each by the one network of the ensemble that never saw its patient,
and radiographs are those of the validation and test splits. Patients are split in two at random, again and again;
one half calibrates, the intervals of the other half are held against the reference. The table gives the coverage over
all splits, the spread from split to split, the width, and the same with scores divided by the model's uncertainty.

One split shows little: with n patients tested, coverage varies by about sqrt(0.9 x 0.1 / n) around 90 % by chance.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from medseg.calibration.conformal import LEVEL, SizeError, fit_interval, size_score
from medseg.calibration.sizes import size_pairs
from medseg.data.encoding import encode_mask
from medseg.data.manifest import Case, read_manifest
from medseg.io.read import read_image, read_label
from medseg.models.bundle import Bundle, read_bundle

MODELS = {
    "mr-hippocampus": ("hippocampus.csv", "hippocampus"),
    "chest-xray-lungs": ("chest_xray_lungs.csv", "cxr"),
}
LEAST_UNCERTAINTY = 0.01


@dataclass(frozen=True, slots=True, kw_only=True)
class Sized:
    """Sizes of one structure in one case, in voxels, and how undecided the network was there."""

    case_id: str
    patient_id: str
    split: str
    structure: str
    predicted: int
    reference: int
    counts: bool
    uncertainty: float


def held_out(bundle: Bundle, cases: Sequence[Case]) -> Iterator[tuple[Bundle, str, list[Case]]]:
    """Networks with the cases that they never saw, and what to call these."""
    if bundle.members:
        for member in bundle.members:
            own = [case for case in cases if case.fold == member.fold]
            yield bundle.member(member.fold), "out of fold", own
        return
    for split in ("validation", "test"):
        yield bundle, split, [case for case in cases if case.split == split]


def predicted_sizes(bundle: Bundle, cases: Sequence[Case]) -> list[Sized]:
    """Predict every held-out case, clean it up, and count."""
    from medseg.inference.postprocess import postprocess
    from medseg.pipeline.model import LoadedModel

    found = []
    for network, split, own in held_out(bundle, cases):
        model = LoadedModel(network)
        for case in own:
            volume = read_image(case.images)
            mask = read_label(case.label, volume)
            reference = encode_mask(mask, scheme=case.scheme, like=volume, table=model.table)[0]
            answer = model.predictor.predict(volume)
            label_map = postprocess(
                answer.label_map, model.cleaning, table=model.table, spacing_mm=volume.spacing_mm
            )
            shares = {name: known["uncertain_share"] for name, known in answer.confidence.items()}
            for name, pair in size_pairs(label_map, reference, model.table).items():
                parts = model.table.regions.get(name, (name,))
                found.append(
                    Sized(
                        case_id=case.case_id,
                        patient_id=case.patient_id,
                        split=split,
                        structure=name,
                        predicted=pair.predicted,
                        reference=pair.reference,
                        counts=pair.counts,
                        uncertainty=max(LEAST_UNCERTAINTY, *(shares.get(part, 1.0) for part in parts)),
                    )
                )
        print(f"{network.name}: {split}, {len(own)} cases", flush=True)
    return found


def half_split(sized: Sequence[Sized], rng: np.random.Generator, *, scaled: bool) -> tuple[float, float, int]:
    """Coverage and mean log-width over the cases of the half of the patients that did not calibrate."""
    patients = sorted({one.patient_id for one in sized})
    drawn = rng.permutation(len(patients))
    chosen = {patients[i] for i in drawn[: len(patients) // 2]}

    def scale(one: Sized) -> float:
        return one.uncertainty if scaled else 1.0

    errors = [
        SizeError(patient_id=one.patient_id, score=size_score(one.predicted, one.reference, scale=scale(one)))
        for one in sized
        if one.patient_id in chosen
    ]
    interval = fit_interval(errors)
    if interval.quantile is None:
        return math.nan, math.nan, 0
    tested = [one for one in sized if one.patient_id not in chosen]
    inside, widths = [], []
    for one in tested:
        if one.predicted == 0:
            inside.append(False)
            continue
        low, high = interval.interval(one.predicted, scale=scale(one))
        inside.append(low <= one.reference <= high)
        widths.append(high / low)
    return float(np.mean(inside)), float(np.median(widths)), len(tested)


def fixed_split(sized: Sequence[Sized]) -> tuple[int, int] | None:
    """Cases inside and in all, calibrated on the validation split and tested on the test split."""
    calibrate = [one for one in sized if one.split == "validation"]
    tested = [one for one in sized if one.split == "test"]
    if not calibrate or not tested:
        return None
    interval = fit_interval(
        [SizeError(patient_id=o.patient_id, score=size_score(o.predicted, o.reference)) for o in calibrate]
    )
    if interval.quantile is None:
        return None
    ends = [interval.interval(one.predicted) if one.predicted else (0.0, 0.0) for one in tested]
    inside = sum(low <= one.reference <= high for (low, high), one in zip(ends, tested, strict=True))
    return inside, len(tested)


def summary(model: str, sized: Sequence[Sized], *, splits: int, seed: int) -> list[dict[str, object]]:
    """One row per structure and kind of score."""
    rows: list[dict[str, object]] = []
    for name in dict.fromkeys(one.structure for one in sized):
        own = [one for one in sized if one.structure == name and one.counts]
        for scaled in (False, True):
            rng = np.random.default_rng(seed)
            runs = np.array([half_split(own, rng, scaled=scaled)[:2] for _ in range(splits)])
            known = runs[~np.isnan(runs[:, 0])]
            row: dict[str, object] = {
                "model": model,
                "structure": name,
                "score": "divided by uncertainty" if scaled else "log of the ratio",
                "cases": len(own),
                "left out": sum(o.structure == name and not o.counts for o in sized),
                "patients": len({one.patient_id for one in own}),
                "splits": len(known),
                "asked": LEVEL,
                "coverage": float(known[:, 0].mean()) if len(known) else None,
                "p5": float(np.percentile(known[:, 0], 5)) if len(known) else None,
                "p95": float(np.percentile(known[:, 0], 95)) if len(known) else None,
                "upper to lower end": float(known[:, 1].mean()) if len(known) else None,
            }
            fixed = None if scaled else fixed_split(own)
            if fixed is not None:
                row |= {"validation to test": fixed[0] / fixed[1], "inside": fixed[0], "tested": fixed[1]}
            rows.append(row)
    return rows


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--model", nargs="*", default=list(MODELS), choices=list(MODELS))
    parser.add_argument("--splits", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--cache", type=Path, help="Keep predicted sizes here, and use those that are there.")
    options = parser.parse_args()
    manifests, rows = Path(__file__).parent.parent / "data_manifests", []
    for model in options.model:
        kept = None if options.cache is None else options.cache / f"{model}.json"
        if kept is not None and kept.exists():
            sized = [Sized(**value) for value in json.loads(kept.read_text())]
        else:
            name, folder = MODELS[model]
            cases = read_manifest(manifests / name, root=options.data / folder, check_files=False)
            sized = predicted_sizes(read_bundle(model), cases)
            if kept is not None:
                kept.parent.mkdir(parents=True, exist_ok=True)
                kept.write_text(json.dumps([asdict(one) for one in sized]))
        rows += summary(model, sized, splits=options.splits, seed=options.seed)
    for row in rows:
        print("  ".join(f"{k} {v:.3f}" if isinstance(v, float) else f"{k} {v}" for k, v in row.items()))
    if options.output is not None:
        options.output.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
