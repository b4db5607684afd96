"""The command `medseg deidentify`: DICOM files without identifiers."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from medseg.cli_options import AsJson, Finish, Quiet, Reporting
from medseg.errors import ConfigError

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

    from medseg.pipeline.deidentify_files import FilesOptions

Inputs = Annotated[
    list[Path], typer.Argument(metavar="INPUT...", help="DICOM files, or folders with all that lies in them.")
]
Output = Annotated[
    Path, typer.Option("--output", "-o", help="Folder for the clean copies; what is there stays.")
]
Settings = Annotated[
    Path | None, typer.Option("--settings", help="YAML with these options, and rules of what is blanked.")
]
KeyFile = Annotated[
    Path | None, typer.Option("--key-file", help="File with the secret that UIDs and names are mapped with.")
]
KeyEnv = Annotated[str | None, typer.Option("--key-env", help="Environment variable with the secret.")]
Retain = Annotated[
    list[str] | None,
    typer.Option(
        "--retain",
        metavar="OPTION",
        help="uids, device, institution, patient_characteristics, dates_full, dates_modified, safe_private; may be "
        "repeated.",
    ),
]
Clean = Annotated[
    list[str] | None,
    typer.Option(
        "--clean", metavar="OPTION", help="descriptors, structured_content, graphics; may be repeated."
    ),
]
SafePrivate = Annotated[
    list[str] | None,
    typer.Option(
        "--safe-private",
        metavar="ELEMENT",
        help="Private element that may stay, such as '0043,xx2c,GEMS_PARM_01'.",
    ),
]
BurnedIn = Annotated[
    str | None,
    typer.Option("--burned-in", help="Images with text in their pixels: refuse, declared or accept."),
]
CleanPixels = Annotated[
    list[str] | None,
    typer.Option(
        "--clean-pixels",
        metavar="[MODALITY:]X0,Y0,X1,Y1",
        help="Rectangle to blank, of images of a modality or of all; may be repeated.",
    ),
]
KeepRegions = Annotated[
    bool,
    typer.Option(
        "--keep-ultrasound-regions", help="Blank ultrasound images outside the regions that they list."
    ),
]
KeyTableOption = Annotated[
    Path | None,
    typer.Option("--key-table", help="CSV from originals to stand-ins, for its owner alone; keep it safe."),
]
Workers = Annotated[
    int | None, typer.Option("--workers", min=1, help="Processes; the cores that may be used unless given.")
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Do everything but write.")]


def add_deidentify(app: typer.Typer, *, reporting: Reporting, finish: Finish) -> None:
    """Add the command to the program.

    Parameters
    ----------
    app : typer.Typer
    reporting, finish
        See `cli_options`.
    """

    @app.command()
    def deidentify(
        inputs: Inputs,
        output: Output,
        settings: Settings = None,
        key_file: KeyFile = None,
        key_env: KeyEnv = None,
        retain: Retain = None,
        clean: Clean = None,
        safe_private: SafePrivate = None,
        burned_in: BurnedIn = None,
        clean_pixels: CleanPixels = None,
        keep_ultrasound_regions: KeepRegions = False,
        key_table: KeyTableOption = None,
        workers: Workers = None,
        dry_run: DryRun = False,
        as_json: AsJson = False,
        quiet: Quiet = False,
    ) -> None:
        """Take the identifiers out of DICOM files (PS3.15 Annex E, basic profile); the originals stay as they are.

        What cannot be cleaned is refused with its reason, and the others are done.
        """
        from medseg.pipeline.deidentify_files import deidentify_files

        changed: dict[str, Any] = {
            "retain": retain,
            "clean": clean,
            "safe_private": safe_private,
            "burned_in": burned_in,
            "key": _key(key_file, key_env),
        }
        options = _options(settings, {name: value for name, value in changed.items() if value})
        options = _with_blanking(options, clean_pixels or [], keep_regions=keep_ultrasound_regions)
        with reporting(quiet) as reporter:
            reporter.stage_started("deidentify", "reading files")
            result = deidentify_files(
                inputs,
                output,
                options,
                dry_run=dry_run,
                key_table=key_table,
                workers=workers or _cores(),
                progress=lambda done, text: reporter.advanced("deidentify", done, 0, text),
            )
        finish(result, as_json=as_json)


def _cores() -> int:
    from medseg.io.dicom_frames import cores

    return cores()


def _key(file: Path | None, environment: str | None) -> dict[str, Any] | None:
    if file is not None and environment is not None:
        raise ConfigError("give --key-file or --key-env, not both")
    if file is not None:
        return {"file": file}
    return {"env": environment} if environment is not None else None


def _options(settings: Path | None, changed: dict[str, Any]) -> FilesOptions:
    """The settings of the YAML; what is given on the command line takes their place."""
    from pydantic import ValidationError

    from medseg.config.yaml_model import load_yaml_model
    from medseg.pipeline.deidentify_files import FilesOptions

    base = FilesOptions() if settings is None else load_yaml_model(settings, FilesOptions).config
    try:
        return FilesOptions.model_validate(
            {**{name: getattr(base, name) for name in base.model_fields_set}, **changed}
        )
    except ValidationError as err:
        problem = err.errors()[0]
        option = "--" + str(problem["loc"][0] if problem["loc"] else "retain").replace("_", "-")
        raise ConfigError(f"{option}{_wanted(problem)}") from err


def _wanted(problem: ErrorDetails) -> str:
    """What is wrong with the value of an option."""
    found, more = (
        f" {problem['input']!r}",
        "; give the option once for each" if len(problem["loc"]) > 1 else "",
    )
    if problem["type"] == "literal_error":
        return f"{found}: expected {problem['ctx']['expected']}{more}"
    if problem["type"] == "string_pattern_mismatch":
        return (
            f"{found}: expected an odd group, xx with the last two digits of the element, and the creator, in small "
            "letters but for the creator, such as '0043,xx2c,GEMS_PARM_01'"
        )
    return f": {problem['msg'].removeprefix('Value error, ')}"


def _with_blanking(options: FilesOptions, texts: list[str], *, keep_regions: bool) -> FilesOptions:
    from medseg.deidentification.options import BlankRule, ImageMatch

    if options.blank and (texts or keep_regions):
        # Of several rules the first that matches is taken: one of the two would blank nothing, and nobody would know.
        raise ConfigError(
            "--clean-pixels and --keep-ultrasound-regions do not go together with `blank` of the settings; write all "
            "rules there"
        )
    regions: dict[str, list[tuple[int, int, int, int]]] = {}
    for text in texts:
        modality, _, numbers = text.rpartition(":")
        regions.setdefault(modality.strip().upper(), []).append(_rectangle(numbers, text))
    rules: list[BlankRule] = []
    if keep_regions:
        match = ImageMatch(modality=("US", "IVUS"))
        rules.append(
            BlankRule(match=match, regions=tuple(regions.pop("US", ())), keep_ultrasound_regions=True)
        )
    # Those of a modality before those of all.
    for modality, found in sorted(regions.items(), reverse=True):
        match = ImageMatch(modality=(modality,) if modality else ())
        rules.append(BlankRule(match=match, regions=tuple(found)))
    return options.model_copy(update={"blank": (*options.blank, *rules)})


def _rectangle(numbers: str, text: str) -> tuple[int, int, int, int]:
    parts = [part.strip() for part in numbers.split(",")]
    if len(parts) != 4 or not all(part.isascii() and part.isdigit() and len(part) < 7 for part in parts):
        raise ConfigError(f"--clean-pixels {text!r}: expected X0,Y0,X1,Y1 or MODALITY:X0,Y0,X1,Y1")
    x0, y0, x1, y1 = map(int, parts)
    if x0 >= x1 or y0 >= y1:
        raise ConfigError(f"--clean-pixels {text!r} is no rectangle; expected X0 < X1 and Y0 < Y1")
    return x0, y0, x1, y1
