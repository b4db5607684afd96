"""Arguments in, exit code out. Heavy packages are imported by the command that needs them."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from medseg import __version__
from medseg.cli_bench import bench
from medseg.cli_calibrate import add_calibrate
from medseg.cli_data import data_commands
from medseg.cli_evaluate import add_evaluate
from medseg.cli_explain import add_explain_commands
from medseg.cli_models import add_model_commands
from medseg.cli_options import AsJson, Quiet
from medseg.cli_review import add_review
from medseg.cli_serve import serve
from medseg.errors import ConfigError, Interrupted, MedsegError

if TYPE_CHECKING:
    from medseg.console import ConsoleReporter
    from medseg.pipeline.result import Result

app = typer.Typer(
    name="medseg",
    help="Medical-image segmentation from the scanner to a checked result. Research use only, not a medical device.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

PipelineArgument = Annotated[Path, typer.Argument(help="Pipeline YAML; also looked for in ./pipelines/.")]
SetOption = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override a setting.")
]
OutputOption = Annotated[Path, typer.Option("--output", "-o", help="Folder that runs are kept in.")]


@app.command()
def run(
    pipeline: PipelineArgument,
    output: OutputOption = Path("runs"),
    overrides: SetOption = None,
    only: Annotated[
        list[str] | None, typer.Option("--only", metavar="STAGE", help="Repeat this stage.")
    ] = None,
    until: Annotated[str | None, typer.Option("--until", metavar="STAGE", help="Last stage to run.")] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be done and why; write nothing.")
    ] = False,
    processes: Annotated[
        int,
        typer.Option(
            min=1, help="Processes that train together on this machine; each has its part of a batch."
        ),
    ] = 1,
    fold: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="Train this fold alone, in the run of the same settings; several machines may do so in one folder. "
            "A run without it gathers.",
        ),
    ] = None,
    parallel_folds: Annotated[
        int | None, typer.Option(min=1, help="Folds trained at the same time, in a process each.")
    ] = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Run all stages of a pipeline: check, plan, search, train, predict, evaluate, export, report.

    The stages search and train are there where the YAML has such a section. A run that was interrupted or
    killed goes on with the same command; stages whose settings and inputs did not change are not done again.
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
    with _reporter(quiet) as reporter:
        if dry_run:
            result = dry_run_pipeline(pipeline, output=output, overrides=overrides or [], reporter=reporter)
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
    _finish(result, as_json=as_json)


def without_option(arguments: list[str], name: str) -> list[str]:
    """Command-line arguments without an option and its value."""
    found = list(arguments)
    for index, argument in enumerate(arguments):
        if argument == name:
            del found[index : index + 2]
        elif argument.startswith(f"{name}="):
            del found[index]
    return found


def _stage_command(stage: str, text: str) -> None:
    def command(
        pipeline: PipelineArgument,
        output: OutputOption = Path("runs"),
        overrides: SetOption = None,
        as_json: AsJson = False,
        quiet: Quiet = False,
    ) -> None:
        from medseg.pipeline.api import run_pipeline

        with _reporter(quiet) as reporter:
            result = run_pipeline(
                pipeline, output=output, overrides=overrides or [], until=stage, reporter=reporter
            )
        _finish(result, as_json=as_json)

    app.command(name=stage, help=text)(command)


_stage_command("train", "Run a pipeline up to its training.")
_stage_command("report", "Run a pipeline up to its report.")


@app.command()
def plan(
    pipeline: PipelineArgument,
    output: OutputOption = Path("runs"),
    overrides: SetOption = None,
    resolved: Annotated[
        bool, typer.Option("--resolved", help="Print the decided settings, a pipeline that runs as it is.")
    ] = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Look at the data and say what will be trained, why, and what that takes; train nothing.

    Every `auto` of the settings is decided here. A run with the same settings goes on with this very plan.
    """
    from medseg.console import print_table
    from medseg.pipeline.api import plan_pipeline

    with _reporter(quiet) as reporter:
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


