"""`medseg run`, `train`, `report` and `plan`: a pipeline, whole, up to a stage, or only planned."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from medseg.cli_options import AsJson, Finish, Quiet, Reporting
from medseg.errors import ConfigError

PipelineArgument = Annotated[Path, typer.Argument(help="Pipeline YAML; also looked for in ./pipelines/.")]
SetOption = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override a setting.")
]
OutputOption = Annotated[Path, typer.Option("--output", "-o", help="Folder that runs are kept in.")]
FoldOption = Annotated[
    int | None,
    typer.Option(
        min=0,
        help="Train this fold alone, in the run of the same settings; several machines may do so in one folder. "
        "A run without it gathers.",
    ),
]


def add_run_commands(app: typer.Typer, *, reporting: Reporting, finish: Finish) -> None:
    """Add the commands to the program.

    Parameters
    ----------
    app : typer.Typer
    reporting, finish
        See `cli_options`.
    """
    _add_run(app, reporting=reporting, finish=finish)
    _add_stage(app, "train", "Run a pipeline up to its training.", reporting=reporting, finish=finish)
    _add_stage(app, "report", "Run a pipeline up to its report.", reporting=reporting, finish=finish)
    _add_plan(app, reporting=reporting)


def _add_run(app: typer.Typer, *, reporting: Reporting, finish: Finish) -> None:
    @app.command()
    def run(
        pipeline: PipelineArgument,
        output: OutputOption = Path("runs"),
        overrides: SetOption = None,
        only: Annotated[
            list[str] | None, typer.Option("--only", metavar="STAGE", help="Repeat this stage.")
        ] = None,
        until: Annotated[
            str | None, typer.Option("--until", metavar="STAGE", help="Last stage to run.")
        ] = None,
        dry_run: Annotated[
            bool, typer.Option("--dry-run", help="Say what would be done and why; write nothing.")
        ] = False,
        processes: Annotated[
            int,
            typer.Option(
                min=1, help="Processes that train together on this machine; each has its part of a batch."
            ),
        ] = 1,
        fold: FoldOption = None,
        parallel_folds: Annotated[
            int | None, typer.Option(min=1, help="Folds trained at the same time, in a process each.")
        ] = None,
        as_json: AsJson = False,
        quiet: Quiet = False,
    ) -> None:
        """Run all stages of a pipeline: check, plan, search, train, predict, evaluate, export, report, send.

        The stages search, train and send are there where the YAML has such a section, for send `pacs`. A run that was
        interrupted or killed goes on with the same command; stages whose settings and inputs did not change are not
        done again, and what was sent is not sent again.
        On several machines, start it on each by torchrun.
        """
        if processes > 1 and not dry_run:
            from medseg.training.launch import launch

            raise typer.Exit(launch(processes, without_option(sys.argv[1:], "--processes")))
        from medseg.pipeline.api import dry_run_pipeline, run_fold, run_pipeline

        if fold is not None and (only or dry_run or parallel_folds):
            raise ConfigError(
                "--fold trains one fold and nothing else; leave out --only, --dry-run, --parallel-folds"
            )
        with reporting(quiet) as reporter:
            if dry_run:
                result = dry_run_pipeline(
                    pipeline, output=output, overrides=overrides or [], reporter=reporter
                )
            elif fold is not None:
                result = run_fold(pipeline, fold, output=output, overrides=overrides or [], reporter=reporter)
            else:
                result = run_pipeline(
                    pipeline,
                    output=output,
                    overrides=overrides or [],
                    only=only or [],
                    parallel_folds=parallel_folds,
                    until=until,
                    reporter=reporter,
                )
        finish(result, as_json=as_json)


def _add_stage(app: typer.Typer, stage: str, text: str, *, reporting: Reporting, finish: Finish) -> None:
    """Add a command that runs a pipeline up to one stage."""

    def command(
        pipeline: PipelineArgument,
        output: OutputOption = Path("runs"),
        overrides: SetOption = None,
        as_json: AsJson = False,
        quiet: Quiet = False,
    ) -> None:
        from medseg.pipeline.api import run_pipeline

        with reporting(quiet) as reporter:
            result = run_pipeline(
                pipeline, output=output, overrides=overrides or [], until=stage, reporter=reporter
            )
        finish(result, as_json=as_json)

    app.command(name=stage, help=text)(command)


def _add_plan(app: typer.Typer, *, reporting: Reporting) -> None:
    @app.command()
    def plan(
        pipeline: PipelineArgument,
        output: OutputOption = Path("runs"),
        overrides: SetOption = None,
        resolved: Annotated[
            bool,
            typer.Option("--resolved", help="Print the decided settings, a pipeline that runs as it is."),
        ] = False,
        as_json: AsJson = False,
        quiet: Quiet = False,
    ) -> None:
        """Look at the data and say what will be trained, why, and what that takes; train nothing.

        Every `auto` of the settings is decided here. A run with the same settings goes on with this very plan.
        """
        from medseg.console import print_table
        from medseg.pipeline.api import plan_pipeline

        with reporting(quiet) as reporter:
            result, found, settings = plan_pipeline(
                pipeline, output=output, overrides=overrides or [], reporter=reporter
            )
        if as_json:
            print(json.dumps(result.to_json() | {"plan": found.to_json()}, indent=2))
        elif resolved:
            print(settings, end="")
        else:
            print_table(("setting", "value", "because"), found.rows())
            print(
                "\n".join(
                    ["", *found.notes, f"predicted: {found.prediction.text}" if found.prediction else ""]
                ).rstrip()
            )
            print(f"{result.path}", file=sys.stderr)
        if result.exit_code:
            raise typer.Exit(result.exit_code)


def without_option(arguments: list[str], name: str) -> list[str]:
    """Command-line arguments without an option and its value."""
    found = list(arguments)
    for index, argument in enumerate(arguments):
        if argument == name:
            del found[index : index + 2]
        elif argument.startswith(f"{name}="):
            del found[index]
    return found
