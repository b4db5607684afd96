"""What must be said, or refused, about data and settings before the first epoch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from medseg.errors import ManifestError
from medseg.pipeline.context import Context
from medseg.planning.cost import ProbeResult, Work
from medseg.planning.grids import Grid, median_shape
from medseg.training.options import TrainingSettings

_MOST_NAMED = 5
_FEW_STEPS = 10


def structures(context: Context) -> list[str]:
    """Notes about labels that splits lack, and about splits of a single case.

    Raises
    ------
    ManifestError
        No usable training case, or no label in any of them.
    """
    notes = []
    for split in ("train", "validation", "test"):
        cases = context.labelled(context.in_split(split))
        if split == "train" and not cases:
            raise ManifestError(
                "no usable case with a mask is in the training split; check the list of cases"
            )
        if not cases:
            continue
        absent = [
            name
            for name in context.table.names[1:]
            if not any(_has(context.facts[case.case_id]["voxels"], name) for case in cases)
        ]
        if split == "train" and len(absent) == context.table.class_count - 1:
            raise ManifestError(
                f"the masks of all {len(cases)} training cases are empty, so there is nothing to learn; check "
                "the masks and their values in `labels`"
            )
        if absent:
            notes.append(_absent_text(split, absent, len(cases)))
        if len(cases) == 1:
            notes.append(f"a single case is in the {split} split: {_SINGLE[split]}")
    return notes


_SINGLE = {
    "train": "what it does not show cannot be learnt",
    "validation": "the best epoch is chosen by it alone",
    "test": "its result says nothing about others",
}
_ABSENT = {
    "train": "will not be learnt; take it out of `labels`, or add cases that have it",
    "validation": "does not count when the best epoch is chosen",
    "test": "is not evaluated",
}


def _has(voxels: dict[str, int], label: str) -> bool:
    return any(label in names.split("|") for names in voxels)


def _absent_text(split: str, absent: Sequence[str], count: int) -> str:
    named = ", ".join(absent[:_MOST_NAMED])
    more = f" and {len(absent) - _MOST_NAMED} more" if len(absent) > _MOST_NAMED else ""
    cases = f"the {count} cases" if count > 1 else "the one case"
    return f"{named}{more} is in none of {cases} of the {split} split and {_ABSENT[split]}"


def grids(training: TrainingSettings, train: Sequence[Grid]) -> list[str]:
    """Notes about a given patch that is larger than the images."""
    patch = training.patch_size
    if not isinstance(patch, tuple) or len(patch) != len(train[0].shape):
        return []
    small = [grid for grid in train if any(p > n for p, n in zip(patch, grid.shape, strict=True))]
    if not small:
        return []
    typical = " x ".join(map(str, median_shape(train)))
    return [
        f"training.patch_size {list(patch)} is larger than {len(small)} of {len(train)} prepared images along some "
        f"axis (typical: {typical}); they are filled up with their minimum"
    ]


def epochs(training: TrainingSettings, work: Work) -> list[str]:
    """A note about epochs that are so short that their ends cost more than they do."""
    if work.steps_per_epoch >= _FEW_STEPS or training.samples_per_epoch == "auto":
        return []
    return [
        f"an epoch has {work.steps_per_epoch} updates, so that checkpoints and validations take much of the time; "
        "training.samples_per_epoch: auto makes longer ones"
    ]


def plain(result: ProbeResult) -> dict[str, Any]:
    """A probe as plan.json holds it."""
    return {
        name: round(value, 4) if isinstance(value, float) else value for name, value in asdict(result).items()
    }
