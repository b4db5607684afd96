"""Stage `train`: what it would do, and the way to the work, which needs torch."""

from __future__ import annotations

from typing import Any

from medseg.amounts import time_text
from medseg.data.options import FoldSplit
from medseg.pipeline.context import Context
from medseg.training.options import TrainingSettings

STAGE = "train"


def plan(context: Context) -> str:
    """One line for the dry run."""
    training = context.settings.training
    if training is None:
        return f"nothing to train: uses {context.settings.model.start_from}"
    start = context.settings.model.start_from
    split = context.settings.data.split
    folds = f"{split.count} folds of " if isinstance(split, FoldSplit) and split.fold == "all" else ""
    return (
        f"{folds}{context.settings.model.use}, {_length(training)}, batch {training.batch_size}, "
        f"{f'from {start}' if start else 'from fresh weights'}"
    )


def _length(training: TrainingSettings) -> str:
    """How long it trains: epochs, time, or both."""
    within = "" if training.time is None else f"within {time_text(training.time)}"
    if training.target_epochs is None:
        return f"as many epochs as fit {within or 'into the time of the budget'}"
    return f"{training.target_epochs} epochs{within and f' {within}'}"


def run(context: Context) -> dict[str, Any]:
    """Train and write the bundle of the run; a killed training goes on where it stood."""
    from medseg.pipeline import ranks

    if context.every_fold:
        from medseg.pipeline.folds import train_folds

        summary = train_folds(context)
        ranks.dismiss()
        return summary
    from medseg.pipeline.fit import fit

    summary = fit(context)
    ranks.dismiss()
    return summary
