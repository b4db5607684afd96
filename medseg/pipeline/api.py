"""Run a pipeline file: what the CLI, notebooks and the node call."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from medseg.config.load import LoadedConfig, find_pipeline, load_run_config, resolved_yaml
from medseg.config.schema import PipelineConfig, decided
from medseg.errors import MedsegError, QualityError
from medseg.pipeline import check, evaluate, export, folds, plan, predict, report, search, send, train
from medseg.pipeline.context import Context
from medseg.pipeline.progress import Reporter, SilentReporter
from medseg.pipeline.result import Result
from medseg.pipeline.run_folder import RunFolder, find_or_new, only_one
from medseg.pipeline.runner import Stage, check_stages, describe, key_of, run_stages
from medseg.planning.plan import Plan, read_plan

STAGE_TABLE: tuple[Stage, ...] = (
    Stage(
        name="check",
        settings=("data", "labels", "regions", "ignore_value", "label_schemes"),
        run=check.run,
        wanted=lambda _: True,
        plan=check.plan,
        always=True,
    ),
    Stage(
        name="plan",
        settings=("budget", "model", "preprocess", "augment", "inference", "training", "compute"),
        run=plan.run,
        wanted=lambda _: True,
        plan=plan.plan,
        recall=plan.recall,
    ),
    Stage(
        name="search",
        settings=search.SETTINGS,
        run=search.run,
        wanted=lambda context: context.settings.search is not None,
        plan=search.plan,
        recall=search.recall,
    ),
    Stage(
        name="train",
        settings=("preprocess", "augment", "model", "training"),
        run=train.run,
        wanted=lambda context: context.settings.training is not None,
        plan=train.plan,
    ),
    Stage(
        name="predict",
        settings=(
            "model",
            "preprocess",
            "inference",
            "postprocess",
            "measure",
            "recognise",
            "gate",
            "flags",
            "evaluation",
            "report",
        ),
        run=predict.run,
        wanted=lambda _: True,
        plan=predict.plan,
    ),
    Stage(
        name="evaluate",
        settings=("evaluation", "recognise"),
        run=evaluate.run,
        wanted=lambda _: True,
        plan=evaluate.plan,
    ),
    Stage(name="export", settings=("export",), run=export.run, wanted=lambda _: True, plan=export.plan),
    Stage(name="report", settings=("report",), run=report.run, wanted=lambda _: True, plan=report.plan),
    Stage(
        name="send",
        settings=("pacs",),
        run=send.run,
        wanted=lambda context: context.settings.pacs is not None,
        plan=send.plan,
    ),
)


def run_pipeline(
    pipeline: Path,
    *,
    output: Path = Path("runs"),
    overrides: Sequence[str] = (),
    only: Sequence[str] = (),
    until: str | None = None,
    parallel_folds: int | None = None,
    reporter: Reporter | None = None,
) -> Result:
    """Run a pipeline file, or go on with the run of the same settings.

    Where torchrun started several processes, each calls this: process 0 does all, the others train along.

    Parameters
    ----------
    pipeline : Path
        YAML file; also looked for in ``pipelines/``.
    output : Path
        Folder that runs are kept in.
    overrides : sequence of str
        ``key=value`` settings.
    only : sequence of str
        Stages to repeat.
    until : str or None
        Last stage to run.
    parallel_folds : int or None
        Folds trained at the same time, instead of those of the settings.
    reporter : Reporter or None
        Who is told; nobody unless given.

    Returns
    -------
    Result

    Raises
    ------
    MedsegError
        What ended the run; finished stages stay and are used by the next attempt.
    """
    if not _one_of_several():
        return _run(pipeline, output, overrides, only, until, parallel_folds, reporter or SilentReporter())
    from medseg.pipeline import ranks
    from medseg.pipeline.fit import train_once

    with ranks.joined() as team:
        if team.rank > 0:
            ranks.follow(team, train_once)
            return Result(silent=True)
        result = _run(pipeline, output, overrides, only, until, parallel_folds, reporter or SilentReporter())
        ranks.dismiss()
        return result


def _one_of_several() -> bool:
    """Whether a launcher such as torchrun started this process as one of several."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1 and "RANK" in os.environ


