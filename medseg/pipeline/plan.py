"""Stage `plan`: what will be trained and shown to the network, why, and what that costs.

It decides every `auto` of the settings and puts the decided settings into the context, also where its
result is used again; plan.json holds the decisions, pipeline.resolved.yaml settings that run as they are.
"""

from __future__ import annotations

from typing import Any

from medseg.config.load import load_run_config, resolved_yaml
from medseg.config.schema import PipelineConfig, RunConfig
from medseg.errors import StorageError
from medseg.pipeline.context import Context
from medseg.planning.plan import PLAN_FILE, Plan, read_plan
from medseg.provenance import write_json, write_text

STAGE = "plan"
RESOLVED_FILE = "pipeline.resolved.yaml"


def plan(context: Context) -> str:
    """One line for the dry run."""
    autos = context.settings.autos
    if autos:
        return f"look at the training cases and decide {', '.join(autos)}"
    patch = _patch(context.settings)
    return f"{context.settings.model.use}, {patch}"


def _patch(settings: PipelineConfig) -> str:
    size = settings.inference.window or (settings.training and settings.training.patch_size)
    return " x ".join(map(str, size)) if isinstance(size, tuple) else "whole images"


def run(context: Context) -> dict[str, Any]:
    """Decide what is left to the plan, predict memory and time; write plan.json and pipeline.resolved.yaml.

    Raises
    ------
    ConfigError
        A window or patch that does not fit network and images, or a budget that holds no training.
    ManifestError
        Training cases without a labelled voxel.
    """
    from medseg.pipeline.planned import make_plan

    found, config = make_plan(context)
    # The settings first: where the plan is, they are.
    write_text(context.run.path / RESOLVED_FILE, resolved_yaml(config))
    write_json(context.run.path / PLAN_FILE, found.to_json())
    for note in found.notes:
        context.reporter.note(note)
    _take(context, found, config)
    return {"text": _text(found, config), **_summary(found)}


def recall(context: Context) -> None:
    """Put the decided settings of an earlier attempt into the context.

    Raises
    ------
    StorageError
        The files of the plan are missing or damaged.
    SettingsError
        The settings that were written are damaged.
    """
    folder = context.run.path
    found = read_plan(folder)
    if not (folder / RESOLVED_FILE).is_file():
        raise StorageError(f"{folder / RESOLVED_FILE} is missing; repeat the plan with --only plan")
    decided = RunConfig.model_validate(load_run_config(folder / RESOLVED_FILE).config.model_dump())
    _take(context, found, decided)


def _take(context: Context, found: Plan, config: RunConfig) -> None:
    context.settings, context.prediction = config, found.prediction


def _summary(found: Plan) -> dict[str, Any]:
    value = found.to_json()
    names = ("spatial_dims", "in_channels", "parameters", "classes", "cases", "prediction")
    return {name: value.get(name) for name in names}


def _text(found: Plan, config: RunConfig) -> str:
    parameters = found.facts.get("parameters")
    size = f", {parameters / 1e6:.2f} M parameters" if parameters else ""
    text = f"{config.model.use} on {_patch(config)}{size}"
    return f"{text}; predicted {found.prediction.text}" if found.prediction else text
