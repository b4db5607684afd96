"""`medseg evaluate`: a pipeline's predictions, two folders of masks, or two runs against each other."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from medseg.cli_options import AsJson, Finish, Quiet, Reporting, SetOption
from medseg.errors import ConfigError

if TYPE_CHECKING:
    from medseg.console import ConsoleReporter
    from medseg.pipeline.result import Result

Pipeline = Annotated[
    Path | None,
    typer.Argument(help="Pipeline YAML to run up to its evaluation; or one of the options below."),
]
Prediction = Annotated[
    Path | None,
    typer.Option("--prediction", help="Folder or file of masks: NIfTI, NRRD, MetaImage, PNG, SEG, RTSTRUCT."),
]
Reference = Annotated[
    Path | None, typer.Option("--reference", help="Folder or file of the masks to compare with.")
]
Compare = Annotated[
    tuple[Path, Path] | None,
    typer.Option(
        "--compare", metavar="RUN_A RUN_B", help="Two evaluated runs (or output folders) on the same cases."
    ),
]
Output = Annotated[
    Path | None,
    typer.Option(
        "--output", "-o", help="Folder for the tables; with a pipeline, the one that runs are kept in (runs)."
    ),
]
Labels = Annotated[
    Path | None,
    typer.Option("--labels", help="Names of the mask values: YAML with labels:, or a mask's JSON."),
]
Cases = Annotated[
    Path | None,
    typer.Option(
        "--cases", help="CSV with case_id and any of patient_id, prediction, reference, image, more columns."
    ),
]
Metrics = Annotated[
    str | None,
    typer.Option(
        "--metrics",
        help="Comma-separated: dice, iou, precision, recall, specificity, accuracy, f1, hd, hd95, assd, nsd=MM, "
        "boundary_iou=MM, cldice, volume_difference, area_difference, relative_difference.",
    ),
]
By = Annotated[
    list[str] | None,
    typer.Option("--by", metavar="COLUMN", help="Column of --cases to split results by; may be repeated."),
]
Strip = Annotated[
    list[str] | None,
    typer.Option("--strip", metavar="WORD", help="Word at the ends of file names that does not count."),
]
Missing = Annotated[
    Literal["fail", "empty"],
    typer.Option(
        "--missing", help="A reference without prediction: fail (listed, exit 1), or empty (all missed)."
    ),
]
Page = Annotated[
    Literal["en", "zh"] | None,
    typer.Option("--page", help="With two folders: also write report.html, in this language."),
]


def add_evaluate(
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
    def evaluate(
        pipeline: Pipeline = None,
        prediction: Prediction = None,
        reference: Reference = None,
        compare: Compare = None,
        output: Output = None,
        labels: Labels = None,
        cases: Cases = None,
        metrics: Metrics = None,
        by: By = None,
        strip: Strip = None,
        missing: Missing = "fail",
        page: Page = None,
        overrides: SetOption = None,
        as_json: AsJson = False,
        quiet: Quiet = False,
    ) -> None:
        """Say how well masks agree with reference masks.

        Of a PIPELINE run up to its evaluation; of two folders of masks from any program (--prediction,
        --reference); or of two evaluations of the same cases, paired (--compare).
        """
        _check_mode(pipeline, prediction, reference, compare)
        of_folders: dict[str, object] = {"--labels": labels, "--cases": cases, "--metrics": metrics}
        of_folders |= {"--by": by, "--strip": strip, "--missing": missing != "fail", "--page": page}
        if prediction is None and reference is None:
            _refuse(of_folders, "--prediction DIR --reference DIR")
        if pipeline is None:
            _refuse({"--set": overrides}, "a PIPELINE.yaml")
        with reporting(quiet) as reporter:
            if pipeline is not None:
                result = _pipeline(pipeline, output, overrides, reporter)
            elif compare is not None:
                from medseg.pipeline.compare_runs import compare_runs

                result = compare_runs(*compare, output, reporter=reporter)
            else:
                from medseg.pipeline.evaluate_folders import METRICS, FolderOptions, evaluate_folders

                options = FolderOptions(
                    labels=labels,
                    cases=cases,
                    metrics=metrics or METRICS,
                    by=tuple(by or ()),
                    strip=tuple(strip or ()),
                    missing=missing,
                    page=page,
                )
                result = evaluate_folders(
                    _given(prediction, "--prediction"),
                    _given(reference, "--reference"),
                    _given(output, "--output"),
                    options,
                    reporter=reporter,
                )
        finish(result, as_json=as_json)


def _pipeline(
    pipeline: Path, output: Path | None, overrides: list[str] | None, reporter: ConsoleReporter
) -> Result:
    from medseg.pipeline.api import run_pipeline

    return run_pipeline(
        pipeline,
        output=output or Path("runs"),
        overrides=overrides or [],
        until="evaluate",
        reporter=reporter,
    )


def _check_mode(
    pipeline: Path | None, prediction: Path | None, reference: Path | None, compare: object
) -> None:
    """Refuse no way or several at once."""
    ways = [pipeline is not None, prediction is not None or reference is not None, compare is not None]
    if sum(ways) != 1:
        raise ConfigError(
            "evaluate takes one of: a PIPELINE.yaml; --prediction DIR --reference DIR -o OUT; --compare RUN_A RUN_B; "
            f"found {'none of them' if not any(ways) else 'several'}"
        )


def _refuse(options: Mapping[str, object], mode: str) -> None:
    """Refuse options that another way of evaluating has, instead of passing over them."""
    given = [name for name, value in options.items() if value]
    if given:
        raise ConfigError(
            f"{', '.join(given)}: only for evaluate with {mode}; leave out, or change the command"
        )


def _given(path: Path | None, name: str) -> Path:
    if path is None:
        raise ConfigError(f"{name} is needed: evaluate --prediction DIR --reference DIR -o OUT")
    return path
