"""`medseg predict`: masks from a trained model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from medseg.cli_options import AsJson, Finish, Quiet, Reporting

Formats = Annotated[
    list[str],
    typer.Option(
        "--format",
        help="Comma-separated, or repeated: nifti, dicom-seg, dicom-seg-labelmap, rtstruct, dicom-sr, dicom-pr, "
        "dicom-sc, dicom-pdf, png; the page of each case: html, html-zh; maps as NIfTI: entropy, disagreement, "
        "variance, probabilities; of recognised targets: instance-seg, instance-sr, coco.",
    ),
]


def add_predict(app: typer.Typer, *, reporting: Reporting, finish: Finish) -> None:
    """Add the command to the program.

    Parameters
    ----------
    app : typer.Typer
    reporting, finish
        See `cli_options`.
    """

    @app.command()
    def predict(
        inputs: Annotated[
            list[Path], typer.Argument(help="Files or folders of DICOM, NIfTI, PNG, JPEG, TIFF.")
        ],
        model: Annotated[
            str, typer.Option("--model", "-m", help="Name of a shipped model, or folder of a bundle.")
        ],
        output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the results.")],
        formats: Formats = ["nifti,dicom-seg,png"],  # noqa: B006 - read, never changed
        device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
        threads: Annotated[
            int | None, typer.Option(min=1, help="Processor threads; all unless given.")
        ] = None,
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
            str | None,
            typer.Option("--max-ram", help="Ceiling of memory, such as 2GB; the result is the same."),
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
        fit_windows: Annotated[
            bool,
            typer.Option(
                "--fit-windows",
                help="Larger windows where fewer of them cover an image with less work; masks differ a little. "
                "Not below --max-ram.",
            ),
        ] = False,
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

        with reporting(quiet) as reporter:
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
                fit_windows=fit_windows,
                recognise=None if recognise is None else ",".join(recognise),
                language=language,
                reporter=reporter,
            )
        finish(result, as_json=as_json)