@app.command()
def predict(
    inputs: Annotated[list[Path], typer.Argument(help="Files or folders of DICOM, NIfTI, PNG, JPEG, TIFF.")],
    model: Annotated[
        str, typer.Option("--model", "-m", help="Name of a shipped model, or folder of a bundle.")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the results.")],
    formats: Annotated[
        list[str],
        typer.Option(
            "--format",
            help="Comma-separated, or repeated: nifti, dicom-seg, dicom-seg-labelmap, rtstruct, dicom-sr, dicom-pr, "
            "dicom-sc, dicom-pdf, png; the page of each case: html, html-zh; maps as NIfTI: entropy, disagreement, "
            "variance, probabilities; of recognised targets: instance-seg, instance-sr, coco.",
        ),
    ] = ["nifti,dicom-seg,png"],  # noqa: B006 - read, never changed
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    threads: Annotated[int | None, typer.Option(min=1, help="Processor threads; all unless given.")] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Do cases again whose results are up to date.")
    ] = False,
    series: Annotated[
        str | None,
        typer.Option(
            help="Which DICOM volume of a study: key of medseg inspect, series number or UID; all: each is a case."
        ),
    ] = None,
    fold: Annotated[
        int | None,
        typer.Option(
            min=0, help="Of an ensemble, the one network that never saw this fold; all unless given."
        ),
    ] = None,
    max_ram: Annotated[
        str | None, typer.Option("--max-ram", help="Ceiling of memory, such as 2GB; the result is the same.")
    ] = None,
    parallel: Annotated[
        int,
        typer.Option(
            min=1, help="Worker processes that share cores and memory; on a cluster, of each machine."
        ),
    ] = 1,
    cluster: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS",
            help="Ray cluster with a shared file system: auto, HOST:PORT or ray://HOST:PORT.",
        ),
    ] = None,
    engine: Annotated[
        str,
        typer.Option(
            help="What runs the network on a CPU: torch (the same mask on every run), auto (the fastest that gives "
            "torch's masks, measured once), openvino, onnxruntime, compile, openvino_int8."
        ),
    ] = "torch",
    recognise: Annotated[
        list[str] | None,
        typer.Option(
            metavar="LABELS",
            help="Tell each connected object of these labels or regions (comma-separated, repeated, or all) by "
            "itself: place, size, confidence. Those that the model names unless given.",
        ),
    ] = None,
    language: Annotated[
        str, typer.Option(help="Language of the pages: en or zh; html-zh adds one in Chinese.")
    ] = "en",
    accept_unlike: Annotated[
        bool, typer.Option("--accept-unlike", help="Segment images that the model's input gate refuses.")
    ] = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Segment images with a trained model; needs no YAML.

    The same command goes on where it was stopped; finished cases are not done again.
    """
    from medseg.pipeline.predict_folder import predict_folder

    with _reporter(quiet) as reporter:
        result = predict_folder(
            inputs,
            model=model,
            output=output,
            formats=",".join(formats),
            device=device,
            threads=threads,
            overwrite=overwrite,
            accept_unlike=accept_unlike,
            series=series,
            fold=fold,
            max_ram=max_ram,
            parallel=parallel,
            cluster=cluster,
            engine=engine,
            recognise=None if recognise is None else ",".join(recognise),
            language=language,
            reporter=reporter,
        )
    _finish(result, as_json=as_json)


@app.command()
def inspect(
    paths: Annotated[list[Path], typer.Argument(help="Files or folders, in any mess.")],
    identify: Annotated[bool, typer.Option("--identify", help="Tell UIDs, too (with --json).")] = False,
    as_json: AsJson = False,
) -> None:
    """Show what a folder holds: series, grid, spacing, orientation, tilt, gaps, transfer syntax, problems."""
    from medseg.console import print_table
    from medseg.pipeline.inspect_folder import COLUMNS, inspect_folder, table_rows

    result = inspect_folder(paths, identify=identify)
    if as_json:
        print(json.dumps(result.to_json(), indent=2))
    else:
        print_table(COLUMNS, table_rows(result.facts))
        for line in result.lines:
            print(f"  {line}")
    if result.exit_code:
        raise typer.Exit(result.exit_code)


@app.command()
def convert(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="INPUT", help="File or folder: DICOM, NIfTI, NRRD, MetaImage; masks, SEG, RTSTRUCT."
        ),
    ],
    output: Annotated[
        Path, typer.Argument(help=".nii.gz, .nrrd, .mha, .dcm (for masks), or a folder for all images.")
    ],
    to: Annotated[
        str | None,
        typer.Option(
            help="nifti, nrrd, mha; dicom-seg, dicom-seg-labelmap, dicom-seg-fractional, rtstruct. "
            "By the ending of OUTPUT unless given."
        ),
    ] = None,
    reference: Annotated[
        Path | None, typer.Option(help="Images that a mask belongs to: file or folder of a DICOM series.")
    ] = None,
    series: Annotated[
        str | None, typer.Option(help="Which DICOM volume: key of medseg inspect, series number or UID.")
    ] = None,
    labels: Annotated[
        Path | None,
        typer.Option(help="Names and codes of the mask's values: YAML with labels:, or a mask's JSON."),
    ] = None,
    resample: Annotated[
        str, typer.Option(help="A mask on another grid than its images: never (refuse) or nearest.")
    ] = "never",
    straighten: Annotated[
        bool, typer.Option("--straighten", help="Resample a gantry-tilted series onto a box-shaped grid.")
    ] = False,
    suv: Annotated[bool, typer.Option("--suv", help="PET in body-weight SUV instead of Bq/ml.")] = False,
    algorithm: Annotated[str, typer.Option(help="What made the mask, for DICOM objects.")] = "medseg convert",
    algorithm_version: Annotated[str, typer.Option(help="Its version.")] = __version__,
    as_json: AsJson = False,
) -> None:
    """Convert images and masks, voxel by voxel; nothing is resampled unless asked for."""
    from medseg.pipeline.convert import ConvertOptions, checked_choices
    from medseg.pipeline.convert import convert as run_convert

    target, how = checked_choices(to, resample)
    options = ConvertOptions(
        to=target,
        reference=reference,
        series=series,
        labels=labels,
        resample=how,
        straighten=straighten,
        suv=suv,
        algorithm=algorithm,
        algorithm_version=algorithm_version,
    )
    _finish(run_convert(source, output, options), as_json=as_json)


@app.command()
def models(as_json: AsJson = False) -> None:
    """List the models that come with medseg."""
    from medseg.models.bundle import list_bundles

    found = list_bundles()
    if as_json:
        print(json.dumps([bundle.describe() for bundle in found], indent=2))
        return
    for bundle in found:
        about = bundle.describe()
        print(f"{about['name']} {about['version']}  {about['description']}\n    licence: {about['licence']}")


@app.command()
def schema(
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="File to write; stdout unless given.")
    ] = None,
) -> None:
    """Write the JSON Schema of pipeline files, for editors."""
    from medseg.config.editor_schema import schema_text
    from medseg.provenance import write_text

    text = schema_text()
    if output is None:
        sys.stdout.write(text)
    else:
        write_text(output, text)


@app.command()
def doctor(as_json: AsJson = False) -> None:
    """Check this machine: packages, codecs, memory, disk; each problem with its fix."""
    from medseg.doctor import examine

    findings = examine()
    if as_json:
        print(json.dumps([f.to_json() for f in findings], indent=2))
    else:
        for finding in findings:
            print(f"  {finding.level:<5} {finding.text}")
    if any(finding.level == "error" for finding in findings):
        raise typer.Exit(4)


@app.callback(invoke_without_command=True)
def _main(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False,
) -> None:
    if version:
        print(f"medseg {__version__}")
        raise typer.Exit
    logging.basicConfig(level=logging.ERROR, format="%(levelname)s %(message)s")
    context.obj = {"debug": debug}


@contextlib.contextmanager
def _reporter(quiet: bool) -> Iterator[ConsoleReporter]:
    """A console reporter for the time of a command."""
    from medseg.console import ConsoleReporter, stderr_console

    reporter = ConsoleReporter(stderr_console(quiet=quiet))
    try:
        yield reporter
    finally:
        reporter.close()


def _finish(result: Result, *, as_json: bool) -> None:
    """Print where the result lies, last; exit with its code."""
    if result.silent:
        return
    if as_json:
        print(json.dumps(result.to_json(), indent=2))
    else:
        for line in result.lines:
            print(line, file=sys.stderr)
        if result.path is not None:
            print(result.path)
    if result.exit_code:
        raise typer.Exit(result.exit_code)


app.add_typer(data_commands(_finish), name="data")
add_evaluate(app, reporting=_reporter, finish=_finish)
add_calibrate(app, reporting=_reporter, finish=_finish)
add_review(app, reporting=_reporter, finish=_finish)
add_model_commands(app, _finish)
add_explain_commands(app, reporting=_reporter, finish=_finish)
app.command()(bench)
app.command()(serve)


def main() -> None:
    """Entry point of the `medseg` command."""
    debug = "--debug" in sys.argv
    as_json = "--json" in sys.argv
    try:
        app()
    except MedsegError as err:
        if debug:
            raise
        _report_error(str(err), err.exit_code, as_json=as_json)
    except KeyboardInterrupt:
        _report_error("stopped; go on with the same command", Interrupted.exit_code, as_json=as_json)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(128 + signal.SIGPIPE)
    except Exception as err:
        if debug:
            raise
        text = f"internal error, please report it: {type(err).__name__} (run again with --debug for the traceback)"
        _report_error(text, 70, as_json=as_json)


def _report_error(text: str, code: int, *, as_json: bool) -> None:
    print(text if "\n" in text else f"error: {text}", file=sys.stderr)
    if as_json:
        print(json.dumps({"error": text, "exit_code": code}))
    sys.exit(code)


if __name__ == "__main__":
    main()
