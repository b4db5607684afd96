"""Stage `plan`: what will be trained and shown to the network, and what that costs."""

from __future__ import annotations

from typing import Any

from medseg.models.options import check_window
from medseg.pipeline.bundling import image_size, spatial_dims
from medseg.pipeline.context import Context
from medseg.provenance import write_json

STAGE = "plan"


def plan(context: Context) -> str:
    """One line for the dry run."""
    size = image_size(context.config)
    shape = " x ".join(map(str, size)) if size else "images of their own size"
    return f"{context.config.model.use} on {shape}"


def run(context: Context) -> dict[str, Any]:
    """Check that network, data and window fit each other; write plan.json.

    Raises
    ------
    ConfigError
        A window the network is too deep for, or a 3-D network for 2-D data.
    """
    from medseg.models.registry import build_network

    config = context.config
    dims = spatial_dims(config)
    _refuse_mixed_dims(context, dims)
    window = config.inference.window or image_size(config)
    if window is not None:
        check_window(config.model, tuple(window))
    network = build_network(
        config.model, spatial_dims=dims, in_channels=1, class_count=context.table.class_count, seed=0
    )
    parameters = sum(p.numel() for p in network.parameters())
    value = {
        "network": config.model.model_dump(mode="json"),
        "spatial_dims": dims,
        "parameters": parameters,
        "image_size": image_size(config),
        "window": window,
        "classes": list(context.table.names),
        "cases": {name: len(context.in_split(name)) for name in ("train", "validation", "test")},
    }
    write_json(context.run.path / "plan.json", value)
    return {"text": f"{plan(context)}, {parameters / 1e6:.2f} M parameters", **value}


def _refuse_mixed_dims(context: Context, dims: int) -> None:
    from medseg.errors import ConfigError

    for case_id, fact in context.facts.items():
        found = len(fact["shape"])
        if found != dims:
            raise ConfigError(
                f"the settings describe {dims}-D images (preprocess resize or inference.window has {dims} axes), "
                f"but case {case_id} is {found}-D; give {found} sizes, or take the case out"
            )
