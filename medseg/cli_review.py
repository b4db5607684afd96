"""`medseg review`: which results to look at first, out for correction and back."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from medseg.cli_options import AsJson, Finish, Quiet, Reporting

if TYPE_CHECKING:
    pass

Run = Annotated[Path, typer.Argument(metavar="RUN", help="Run folder, or output of medseg predict.")]
First = Annotated[
    int, typer.Option("--first", "-n", min=1, help="Cases to export or open, those that need it most first.")
]
Cases = Annotated[
    list[str] | None, typer.Option("--case", metavar="ID", help="These cases instead; may be repeated.")
]
Export = Annotated[
    Path | None,
    typer.Option(
        "--export", help="Folder for images and masks to correct, with label names for the viewers."
    ),
]
Open = Annotated[
    Literal["slicer", "itksnap"] | None,
    typer.Option("--open", help="Export, and open one case after the other in 3D Slicer or ITK-SNAP."),
]
Import = Annotated[
    Path | None,
    typer.Option(
        "--import", help="Folder with corrected masks (NIfTI, .seg.nrrd, DICOM SEG) and review.json."
    ),
]
SignOff = Annotated[
    list[Path] | None,
    typer.Option("--signoff", help="review.json saved from the report page; may be repeated."),
]
Images = Annotated[
    list[Path] | None,
    typer.Option("--images", help="For medseg predict: files or folders that were predicted; found by hash."),
]
Manifest = Annotated[
    Path | None,
    typer.Option("--manifest", help="For medseg predict: the list that the model was trained on."),
]
Model = Annotated[
    str | None,
    typer.Option("--model", "-m", help="Bundle to fine-tune, where the results do not lead to it."),
]
Output = Annotated[
    Path | None,
    typer.Option("--output", "-o", help="Folder of review.csv and the new lists; RUN/review unless given."),
]


def add_review(
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
    def review(
        run: Run,
        first: First = 10,
        cases: Cases = None,
        export: Export = None,
        open_with: Open = None,
        take_back: Import = None,
        signoff: SignOff = None,
        images: Images = None,
        manifest: Manifest = None,
        model: Model = None,
        output: Output = None,
        as_json: AsJson = False,
        quiet: Quiet = False,
    ) -> None:
        """Rank results by flags and doubt, send cases out for correction, take corrected masks back.

        --export writes image, mask and label names for 3D Slicer and ITK-SNAP. --import compares what came back,
        and writes a new version of the list of cases, ready for fine-tuning; nothing is written over.
        """
        from medseg.review.command import review as run_review
        from medseg.review.options import ReviewOptions

        options = ReviewOptions(
            first=first,
            cases=tuple(cases or ()),
            export=export,
            open_with=open_with,
            take_back=take_back,
            signoffs=tuple(signoff or ()),
            images=tuple(images or ()),
            manifest=manifest,
            model=model,
            output=output,
        )
        with reporting(quiet) as reporter:
            result = run_review(run, options, reporter=reporter)
        finish(result, as_json=as_json)
