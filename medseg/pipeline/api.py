"""Run a pipeline file: what the CLI, notebooks and the node call."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from medseg.config.load import find_pipeline, load_run_config, resolved_yaml
from medseg.config.schema import decided
from medseg.errors import MedsegError, QualityError
from medseg.pipeline import check, evaluate, export, plan, predict, report, train
from medseg.pipeline.context import Context
from medseg.pipeline.progress import Reporter, SilentReporter
from medseg.pipeline.result import Result
from medseg.pipeline.run_folder import RunFolder, find_or_new
from medseg.pipeline.runner import Stage, describe, run_stages

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
        settings=("evaluation",),
        run=evaluate.run,
        wanted=lambda _: True,
        plan=evaluate.plan,
    ),
    Stage(name="export", settings=("export",), run=export.run, wanted=lambda _: True, plan=export.plan),
    Stage(name="report", settings=("report",), run=report.run, wanted=lambda _: True, plan=report.plan),
)


def run_pipeline(
    pipeline: Path,
    *,
    output: Path = Path("runs"),
    overrides: Sequence[str] = (),
    only: Sequence[str] = (),
    until: str | None = None,
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
        return _run(pipeline, output, overrides, only, until, reporter or SilentReporter())
    from medseg.pipeline import ranks
    from medseg.pipeline.fit import train_part

    with ranks.joined() as team:
        if team.rank > 0:
            ranks.follow(team, train_part)
            return Result(silent=True)
        result = _run(pipeline, output, overrides, only, until, reporter or SilentReporter())
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
    reporter: Reporter,
) -> Result:
    loaded = load_run_config(find_pipeline(pipeline), overrides=overrides)
    run = find_or_new(output, pipeline=loaded.config.name, digest=loaded.digest)
    with run.locked():
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
        ran = run_stages(context, _until(until), only=only)
        return _result(context, ran=ran, until=until)


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
    lines = describe(context, STAGE_TABLE)
    reporter.title(f"{loaded.config.name} · {run.path}")
    reporter.table("", ("stage", "would do", "because"), lines)
    return Result(
        lines=("Nothing was written. Run it without --dry-run.",),
        facts={"stages": [{"stage": s, "action": a, "reason": r} for s, a, r in lines], "run": str(run.path)},
    )


def _until(until: str | None) -> tuple[Stage, ...]:
    if until is None:
        return STAGE_TABLE
    names = [stage.name for stage in STAGE_TABLE]
    return STAGE_TABLE[: names.index(until) + 1]  # type: ignore[arg-type]


def _result(context: Context, *, ran: bool, until: str | None) -> Result:
    unmet = (
        context.run.stage("evaluate").summary.get("unmet", [])
        if until in (None, "evaluate", "report")
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
        path=report_path if until in (None, "report") and report_path.exists() else context.run.path,
        lines=tuple(lines),
        facts={"run": str(context.run.path), "failed": failed, "unmet": unmet},
    )
