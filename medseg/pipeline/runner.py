"""Runs the stages of a pipeline in order, and only those that something has changed for."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from medseg.errors import ConfigError
from medseg.pipeline.context import Context
from medseg.pipeline.run_folder import StageState, now, stage_key

StageName = Literal["check", "plan", "search", "train", "predict", "evaluate", "export", "report", "send"]
STAGES: tuple[StageName, ...] = get_args(StageName)


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """One step of a pipeline.

    Parameters
    ----------
    name : str
    settings : tuple of str
        Sections of the YAML that it depends on.
    run : callable (Context) -> dict
        Does the work, writes files, returns a JSON-able summary. Its key ``text`` is for people.
    wanted : callable (Context) -> bool
        Whether the pipeline has this stage.
    plan : callable (Context) -> str
        What it would do, in one line.
    always : bool
        Runs every time because it finds out what the other stages depend on.
    recall : callable (Context) -> None
        Called instead of `run` where an earlier result is used again, to put into the context what later
        stages need of it. Writes nothing.
    """

    name: StageName
    settings: tuple[str, ...]
    run: Callable[[Context], dict[str, Any]]
    wanted: Callable[[Context], bool]
    plan: Callable[[Context], str]
    always: bool = False
    recall: Callable[[Context], None] = lambda _: None


def run_stages(
    context: Context, stages: Sequence[Stage], *, only: Sequence[str] = (), upstream: str = ""
) -> bool:
    """Run what is not up to date; whether anything was run.

    Parameters
    ----------
    context : Context
    stages : sequence of Stage
        In order; each depends on those before it.
    only : sequence of str
        Stages to repeat whatever their state; the ones before them must be done.
    upstream : str
        What the first stage depends on besides its settings.
    """
    check_stages(only)
    ran = False
    for stage in stages:
        if not stage.wanted(context):
            continue
        key = _key(context, stage, upstream)
        state = context.run.stage(stage.name)
        fresh = state.done and state.key == key
        repeat = stage.name in only or (not only and (stage.always or not fresh))
        if only and not fresh and not repeat and not stage.always:
            _refuse_gap(stage, only)
        if repeat or stage.always:
            state = _run_one(context, stage, key)
            ran = ran or not (stage.always and fresh)
        else:
            context.recall_failures(stage.name, state)
            stage.recall(context)
            context.reporter.stage_done(stage.name, str(state.summary.get("text", "")), None)
        upstream = context.upstream_of(key, state)
    return ran


def describe(context: Context, stages: Sequence[Stage]) -> list[tuple[str, str, str]]:
    """For a dry run: stage, what it would do, and why (or that it is reused). Nothing is written."""
    lines: list[tuple[str, str, str]] = []
    upstream, stale = "", False
    for stage in stages:
        if not stage.wanted(context):
            continue
        key = _key(context, stage, upstream)
        state = context.run.stage(stage.name)
        fresh = state.done and state.key == key and not stale
        stale = stale or not fresh
        why = "up to date" if fresh else _why(state, key, stale)
        lines.append((stage.name, stage.plan(context), why))
        if fresh:
            stage.recall(context)
        upstream = context.upstream_of(key, state)
    return lines


def key_of(context: Context, stages: Sequence[Stage], name: str) -> str:
    """The key that a stage has now, all stages before it being done."""
    upstream = ""
    for stage in stages:
        if stage.wanted(context):
            key = _key(context, stage, upstream)
            if stage.name == name:
                return key
            upstream = context.upstream_of(key, context.run.stage(stage.name))
    raise ConfigError(f"this pipeline has no stage {name}")


def _why(state: StageState, key: str, stale: bool) -> str:
    if not state.key:
        return "never done"
    if not state.done:
        return "begun, not ended"
    return "its settings or inputs changed" if state.key != key else "a stage before it runs again"


def check_stages(only: Sequence[str]) -> None:
    """Refuse names that are no stages.

    Raises
    ------
    ConfigError
    """
    unknown = [name for name in only if name not in STAGES]
    if unknown:
        raise ConfigError(f"no stage {unknown[0]!r}; stages: {', '.join(STAGES)}")


def _refuse_gap(stage: Stage, only: Sequence[str]) -> None:
    if STAGES.index(stage.name) < max(STAGES.index(name) for name in only):
        raise ConfigError(
            f"--only {' '.join(only)} needs the stage {stage.name}, which is not done or out of date; "
            "run the whole pipeline, or name that stage as well"
        )


def _key(context: Context, stage: Stage, upstream: str) -> str:
    settings = {name: context.section(name) for name in stage.settings}
    return stage_key(stage.name, settings=settings, upstream=upstream)


def _run_one(context: Context, stage: Stage, key: str) -> StageState:
    before = context.run.stage(stage.name)
    context.resuming, context.stage_key = before.key == key and not before.done, key
    context.reporter.stage_started(stage.name, stage.plan(context))
    state = StageState(key=key, started=now())
    context.run.set_stage(stage.name, state)
    context.run.log("stage started", stage=stage.name)
    begin = time.monotonic()
    try:
        state.summary = stage.run(context)
        state.outputs = state.summary.pop("outputs", {})
        state.summary["failed"] = {f.case_id: f.text for f in context.failures if f.stage == stage.name}
    except BaseException as err:
        context.run.log("stage failed", stage=stage.name, error=type(err).__name__)
        raise
    state.seconds = round(time.monotonic() - begin, 3)
    state.peak_ram_mb = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1)
    state.done = True
    context.run.set_stage(stage.name, state)
    context.run.log("stage done", stage=stage.name, seconds=state.seconds, peak_ram_mb=state.peak_ram_mb)
    context.reporter.stage_done(stage.name, str(state.summary.get("text", "")), state.seconds)
    return state
