"""`medseg inspect` and `medseg convert`: what files hold, and the same in another format."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from medseg import __version__
from medseg.cli_options import AsJson, Finish


def add_file_commands(app: typer.Typer, *, finish: Finish) -> None:
    """Add both commands to the program.

    Parameters
    ----------
    app : typer.Typer
    finish
        See `cli_options`.
    """
    app.command()(inspect)
    _add_convert(app, finish=finish)


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


def _add_convert(app: typer.Typer, *, finish: Finish) -> None:
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
        algorithm: Annotated[
            str, typer.Option(help="What made the mask, for DICOM objects.")
        ] = "medseg convert",
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
        finish(run_convert(source, output, options), as_json=as_json)
