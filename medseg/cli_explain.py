"""`medseg explain` and `medseg stress`: what a mask rests on, and what it survives."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from medseg.cli_options import AsJson, Finish, Quiet, Reporting, SetOption
from medseg.errors import ConfigError

if TYPE_CHECKING:
    pass

ImageArgument = Annotated[
    Path, typer.Argument(metavar="IMAGE", help="One image: a file, or a folder with a DICOM volume.")
]
Model = Annotated[str, typer.Option("--model", "-m", help="Name of a shipped model, or folder of a bundle.")]
Labels = Annotated[
    list[str], typer.Option("--label", "-l", help="Label or region to explain; may be repeated.")
]
OutputFolder = Annotated[Path, typer.Option("--output", "-o", help="Folder for the results.")]
Methods = Annotated[str, typer.Option("--method", help="Comma-separated: gradcam, occlusion.")]
Level = Annotated[
    int,
    typer.Option(help="Feature level of Grad-CAM: 0 is the finest; -1 the coarsest, -2 the next finer one."),
]
Box = Annotated[
    list[int] | None,
    typer.Option(
        "--box",
        metavar="VOXELS",
        help="Side of an occluded box on the prepared image: once for all axes, or once for each axis.",
    ),
]
Fill = Annotated[
    Literal["mean", "minimum"], typer.Option(help="What covers a box: mean or minimum of the image.")
]
BatchSize = Annotated[
    int, typer.Option("--batch-size", min=1, max=256, help="Covered images shown to the network at a time.")
]
Draws = Annotated[
    int, typer.Option(min=1, max=100, help="Repetitions of the randomisation test of Grad-CAM.")
]
Fold = Annotated[
    int | None,
    typer.Option(
        min=0,
        help="Of an ensemble, the one network that never saw this fold; the mean of all members unless given.",
    ),
]
Device = Annotated[str, typer.Option(help="auto, cpu or cuda.")]
Series = Annotated[
    str | None, typer.Option(help="Which DICOM volume: key of medseg inspect, series number or UID.")
]
AcceptUnlike = Annotated[
    bool, typer.Option("--accept-unlike", help="Use images that the model's input gate refuses.")
]
Seed = Annotated[int, typer.Option(min=0, help="Seed of everything random.")]
Pipeline = Annotated[
    Path | None,
    typer.Argument(help="Pipeline YAML whose model and test cases are used; or --model with --manifest."),
]
StressModel = Annotated[
    str | None, typer.Option("--model", "-m", help="Name of a shipped model, or folder of a bundle.")
]
Manifest = Annotated[
    Path | None,
    typer.Option("--manifest", help="CSV of cases with masks, for --model; see data_manifests/README.md."),
]
Root = Annotated[Path | None, typer.Option("--root", help="Folder that the manifest's paths start from.")]
Split = Annotated[
    str | None,
    typer.Option(
        "--split", help="Cases of the manifest: train, validation, test or all; test where there are any."
    ),
]
StressOutput = Annotated[
    Path | None,
    typer.Option(
        "--output", "-o", help="Folder of the results; with a pipeline, the one that runs are kept in (runs)."
    ),
]
Cases = Annotated[int | None, typer.Option("--cases", min=1, help="Cases that are drawn; all unless given.")]
Only = Annotated[
    list[str] | None,
    typer.Option(
        "--only",
        metavar="TESTS",
        help="Comma-separated: noise, blur, motion, bias_field, gamma, contrast, downsample, compression, rotation, "
        "crop; attacks: fgsm, pgd. All unless given.",
    ),
]
Quick = Annotated[
    bool,
    typer.Option("--quick", help="Three severities, Dice alone, eight cases unless --cases says otherwise."),
]
Language = Annotated[Literal["en", "zh"], typer.Option(help="Language of the page: en or zh.")]
Threads = Annotated[int | None, typer.Option(min=1, help="Processor threads; all unless given.")]


def add_explain_commands(
    app: typer.Typer,
    *,
    reporting: Reporting,
    finish: Finish,
) -> None:
    """Add the commands to the program.

    Parameters
    ----------
    app : typer.Typer
    reporting, finish
        See `cli_options`.
    """

    @app.command()
    def explain(
        image: ImageArgument,
        model: Model,
        label: Labels,
        output: OutputFolder,
        method: Methods = "gradcam,occlusion",
        level: Level = -1,
        box: Box = None,
        fill: Fill = "mean",
        batch_size: BatchSize = 8,
        draws: Draws = 3,
        fold: Fold = None,
        device: Device = "auto",
        series: Series = None,
        accept_unlike: AcceptUnlike = False,
        seed: Seed = 0,
        as_json: AsJson = False,
        quiet: Quiet = False,
    ) -> None:
        """Show what the mask of a structure rests on: seg-Grad-CAM and occlusion maps of one image.

        Each map comes with the outcome of a weight-randomisation test, which says whether it explains the network
        or only shows the image.
        """
        from medseg.explain.explainer import ExplainOptions
        from medseg.pipeline.explain_image import chosen_methods, explain_image

        options = ExplainOptions(
            methods=chosen_methods(method),
            level=level,
            box=None if not box else tuple(box),
            fill=fill,
            batch_size=batch_size,
            draws=draws,
            seed=seed,
        )
        with reporting(quiet) as reporter:
            result = explain_image(
                image,
                model=model,
                labels=label,
                output=output,
                options=options,
                fold=fold,
                device=device,
                series=series,
                accept_unlike=accept_unlike,
                reporter=reporter,
            )
        finish(result, as_json=as_json)

    @app.command()
    def stress(
        pipeline: Pipeline = None,
        model: StressModel = None,
        manifest: Manifest = None,
        root: Root = None,
        split: Split = None,
        output: StressOutput = None,
        cases: Cases = None,
        only: Only = None,
        quick: Quick = False,
        language: Language = "en",
        device: Device = "auto",
        threads: Threads = None,
        seed: Seed = 0,
        overrides: SetOption = None,
        as_json: AsJson = False,
        quiet: Quiet = False,
    ) -> None:
        """Say what masks survive: noise, blur, motion, other fields of view, and attacks, at five severities each.

        Of a PIPELINE's model on its test cases, or of --model on the cases of --manifest. Writes stress.csv,
        stress.json and stress.html; the same command goes on where it was stopped.
        """
        _check_mode(pipeline, model, manifest, output)
        from medseg.stress.options import stress_options

        options = stress_options(only=only or (), quick=quick, cases=cases, seed=seed)
        with reporting(quiet) as reporter:
            if pipeline is not None:
                _refuse({"--root": root, "--split": split}, "--model and --manifest")
                from medseg.pipeline.stress_run import stress_pipeline

                result = stress_pipeline(
                    pipeline,
                    output=output or Path("runs"),
                    overrides=overrides or (),
                    options=options,
                    language=language,
                    reporter=reporter,
                )
            else:
                _refuse({"--set": overrides}, "a PIPELINE.yaml")
                from medseg.pipeline.stress_run import stress_model

                result = stress_model(
                    model or "",
                    manifest or Path(),
                    output=output or Path(),
                    root=root,
                    split=split,
                    device=device,
                    threads=threads,
                    options=options,
                    language=language,
                    reporter=reporter,
                )
        finish(result, as_json=as_json)


def _check_mode(pipeline: Path | None, model: str | None, manifest: Path | None, output: Path | None) -> None:
    """Refuse no way or several at once."""
    of_model = [model is not None, manifest is not None]
    if (pipeline is not None) == any(of_model) or (
        any(of_model) and not (all(of_model) and output is not None)
    ):
        raise ConfigError(
            "stress takes a PIPELINE.yaml, or --model BUNDLE --manifest CSV --output DIR; "
            f"found {'neither' if pipeline is None and not any(of_model) else 'parts of both or too few'}"
        )


def _refuse(options: dict[str, object], mode: str) -> None:
    """Refuse options that the other way has, instead of passing over them."""
    given = [name for name, value in options.items() if value]
    if given:
        raise ConfigError(
            f"{', '.join(given)}: only for stress with {mode}; leave out, or change the command"
        )