def _run(
    pipeline: Path,
    output: Path,
    overrides: Sequence[str],
    only: Sequence[str],
    until: str | None,
    parallel_folds: int | None,
    reporter: Reporter,
) -> Result:
    loaded = load_run_config(find_pipeline(pipeline), overrides=overrides)
    run = find_or_new(output, pipeline=loaded.config.name, digest=loaded.digest)
    with run.locked():
        context = _started(run, loaded, reporter)
        context.parallel_folds = parallel_folds
        until = _last_stage(loaded.config, until)
        ran = run_stages(context, _until(until), only=only)
        return _result(context, ran=ran, until=until)


def run_fold(
    pipeline: Path,
    fold: int,
    *,
    output: Path = Path("runs"),
    overrides: Sequence[str] = (),
    reporter: Reporter | None = None,
) -> Result:
    """Train one fold of a cross-validation, for instance on one of several machines that share `output`.

    All of them work in the run folder of the same settings. One after the other they look at the data
    and prepare the cases; then each trains its fold, under a lock of that fold. A plain run uses what is
    done and makes the ensemble, the evaluation and the report of it.

    Parameters
    ----------
    pipeline, output, overrides, reporter
        As for `run_pipeline`.
    fold : int
        From 0.

    Raises
    ------
    ConfigError
        The settings do not test every fold, or have no such fold.
    StorageError
        The run, or this fold, is in use by another process.
    """
    reporter = reporter or SilentReporter()
    loaded = load_run_config(find_pipeline(pipeline), overrides=overrides)
    folds.checked_fold(loaded.config.data.split, fold)
    name = loaded.config.name
    with only_one(
        output, pipeline=name, waits=lambda: reporter.note("waits for another process: it prepares the data")
    ):
        run = find_or_new(output, pipeline=name, digest=loaded.digest)
        with run.locked():
            context = _started(run, loaded, reporter)
            run_stages(context, _until("plan"))
            context.stage_key = key_of(context, STAGE_TABLE, "train")
            folds.prepare_all(context)
    state = folds.train_fold(context, fold)
    failed = [{"case_id": f.case_id, "stage": f.stage, "error": f.text} for f in context.failures]
    return Result(
        exit_code=MedsegError.exit_code if failed else 0,
        path=folds.FoldFolder(run.path, fold).path,
        lines=(f"fold {fold} is trained; run the pipeline without --fold when all are, to gather them",),
        facts={"run": str(run.path), "fold": fold, "failed": failed, "trained": state.summary},
    )


@contextlib.contextmanager
def opened(
    pipeline: Path,
    *,
    output: Path = Path("runs"),
    overrides: Sequence[str] = (),
    until: str,
    reporter: Reporter,
) -> Iterator[Context]:
    """The run of a pipeline file, its stages done up to one, for work beyond them; locked while the block runs.

    Parameters
    ----------
    pipeline, output, overrides, reporter
        As for `run_pipeline`.
    until : str
        Last stage that must be done; a stage that the pipeline does not want is passed over.
    """
    loaded = load_run_config(find_pipeline(pipeline), overrides=overrides)
    run = find_or_new(output, pipeline=loaded.config.name, digest=loaded.digest)
    with run.locked():
        context = _started(run, loaded, reporter)
        run_stages(context, _until(until))
        yield context


def _started(run: RunFolder, loaded: LoadedConfig, reporter: Reporter) -> Context:
    """The context of a run whose folder is locked; its record says that it was begun."""
    # What another process wrote until it let go of the lock.
    run = RunFolder(run.path)
    run.start(
        pipeline=loaded.config.name,
        digest=loaded.digest,
        settings=resolved_yaml(loaded.config),
        command=[Path(sys.argv[0]).name, *sys.argv[1:]],
    )
    reporter.title(f"{loaded.config.name} · {run.path}")
    context = Context(settings=decided(loaded.config), run=run, reporter=reporter)
    os.environ.setdefault("OMP_NUM_THREADS", str(context.threads))
    return context


