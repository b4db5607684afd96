"""`medseg data ...`: commands about data sets."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from medseg.errors import ConfigError
from medseg.pipeline.result import Result

if TYPE_CHECKING:
    from medseg.data.importers.front import ImportSummary
    from medseg.data.importers.records import ImportOptions

_MOST_SHOWN = 50

Source = Annotated[
    Path, typer.Argument(metavar="SOURCE", help="Root of the data set; for parallel folders, the images.")
]
Output = Annotated[Path, typer.Option("--output", "-o", help="Manifest to write, a .csv file.")]
KindOption = Annotated[str, typer.Option("--kind", help="auto, nnunet, msd, bids or folders.")]
Labels = Annotated[Path | None, typer.Option("--labels", help="folders: folder of the masks.")]
Channels = Annotated[
    list[Path] | None,
    typer.Option("--channel", metavar="DIR", help="folders: images of the next channel; may be repeated."),
]
Strip = Annotated[
    list[str] | None,
    typer.Option("--strip", metavar="WORD", help="folders: word at the ends of names that does not count."),
]
Suffix = Annotated[
    str | None, typer.Option("--suffix", help="bids: images to take, such as T1w or T1w,FLAIR (channels).")
]
LabelPattern = Annotated[
    str | None,
    typer.Option(
        "--label-pattern", metavar="GLOB", help="bids: masks, below derivatives: 'manual/*_dseg.nii.gz'."
    ),
]
LabelNames = Annotated[
    list[str] | None,
    typer.Option("--label-name", metavar="VALUE=NAME", help="bids, folders: name of a mask value."),
]
Splits = Annotated[
    Path | None, typer.Option("--splits", help="nnunet, msd: splits_final.json that gives the folds.")
]
PatientPattern = Annotated[
    str | None,
    typer.Option(
        "--patient-pattern", metavar="REGEX", help="One group, found in the case id: the patient id."
    ),
]
Root = Annotated[
    Path | None, typer.Option("--root", help="Folder that paths start from; the manifest's unless given.")
]
Sha256 = Annotated[bool, typer.Option("--sha256", help="Write checksums of the images.")]
Check = Annotated[bool, typer.Option("--check/--no-check", help="Compare the grids in NIfTI headers.")]
Unlabelled = Annotated[
    bool, typer.Option("--keep-unlabelled", help="Keep images without a mask, to be predicted only.")
]
Test = Annotated[bool, typer.Option("--test/--no-test", help="Take the data set's test images along.")]
SkipBroken = Annotated[
    bool, typer.Option("--skip-broken", help="Leave out what has problems, list it, and exit with 1.")
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace an existing manifest.")]
AsJson = Annotated[bool, typer.Option("--json", help="Machine-readable result on stdout.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")]


def data_commands(finish: Callable[..., None]) -> typer.Typer:
    """The commands below `medseg data`.

    Parameters
    ----------
    finish : callable
        Prints a `Result` and exits with its code; takes `as_json`.
    """
    commands = typer.Typer(no_args_is_help=True)

    @commands.callback()
    def group() -> None:
        """Data sets: manifests from the layouts of others."""

    @commands.command("import")
    @functools.wraps(import_command)
    def command(**given: Any) -> None:
        finish(import_command(**given), as_json=given["as_json"])

    return commands


def import_command(
    source: Source,
    output: Output,
    kind: KindOption = "auto",
    labels: Labels = None,
    channel: Channels = None,
    strip: Strip = None,
    suffix: Suffix = None,
    label_pattern: LabelPattern = None,
    label_name: LabelNames = None,
    splits: Splits = None,
    patient_pattern: PatientPattern = None,
    root: Root = None,
    sha256: Sha256 = False,
    check: Check = True,
    keep_unlabelled: Unlabelled = False,
    test: Test = True,
    skip_broken: SkipBroken = False,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> Result:
    """Make a manifest of an nnU-Net, MSD or BIDS data set, or of folders of images and masks.

    Labels to paste into a pipeline are written beside it.

    Everything that is wrong is told at once, and then nothing is written.
    """
    from medseg.data.importers.records import ImportOptions

    options = ImportOptions(
        kind=_known_kind(kind),
        labels=labels,
        channels=tuple(channel or ()),
        strip=tuple(strip or ()),
        suffixes=tuple(part for text in (suffix or "").split(",") if (part := text.strip(" _"))),
        label_pattern=label_pattern,
        label_names=_named_values(label_name or []),
        splits=splits,
        patient_pattern=patient_pattern,
        root=root,
        sha256=sha256,
        check=check,
        keep_unlabelled=keep_unlabelled,
        test=test,
        skip_broken=skip_broken,
        overwrite=overwrite,
    )
    return _imported(source, output, options, quiet=quiet)


def _imported(source: Path, output: Path, options: ImportOptions, *, quiet: bool) -> Result:
    from medseg.console import ConsoleReporter, stderr_console
    from medseg.data.importers.front import import_dataset, to_json

    reporter = ConsoleReporter(stderr_console(quiet=quiet))
    try:
        reporter.stage_started("import", "reading headers")
        summary = import_dataset(
            source, output, options, progress=lambda *step: reporter.advanced("import", *step)
        )
    finally:
        reporter.close()
    return Result(
        exit_code=1 if summary.problems else 0,
        path=summary.manifest,
        lines=_lines(summary),
        facts=to_json(summary),
    )


def _known_kind(text: str) -> Any:
    kinds = ("auto", "nnunet", "msd", "bids", "folders")
    if text not in kinds:
        raise ConfigError(f"--kind is one of {', '.join(kinds)}, found {text!r}")
    return text


def _lines(summary: ImportSummary) -> tuple[str, ...]:
    """What was imported, what was left out, and what to know before training."""
    from medseg.data.importers.records import counted, plain, shown

    cases = counted(len(summary.cases), "case")
    patients = counted(len({case.patient_id for case in summary.cases}), "patient")
    masks = sum(case.label is not None for case in summary.cases)
    lines = [f"{summary.kind}: {cases} of {patients}, {masks} with a mask{_parts(summary)}"]
    named = [plain(f"{item.value} {item.name}", most=80) for item in summary.names.values]
    lines += [f"labels: {shown(named, most=12)}"] if named else []
    lines += [f"note: {note}" for note in summary.notes]
    if summary.problems:
        lines.append(f"left out for {counted(len(summary.problems), 'problem')}:")
        lines += [f"  {problem}" for problem in summary.problems[:_MOST_SHOWN]]
        hidden = len(summary.problems) - _MOST_SHOWN
        lines += [f"  ... and {hidden} more (all of them: --json)"] if hidden > 0 else []
    return (*lines, f"labels to paste into a pipeline: {summary.labels_file}")


def _parts(summary: ImportSummary) -> str:
    """How many cases each split or fold has, where the data set says so."""
    found: dict[str, int] = {}
    for case in summary.cases:
        part = f"fold {case.fold}" if case.fold is not None else case.split
        if part is not None:
            found[part] = found.get(part, 0) + 1
    return "".join(f"; {part}: {found[part]}" for part in sorted(found, key=lambda part: (len(part), part)))


def _named_values(texts: list[str]) -> dict[int, str]:
    """`1=liver` -> {1: "liver"}."""
    found: dict[int, str] = {}
    for text in texts:
        value, sign, name = text.partition("=")
        if not sign or not (value.isascii() and value.isdigit() and len(value) < 6) or not name.strip():
            raise ConfigError(f"--label-name {text!r}: expected VALUE=NAME, such as 1=liver")
        if int(value) in found:
            raise ConfigError(f"--label-name names the value {value} twice")
        found[int(value)] = name.strip()
    return found
