"""What several commands share: options, and what `cli` hands to the modules of single commands."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Annotated, TypeAlias

import typer

if TYPE_CHECKING:
    from medseg.console import ConsoleReporter

AsJson = Annotated[bool, typer.Option("--json", help="Machine-readable result on stdout.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")]
SetOption = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override a setting of the pipeline.")
]
Reporting: TypeAlias = "Callable[[bool], AbstractContextManager[ConsoleReporter]]"
"""Gives a reporter for the time of the command; takes whether it is silent."""
Finish: TypeAlias = Callable[..., None]
"""Prints a `Result` and exits with its code; takes `as_json`."""