def plan_pipeline(
    pipeline: Path,
    *,
    output: Path = Path("runs"),
    overrides: Sequence[str] = (),
    reporter: Reporter | None = None,
) -> tuple[Result, Plan, str]:
    """Run the stages `check` and `plan`: the result, the plan, and the decided settings as YAML.

    Parameters
    ----------
    pipeline, output, overrides, reporter
        As for `run_pipeline`; a later run of the same settings goes on with this plan.
    """
    result = run_pipeline(pipeline, output=output, overrides=overrides, until="plan", reporter=reporter)
    folder, settings = (
        Path(result.facts["run"]),
        load_run_config(find_pipeline(pipeline), overrides=overrides),
    )
    if reporter is not None and settings.config.pacs is not None:
        context = Context(settings=settings.config, run=RunFolder(folder), reporter=reporter)
        reporter.note(f"a run ends with sending {send.plan(context)}")
    return result, read_plan(folder), (folder / plan.RESOLVED_FILE).read_text(encoding="utf-8")


def dry_run_pipeline(
    pipeline: Path,
    *,
    output: Path = Path("runs"),
    overrides: Sequence[str] = (),
    reporter: Reporter | None = None,
) -> Result:
    """Say what `run_pipeline` would do, and why. Writes nothing."""
    reporter = reporter or SilentReporter()
    loaded = load_run_config(find_pipeline(pipeline), overrides=overrides)
    run = find_or_new(output, pipeline=loaded.config.name, digest=loaded.digest)
    context = Context(settings=decided(loaded.config), run=run, reporter=reporter)
    lines = describe(context, _until(_last_stage(loaded.config, None)))
    reporter.title(f"{loaded.config.name} · {run.path}")
    reporter.table("", ("stage", "would do", "because"), lines)
    return Result(
        lines=("Nothing was written. Run it without --dry-run.",),
        facts={"stages": [{"stage": s, "action": a, "reason": r} for s, a, r in lines], "run": str(run.path)},
    )


def _last_stage(config: PipelineConfig, until: str | None) -> str | None:
    """Last stage to run, None for all; a search may say that the run ends with it."""
    check_stages([] if until is None else [until])
    order = [stage.name for stage in STAGE_TABLE]
    ends = config.search is not None and config.search.then == "stop"
    return "search" if ends and (until is None or until not in order[: order.index("search")]) else until


def _until(until: str | None) -> tuple[Stage, ...]:
    if until is None:
        return STAGE_TABLE
    names = [stage.name for stage in STAGE_TABLE]
    return STAGE_TABLE[: names.index(until) + 1]  # type: ignore[arg-type]


def _result(context: Context, *, ran: bool, until: str | None) -> Result:
    unmet = (
        context.run.stage("evaluate").summary.get("unmet", [])
        if until in (None, "evaluate", "report", "send")
        else []
    )
    failed = [{"case_id": f.case_id, "stage": f.stage, "error": f.text} for f in context.failures]
    lines = (
        []
        if ran
        else ["All stages are up to date (same settings, same files). Use --only STAGE to repeat one."]
    )
    lines += (
        [f"{len(failed)} case(s) failed: {', '.join(f['case_id'] for f in failed[:10])}"] if failed else []
    )
    lines += [f"below the required quality: {text}" for text in unmet]
    report_path = context.run.path / "report.html"
    code = MedsegError.exit_code if failed else QualityError.exit_code if unmet else 0
    return Result(
        exit_code=code,
        path=report_path if until in (None, "report", "send") and report_path.exists() else context.run.path,
        lines=tuple(lines),
        facts={"run": str(context.run.path), "failed": failed, "unmet": unmet},
    )
