"""Commands on models: conversion of those of other programs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from medseg.pipeline.result import Result


def import_command(finish: Callable[..., None]) -> Callable[..., None]:
    """The command `import-model`; `finish` prints a result and exits with its code."""

    def import_model(
        kind: Annotated[str, typer.Argument(help="Program that trained it: nnunet.")],
        folder: Annotated[
            Path, typer.Argument(help="What it left; of nnU-Net v2 the folder with plans.json and fold_0.")
        ],
        output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the bundle.")],
        folds: Annotated[
            str | None,
            typer.Option(help="Comma-separated folds, such as 0,1 or all; all complete ones unless given."),
        ] = None,
        checkpoint: Annotated[
            str | None, typer.Option(help="File in the folder of a fold; checkpoint_final.pth unless given.")
        ] = None,
        trainer: Annotated[
            str | None,
            typer.Option(
                help="A trainer class of your own that builds the network of the plans; taken at your word."
            ),
        ] = None,
        mirroring: Annotated[
            bool,
            typer.Option(
                "--mirroring/--no-mirroring", help="Predict mirrored images, too, where it was trained so."
            ),
        ] = True,
        name: Annotated[str | None, typer.Option(help="Name of the bundle.")] = None,
        as_json: Annotated[bool, typer.Option("--json", help="Machine-readable result on stdout.")] = False,
    ) -> None:
        """Convert a model of another program into a bundle; nothing that its files name is run."""
        from medseg.pipeline.model_source import import_model as run_import

        result: Result = run_import(
            kind,
            folder,
            output,
            folds=folds,
            checkpoint=checkpoint,
            trainer=trainer,
            mirroring=mirroring,
            name=name,
        )
        finish(result, as_json=as_json)

    return import_model
