"""Stage `train`: what it would do, and the way to the work, which needs torch."""

from __future__ import annotations

from typing import Any

from medseg.data.options import FoldSplit
from medseg.pipeline.context import Context

STAGE = "train"


def plan(context: Context) -> str:
    """One line for the dry run."""
    training = context.config.training
    if training is None:
        return f"nothing to train: uses {context.config.model.start_from}"
    start = context.config.model.start_from
    split = context.config.data.split
    folds = f"{split.count} folds of " if isinstance(split, FoldSplit) and split.fold == "all" else ""
    return (
        f"{folds}{context.config.model.use}, {training.epochs} epochs, batch {training.batch_size}, "
        f"{f'from {start}' if start else 'from fresh weights'}"
    )


def run(context: Context) -> dict[str, Any]:
    """Train and write the bundle of the run; a killed training goes on where it stood."""
    if context.every_fold:
        from medseg.pipeline.folds import train_folds

        return train_folds(context)
    from medseg.pipeline.fit import fit

    return fit(context)
