"""The settings that come of the decisions of a plan, and the plan of a run that trains nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic import ValidationError

from medseg.config.schema import PipelineConfig, RunConfig
from medseg.errors import ConfigError
from medseg.models.bundle import Bundle, read_bundle
from medseg.pipeline.context import Context
from medseg.pipeline.prediction_memory import FACT, foresee_prediction
from medseg.planning.decision import Decision, chosen
from medseg.planning.plan import Plan


def without_training(context: Context) -> tuple[Plan, RunConfig]:
    """A run that uses a trained model takes from its bundle what the settings leave open."""
    settings = context.settings
    bundle = read_bundle(str(settings.model.start_from))
    reason = f"that of {bundle.name} {bundle.version}"
    values: dict[str, Any] = {
        "preprocess": list(bundle.preprocess),
        "augment": [],
        "model": _model_of(bundle, settings),
        "inference.window": bundle.record.inference.get("window"),
    }
    decisions = tuple(chosen(name, values[name], reason) for name in settings.autos)
    config = decide(settings, decisions)
    facts = data_facts(context, bundle.spatial_dims, bundle.in_channels)
    memory, notes = foresee_prediction(
        context, config, spatial_dims=bundle.spatial_dims, in_channels=bundle.in_channels
    )
    return Plan(decisions=decisions, notes=notes, facts=facts | {FACT: memory}), config


def _model_of(bundle: Bundle, settings: PipelineConfig) -> dict[str, Any]:
    return bundle.network.model_dump(mode="json") | {"start_from": settings.model.start_from}


def decide(settings: PipelineConfig, decisions: Sequence[Decision]) -> RunConfig:
    """The settings with the chosen values in place of `auto`.

    Raises
    ------
    ConfigError
        Decided and given settings do not go together.
    """
    value = settings.model_dump()
    for decision in decisions:
        if decision.given:
            continue
        *sections, name = decision.name.split(".")
        place = value
        for section in sections:
            place = place[section]
        place[name] = decision.value
    try:
        return RunConfig.model_validate(value)
    except ValidationError as err:
        problems = "; ".join(str(problem["msg"]) for problem in err.errors(include_url=False))
        raise ConfigError(f"the given settings do not go with what the plan decided: {problems}") from err


def data_facts(context: Context, spatial_dims: int, in_channels: int) -> dict[str, Any]:
    """What a plan says about the images, the classes and the splits."""
    return {
        "spatial_dims": spatial_dims,
        "in_channels": in_channels,
        "classes": list(context.table.names),
        "cases": {name: len(context.in_split(name)) for name in ("train", "validation", "test")},
    }
