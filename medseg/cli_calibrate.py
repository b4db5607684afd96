"""`medseg calibrate`: temperature and intervals of a bundle, from cases that it never saw."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from medseg.cli_options import AsJson, Finish, Quiet, Reporting

if TYPE_CHECKING:
    pass

Model = Annotated[
    str, typer.Argument(metavar="BUNDLE", help="Name of a shipped model, or folder of a bundle.")
]
Manifest = Annotated[
    Path, typer.Option("--manifest", help="CSV of cases with masks that the model was not trained on.")
]
Root = Annotated[
    Path | None,
    typer.Option("--root", help="Folder that its paths start from; the manifest's unless given."),
]
Split = Annotated[str, typer.Option("--split", help="Value of its column split, or all.")]
OutOfFold = Annotated[
    bool,
    typer.Option(
        "--out-of-fold",
        help="Of an ensemble: each case by the network that never saw its fold (column fold).",
    ),
]
Level = Annotated[float, typer.Option("--level", help="Coverage of the intervals of volumes.")]
Data = Annotated[
    str | None, typer.Option("--data", help="Which cases these are, in words, for the model card.")
]
Device = Annotated[str, typer.Option("--device", help="cpu or cuda.")]
Output = Annotated[
    Path, typer.Option("--output", "-o", help="Folder for the calibrated bundle (model/) and the tables.")
]


def add_calibrate(
    app: typer.Typer,
    *,
    reporting: Reporting,
    finish: Finish,
) -> None:
    """Add the command to the program.

    Parameters
    ----------
    app : typer.Typer
    reporting, finish
        See `cli_options`.
    """

    @app.command()
    def calibrate(
        model: Model,
        manifest: Manifest,
        output: Output,
        root: Root = None,
        split: Split = "validation",
        out_of_fold: OutOfFold = False,
        level: Level = 0.9,
        data: Data = None,
        device: Device = "cpu",
        as_json: AsJson = False,
        quiet: Quiet = False,
    ) -> None:
        """Fit how sure a model may say it is, and how far its volumes may be off.

        Writes a copy of the bundle with a temperature and intervals; weights and masks stay as they are. The tables
        beside it tell how reliable its probabilities are.
        """
        from medseg.pipeline.calibrate_model import CalibrateRequest, calibrate_model

        request = CalibrateRequest(
            manifest=manifest,
            root=root,
            split=split,
            out_of_fold=out_of_fold,
            level=level,
            data=data,
            device=device,
        )
        with reporting(quiet) as reporter:
            result = calibrate_model(model, output, request, reporter=reporter)
        finish(result, as_json=as_json)
