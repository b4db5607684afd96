"""The task that nnU-Net and medseg are compared on: cases, folds, nnU-Net's data folder, and how masks are judged."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from medseg.config.load import load_run_config
from medseg.data.manifest import Case, read_manifest
from medseg.evaluation.cases import evaluate_case
from medseg.evaluation.options import EvaluationOptions
from medseg.io.read import read_image, read_label
from medseg.labels import LabelTable
from medseg.provenance import write_json

DATASET = "Dataset501_Benchmark"
ENDING = ".nii.gz"
METRICS = EvaluationOptions.model_validate(
    {"metrics": [{"use": "dice"}, {"use": "hd95"}, {"use": "nsd", "tolerance_mm": 1}]}
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """What both programs learn: cases with folds, labels, the fold that is held out."""

    pipeline: Path
    cases: tuple[Case, ...]
    table: LabelTable
    fold: int

    @property
    def held_out(self) -> tuple[Case, ...]:
        """Cases of the fold that is tested."""
        return tuple(case for case in self.cases if case.fold == self.fold)

    @property
    def structures(self) -> tuple[str, ...]:
        """Names of the labels, without background."""
        return self.table.names[1:]


def read_task(pipeline: Path, fold: int) -> Task:
    """Cases and labels of a pipeline; stops where nnU-Net cannot be given the same."""
    config = load_run_config(pipeline).config
    source = config.data.source
    if source.use != "manifest":
        raise SystemExit(f"{pipeline}: data.source must be a manifest with a column fold, found {source.use}")
    cases = read_manifest(source.path, root=source.root)
    table = config.label_table()
    folds = sorted({case.fold for case in cases if case.fold is not None})
    files = [path for case in cases for path in (*case.images, *([case.label] if case.label else []))]
    unfit = [
        (fold not in folds or any(c.fold is None for c in cases), f"fold is one of {folds} for every case"),
        (
            any(c.label is None or c.scheme for c in cases),
            "every case has a mask with the values of `labels`",
        ),
        (any(not p.name.endswith(ENDING) for p in files), f"all files end in {ENDING}"),
        (list(table.values) != list(range(table.class_count)), "label values are 1, 2, 3, ..."),
    ]
    for wrong, needed in unfit:
        if wrong:
            raise SystemExit(f"{pipeline}: the comparison needs that {needed}")
    return Task(pipeline=pipeline, cases=cases, table=table, fold=fold)


def make_raw_data(task: Task, folder: Path) -> None:
    """nnU-Net's data folder: links to the files, and dataset.json."""
    home = folder / DATASET
    for name in ("imagesTr", "labelsTr"):
        (home / name).mkdir(parents=True, exist_ok=True)
    for case in task.cases:
        for channel, path in enumerate(case.images):
            link(home / "imagesTr" / f"{case.case_id}_{channel:04d}{ENDING}", path)
        link(home / "labelsTr" / f"{case.case_id}{ENDING}", case.label or Path())
    labels = {"background": 0} | {label.name: label.value for label in task.table.labels}
    channels = {str(number): "MRI" for number in range(len(task.cases[0].images))}
    about = {
        "channel_names": channels,
        "labels": labels,
        "numTraining": len(task.cases),
        "file_ending": ENDING,
    }
    write_json(home / "dataset.json", about)


def link(place: Path, target: Path) -> None:
    """A symbolic link, renewed."""
    place.unlink(missing_ok=True)
    place.symlink_to(target.resolve())


def folds_of(task: Task) -> list[dict[str, list[str]]]:
    """splits_final.json: each fold is held out once, all others train."""
    numbers = range(1 + max(case.fold for case in task.cases if case.fold is not None))
    return [
        {
            "train": [case.case_id for case in task.cases if case.fold != number],
            "val": [case.case_id for case in task.cases if case.fold == number],
        }
        for number in numbers
    ]


def judged(task: Task, masks: Mapping[str, Path]) -> dict[str, Any]:
    """Means over the held-out cases: Dice of each structure and of all, HD95 in mm, NSD at 1 mm; Dice of each case."""
    values: dict[str, list[float]] = {}
    cases: dict[str, dict[str, float | None]] = {}
    for case in task.held_out:
        volume = read_image(case.images)
        found = evaluate_case(
            task.table.class_indices(read_label(masks[case.case_id], volume)[0]),
            task.table.encode(read_label(case.label or Path(), volume)),
            table=task.table,
            case_id=case.case_id,
            spacing_mm=volume.spacing_mm,
            options=METRICS,
        )
        cases[case.case_id] = {s.structure: s.metrics["dice"].value for s in found.structures}
        for s in found.structures:
            for metric, value in s.metrics.items():
                if value.value is not None:
                    values.setdefault(f"{s.structure}_{metric}", []).append(value.value)
    means = {name: float(np.mean(found)) for name, found in values.items()}
    dice = {name: means[f"{name}_dice"] for name in task.structures}
    others = {n: v for n, v in means.items() if not n.endswith("_dice")}
    return {**dice, "mean": float(np.mean(list(dice.values()))), **others, "cases": cases}
