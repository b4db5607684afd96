"""What predicting the largest case will take of the memory: part of the plan, and later compared with what it took."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from medseg.amounts import bytes_text
from medseg.config.schema import RunConfig
from medseg.errors import MedsegError, StorageError
from medseg.geometry import GridMap
from medseg.memory import resident_bytes, return_free_memory
from medseg.pipeline.looks import hands_over
from medseg.planning.plan import read_plan
from medseg.transforms.header_grid import grid_of_header
from medseg.volume import ImageGrid

if TYPE_CHECKING:
    from medseg.pipeline.context import Context

FACT = "prediction_memory"
_SCALED_BYTES = 4
# Of a reference on the grid of the file and on that of the network, while its case is predicted.
_REFERENCE_BYTES = 2


def largest_grid(context: Context, config: RunConfig) -> GridMap | None:
    """From the grid of the case with the most voxels to that of its prepared image; None where no case is usable."""
    facts = [fact for fact in context.facts.values() if fact.get("shape")]
    if not facts:
        return None
    fact = max(facts, key=lambda fact: math.prod(fact["shape"]))
    spacing = None if fact["spacing_mm"] is None else tuple(fact["spacing_mm"])
    # How its axes lie is not known here; which of them is which matters little for the memory.
    return grid_of_header(ImageGrid(shape=tuple(fact["shape"]), spacing_mm=spacing), config.preprocess)


def foresee_prediction(
    context: Context, config: RunConfig, *, spatial_dims: int, in_channels: int
) -> tuple[dict[str, int] | None, tuple[str, ...]]:
    """Memory of a process that predicts the largest case, and notes about it.

    Parameters
    ----------
    context : Context
    config : RunConfig
        With everything decided; its network is tried on one window.
    spatial_dims, in_channels : int

    Returns
    -------
    dict or None
        `bytes`, as it will be done, and `least_bytes`, with all given way that can; None where that cannot be told.

    Raises
    ------
    ConfigError
        `predict.max_ram` is less than the least.
    """
    from medseg.inference.ceiling import expected_bytes, least_ceiling, too_low
    from medseg.inference.predictor import Predictor
    from medseg.models.registry import build_network

    try:
        grid = largest_grid(context, config)
    except MedsegError:
        # A step that this case cannot take: it fails by itself, with its own reason.
        grid = None
    if grid is None:
        return None, ()
    limit = config.predict.max_ram
    network = build_network(
        config.model,
        spatial_dims=spatial_dims,
        in_channels=in_channels,
        class_count=context.table.class_count,
        seed=0,
    )
    predictor = Predictor(
        network, steps=config.preprocess, table=context.table, options=_windows(config), max_bytes=limit
    )
    demand = predictor.demand(grid, in_channels=in_channels)
    return_free_memory()
    taken = resident_bytes() + _SCALED_BYTES * in_channels * math.prod(grid.source_shape)
    if hands_over(config):
        taken += _REFERENCE_BYTES * (math.prod(grid.source_shape) + math.prod(grid.target_shape))
    least = taken + demand.least_bytes
    if limit is not None and least_ceiling(least) > limit:
        raise too_low(limit, least, "the largest case, by its header")
    found = taken + expected_bytes(demand, max_bytes=limit, taken_bytes=taken)
    shape = " x ".join(map(str, grid.source_shape))
    note = f"predicting the largest case, {shape} voxels, takes about {bytes_text(found)} of memory"
    saving = (
        f"; predict.max_ram may be as low as {bytes_text(least_ceiling(least))}"
        if limit is None and least < 0.8 * found
        else ""
    )
    return {"bytes": found, "least_bytes": least}, (note + saving,)


def _windows(config: RunConfig) -> Any:
    """Inference options with the window that will be used."""
    training = config.training
    if config.inference.window is None and training is not None and training.patch_size is not None:
        return config.inference.model_copy(update={"window": training.patch_size})
    return config.inference


def compared(context: Context, most_bytes: int) -> dict[str, Any]:
    """What predicting took beside what the plan said of it; empty where it said nothing."""
    try:
        planned = read_plan(context.run.path).facts.get(FACT)
    except StorageError:
        return {}
    if not planned:
        return {}
    return {"ram_bytes": most_bytes, "predicted_ram_bytes": planned["bytes"]}


def text_of(comparison: dict[str, Any]) -> Sequence[str]:
    """The comparison in words; nothing where there is none."""
    if not comparison:
        return ()
    took, said = (bytes_text(comparison[name]) for name in ("ram_bytes", "predicted_ram_bytes"))
    return (f"{took} of memory (predicted {said})",)
