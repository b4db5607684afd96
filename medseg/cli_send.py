"""Commands `send` and `echo`: DICOM files to an archive by hand."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from medseg.cli_options import AsJson
from medseg.errors import MissingPackageError

Config = Annotated[
    Path,
    typer.Option("--config", "-c", help="YAML with `destinations`: of its own, or of a node."),
]


@contextlib.contextmanager
def _extra() -> Iterator[None]:
    """Say which extra is needed where an import of the block fails."""
    try:
        yield
    except ImportError as err:
        raise MissingPackageError(f"sending needs {err.name}; pip install 'medseg[pacs]'") from err


def add_send(app: typer.Typer) -> None:
    """Add the commands to an application."""
    app.command()(send)
    app.command()(echo)


def send(
    files: Annotated[list[Path], typer.Argument(help="DICOM files, or folders of them.")],
    to: Annotated[str, typer.Option("--to", help="Name of a destination in the YAML.")],
    config: Config,
    retry_for: Annotated[
        str,
        typer.Option(
            "--retry-for", help="How long to go on trying what the archive does not take, such as 5min."
        ),
    ] = "1min",
    as_json: AsJson = False,
) -> None:
    """Send DICOM files to an archive, by C-STORE or STOW-RS as its destination says.

    Nothing is sent but what is named here. An instance that the archive has already is no error.
    """
    with _extra():
        from medseg.pacs.send_files import send_files
    report = send_files(files, to=to, config=config, retry_for=retry_for)
    if as_json:
        print(json.dumps(report.to_json(), indent=2))
    else:
        for file in report.files:
            line = f"{file.state:9}{file.path}{f': {file.reason}' if file.reason else ''}"
            # A name may hold line ends and commands for the terminal.
            print("".join(c if c.isprintable() else "\ufffd" for c in line), file=sys.stderr)
        print(report.text)
    if report.exit_code:
        raise typer.Exit(report.exit_code)


def echo(
    to: Annotated[str, typer.Argument(help="Name of a destination in the YAML.")],
    config: Config,
) -> None:
    """Ask an archive whether it is there and lets us in: C-ECHO, or a query that finds nothing."""
    with _extra():
        from medseg.pacs.send_files import echo_destination
    print(echo_destination(to, config))
