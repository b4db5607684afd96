"""`medseg import-model` and `medseg export-model`: models of others, in and out."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from medseg.pipeline.result import Result

Source = Annotated[
    Path,
    typer.Argument(
        metavar="FOLDER", help="A MONAI bundle, or what nnU-Net v2 trained into: with plans.json and fold_0."
    ),
]
BundleFolder = Annotated[Path, typer.Option("--output", "-o", help="Folder of the bundle to write.")]
Settings = Annotated[
    Path | None,
    typer.Option(
        "--settings",
        help="MONAI: YAML with labels:, preprocess:, inference: or postprocess: where the folder's cannot be followed.",
    ),
]
Values = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="PLACE=VALUE",
        help="MONAI: a value of the folder's configuration, such as network_def::out_channels=3; may be repeated.",
    ),
]
Name = Annotated[str | None, typer.Option("--name", help="Name of the bundle; the folder's unless given.")]
Licence = Annotated[
    str | None,
    typer.Option("--licence", help="SPDX identifier of the licence of the weights, where you know it."),
]
Weights = Annotated[
    Path | None, typer.Option("--weights", help="MONAI: file of the weights; models/model.pt unless given.")
]
Folds = Annotated[
    str | None,
    typer.Option("--folds", help="nnU-Net: folds, such as 0,1 or all; all complete ones unless given."),
]
Checkpoint = Annotated[
    str | None,
    typer.Option(
        "--checkpoint", help="nnU-Net: file in the folder of a fold; checkpoint_final.pth unless given."
    ),
]
Trainer = Annotated[
    str | None,
    typer.Option(
        "--trainer",
        help="nnU-Net: a trainer class of your own that builds the network of the plans; taken at your word.",
    ),
]
Mirroring = Annotated[
    bool,
    typer.Option(
        "--mirroring/--no-mirroring",
        help="nnU-Net: predict mirrored images, too, where it was trained so.",
    ),
]
Model = Annotated[
    str, typer.Argument(metavar="BUNDLE", help="Name of a shipped model, or folder of a bundle.")
]
To = Annotated[str, typer.Option("--to", help="onnx or monai.")]
ExportFolder = Annotated[Path, typer.Option("--output", "-o", help="Folder to write.")]
Image = Annotated[
    Path | None,
    typer.Option(
        "--image", help="An image of the kind that the model is for; the export is compared on it, too."
    ),
]
Fold = Annotated[
    int | None,
    typer.Option("--fold", min=0, help="monai: of an ensemble the one network that never saw this fold."),
]
NetworkOnly = Annotated[
    bool,
    typer.Option(
        "--network-only",
        help="monai: leave the preparation of images out, where MONAI has no transforms like it.",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Machine-readable result on stdout.")]


def add_model_commands(app: typer.Typer, finish: Callable[..., None]) -> None:
    """Add both commands.

    Parameters
    ----------
    app : Typer
    finish : callable
        Prints a `Result` and exits with its code; takes `as_json`.
    """
    for name, function in (("import-model", import_command), ("export-model", export_command)):
        app.command(name)(_finished(function, finish))


def _finished(function: Callable[..., Result], finish: Callable[..., None]) -> Callable[..., None]:
    @functools.wraps(function)
    def command(**given: Any) -> None:
        finish(function(**given), as_json=given["as_json"])

    return command


def import_command(
    source: Source,
    output: BundleFolder,
    settings: Settings = None,
    values: Values = None,
    name: Name = None,
    licence: Licence = None,
    weights: Weights = None,
    folds: Folds = None,
    checkpoint: Checkpoint = None,
    trainer: Trainer = None,
    mirroring: Mirroring = True,
    as_json: AsJson = False,
) -> Result:
    """Make a bundle of a model that others trained; nothing in its folder is executed.

    What the folder is, is recognised. Each of its transforms is named with what it became; what medseg cannot follow is
    refused with what to do.
    """
    from medseg.pipeline.import_model import ImportRequest, import_model

    request = ImportRequest(
        settings=settings,
        values=tuple(values or ()),
        name=name,
        licence=licence,
        weights=weights,
        folds=folds,
        checkpoint=checkpoint,
        trainer=trainer,
        mirroring=mirroring,
    )
    return import_model(source, output, request)


def export_command(
    model: Model,
    output: ExportFolder,
    to: To,
    image: Image = None,
    fold: Fold = None,
    network_only: NetworkOnly = False,
    as_json: AsJson = False,
) -> Result:
    """Write a model for other programs: ONNX, or a MONAI bundle.

    What was written is read back and compared with the model; nothing is left where they differ.
    """
    from medseg.pipeline.export_model import ExportRequest, export_model

    request = ExportRequest(to=to, image=image, fold=fold, network_only=network_only)
    return export_model(model, output, request)
