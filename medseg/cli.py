"""Arguments in, exit code out. Heavy packages are imported by the command that needs them."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from medseg import __version__
from medseg.cli_about import add_about_commands
from medseg.cli_bench import bench
from medseg.cli_calibrate import add_calibrate
from medseg.cli_data import data_commands
from medseg.cli_deidentify import add_deidentify
from medseg.cli_evaluate import add_evaluate
from medseg.cli_explain import add_explain_commands
from medseg.cli_files import add_file_commands
from medseg.cli_models import add_model_commands
from medseg.cli_predict import add_predict
from medseg.cli_review import add_review
from medseg.cli_run import add_run_commands
from medseg.cli_send import add_send
from medseg.cli_serve import serve
from medseg.errors import Interrupted, MedsegError

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


add_run_commands(app, reporting=_reporter, finish=_finish)
add_predict(app, reporting=_reporter, finish=_finish)
add_file_commands(app, finish=_finish)
add_about_commands(app)
app.add_typer(data_commands(_finish), name="data")
add_evaluate(app, reporting=_reporter, finish=_finish)
add_calibrate(app, reporting=_reporter, finish=_finish)
add_review(app, reporting=_reporter, finish=_finish)
add_model_commands(app, _finish)
add_explain_commands(app, reporting=_reporter, finish=_finish)
add_deidentify(app, reporting=_reporter, finish=_finish)
add_send(app)
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
