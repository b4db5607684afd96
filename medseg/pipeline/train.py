"""Stage `train`: what it would do, and the way to the work, which needs torch."""

from __future__ import annotations

from typing import Any

from medseg.pipeline.context import Context

STAGE = "train"


def plan(context: Context) -> str:
    """One line for the dry run."""
    training = context.settings.training
    if training is None:
        return f"nothing to train: uses {context.settings.model.start_from}"
    start = context.settings.model.start_from
    return (
        f"{context.settings.model.use}, {training.epochs} epochs, batch {training.batch_size}, "
        f"{f'from {start}' if start else 'from fresh weights'}"
    )


def run(context: Context) -> dict[str, Any]:
    """Train and write the bundle of the run; a killed training goes on where it stood."""
    from medseg.pipeline.fit import fit

    return fit(context)
