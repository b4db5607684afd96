"""Import a data set: tell its layout, list its cases, check them together, write manifest and labels."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from medseg.data.importers.bids import list_bids
from medseg.data.importers.case_checks import Progress, check_cases, with_patients
from medseg.data.importers.dataset_json import DATASET_JSON
from medseg.data.importers.file_names import is_nifti
from medseg.data.importers.folders import list_folders
from medseg.data.importers.json_file import read_object
from medseg.data.importers.label_names import labels_yaml
from medseg.data.importers.msd import list_msd
from medseg.data.importers.nnunet import list_nnunet
from medseg.data.importers.records import (
    ONLY_FOR,
    ImportOptions,
    Kind,
    LabelNames,
    Listing,
    NamedValue,
    counted,
    plain,
)
from medseg.data.importers.splits_file import SPLITS_NAME, follow_splits
from medseg.data.manifest import Case, manifest_error, write_manifest
from medseg.errors import ConfigError, ManifestError, StorageError
from medseg.labels import MAX_VALUE
from medseg.provenance import sha256_file, write_text

_READERS: Mapping[Kind, Callable[[Path, ImportOptions], Listing]] = {
    "nnunet": list_nnunet,
    "msd": list_msd,
    "bids": list_bids,
    "folders": list_folders,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportSummary:
    """What was imported.

    Parameters
    ----------
    kind : str
        Layout that was read.
    cases : tuple of Case
        As they stand in the manifest.
    manifest, labels_file : Path
    names : LabelNames
    problems : tuple of str
        Why cases or files were left out; empty unless `skip_broken`.
    notes : tuple of str
        Sentences for people.
    """

    kind: Kind
    cases: tuple[Case, ...]
    manifest: Path
    labels_file: Path
    names: LabelNames
    problems: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def import_dataset(
    source: Path, output: Path, options: ImportOptions, *, progress: Progress | None = None
) -> ImportSummary:
    """Write the manifest of a data set, and beside it its labels as YAML for a pipeline.

    Parameters
    ----------
    source : Path
        Root of the data set; for parallel folders, the folder of the images.
    output : Path
        The CSV. The labels go to the same name with `.labels.yaml` instead of `.csv`.
    options : ImportOptions
    progress : callable, optional
        Told the cases done, the number of all, and the id of the case.

    Returns
    -------
    ImportSummary

    Raises
    ------
    ConfigError
        Options that do not go together or do not fit the layout; a file exists and `overwrite` is
        not set.
    ManifestError
        With everything that is wrong with the data set; nothing is written then. With
        `skip_broken` only where no case is left or the labels cannot be understood.
    """
    source, output = Path(os.path.abspath(source)), Path(os.path.abspath(output))
    if options.root is not None:
        options = replace(options, root=Path(os.path.abspath(options.root)))
    labels_file = output.with_name(f"{output.name.removesuffix('.csv')}.labels.yaml")
    if not source.is_dir():
        raise ManifestError(f"{source}: there is no such folder")
    _check_output(output, labels_file, options)
    kind = options.kind if options.kind != "auto" else tell_kind(source, options)
    _check_options(kind, options)
    listing = _READERS[kind](source, options)
    if options.label_names:
        listing.names = _given_names(listing, options.label_names)
    listing.cases = with_patients(listing, options.patient_pattern)
    _follow_splits(listing, source, options)
    check_cases(listing, options, progress or _silent)
    cases = _kept(listing, source, options)
    if options.sha256:
        cases = _with_checksums(cases, progress or _silent)
    write_text(labels_file, labels_yaml(listing, manifest=output, root=options.root))
    write_manifest(output, cases, root=options.root)
    return ImportSummary(
        kind=kind,
        cases=tuple(cases),
        manifest=output,
        labels_file=labels_file,
        names=listing.names,
        problems=tuple(str(problem) for problem in listing.problems),
        notes=tuple(plain(note) for note in (*listing.notes, *_advice(listing, cases, options))),
    )


def tell_kind(source: Path, options: ImportOptions) -> Kind:
    """The layout of a data set, told by what lies in its root.

    Raises
    ------
    ManifestError
        It looks like none of them; the message says what each needs.
    """
    if options.labels is not None:
        return "folders"
    if (source / DATASET_JSON).is_file():
        about = read_object(source / DATASET_JSON)
        if {"channel_names", "file_ending", "dataset"} & set(about) or not isinstance(
            about.get("training"), list
        ):
            return "nnunet"
        # Lists of nnU-Net v1 name x.nii.gz where the file is x_0000.nii.gz.
        return "nnunet" if any((source / "imagesTr").glob("[!.]*_0000.nii.gz")) else "msd"
    if (source / "dataset_description.json").is_file() or any(source.glob("sub-*")):
        return "bids"
    raise ManifestError(
        f"{source} is no layout that is known: expected {DATASET_JSON} (nnU-Net, MSD) or sub-* folders (BIDS) "
        "in it, or --labels for parallel folders"
    )


def _check_output(output: Path, labels_file: Path, options: ImportOptions) -> None:
    if output.suffix != ".csv":
        raise ConfigError(f"--output {output}: a manifest is a .csv file")
    taken = [path for path in (output, labels_file) if path.exists()]
    if taken and not options.overwrite:
        raise ConfigError(f"{taken[0]} exists; choose another --output or give --overwrite")


def _check_options(kind: Kind, options: ImportOptions) -> None:
    """Refuse an option that this layout does not honour."""
    defaults = ImportOptions()
    for item in fields(options):
        given = getattr(options, item.name) != getattr(defaults, item.name)
        if given and kind not in ONLY_FOR.get(item.name, (kind,)):
            name, kinds = _OPTION_NAMES[item.name], " and ".join(ONLY_FOR[item.name])
            raise ConfigError(
                f"{name} is for {kinds}, this data set is read as {kind}; leave it out or give --kind"
            )
    for value, name in options.label_names.items():
        if not 1 <= value <= MAX_VALUE or not name.strip():
            raise ConfigError(
                f"--label-name {value}={name}: expected a value from 1 to {MAX_VALUE} and a name"
            )


_OPTION_NAMES = {
    "labels": "--labels",
    "channels": "--channel",
    "strip": "--strip",
    "suffixes": "--suffix",
    "label_pattern": "--label-pattern",
    "label_names": "--label-name",
    "splits": "--splits",
    "patient_pattern": "--patient-pattern",
}


def _given_names(listing: Listing, names: Mapping[int, str]) -> LabelNames:
    values = tuple(NamedValue(value=value, name=names[value]) for value in sorted(names))
    return replace(listing.names, values=values)


def _follow_splits(listing: Listing, source: Path, options: ImportOptions) -> None:
    path = options.splits
    if path is None and listing.kind in ONLY_FOR["splits"] and (source / SPLITS_NAME).is_file():
        path = source / SPLITS_NAME
        listing.notes.append(f"folds from {SPLITS_NAME} in the data set")
    if path is not None:
        follow_splits(listing, path)


def _kept(listing: Listing, source: Path, options: ImportOptions) -> list[Case]:
    """The cases without problems, or the error that tells all of them."""
    problems = [str(problem) for problem in listing.problems]
    fatal = any(problem.fatal for problem in listing.problems)
    broken = listing.broken()
    cases = [case for case in listing.cases if case.case_id not in broken]
    if not cases and not problems:
        problems.append("no case was found")
    elif not cases and options.skip_broken:
        problems.append("no case is left to write")
    if problems and (fatal or not cases or not options.skip_broken):
        raise manifest_error(f"{listing.kind} data set {source}", problems)
    return cases


def _with_checksums(cases: Sequence[Case], progress: Progress) -> list[Case]:
    found = []
    for number, case in enumerate(cases):
        progress(number, len(cases), case.case_id)
        try:
            digests = [sha256_file(path) for path in case.images]
        except OSError as err:
            raise StorageError(
                f"{err.filename} cannot be read: {err.strerror}; check its permissions"
            ) from err
        found.append(replace(case, sha256=";".join(digests)))
    return found


def _advice(listing: Listing, cases: Sequence[Case], options: ImportOptions) -> list[str]:
    """What the user should know about the manifest before training on it."""
    notes = []
    if listing.kind != "bids" and options.patient_pattern is None:
        notes.append("each case counts as a patient of its own; if some share one, give --patient-pattern")
    folds = {case.fold for case in cases if case.fold is not None}
    without = sum(case.fold is None for case in cases)
    if folds and without:
        notes.append(
            f"{counted(without, 'case')} without a fold: for split: {{use: folds}} import with --no-test"
        )
    if folds and len(folds) < 3:
        notes.append(f"{len(folds)} folds; split: {{use: folds}} needs three or more")
    other = sum(any(not is_nifti(path) for path in case.images) for case in cases)
    if other and options.check:
        notes.append(f"the grids of {counted(other, 'case')} that are not NIfTI were not compared")
    unlabelled = sum(case.label is None for case in cases)
    if unlabelled:
        notes.append(f"{counted(unlabelled, 'case')} without a mask")
    if not listing.names.values:
        notes.append(
            "the data set does not name its mask values; give --label-name 1=NAME, or name them in the YAML"
        )
    return notes


def _silent(done: int, total: int, text: str) -> None:
    del done, total, text


def to_json(summary: ImportSummary) -> dict[str, Any]:
    """The facts of a summary for scripts."""
    return {
        "kind": summary.kind,
        "cases": len(summary.cases),
        "patients": len({case.patient_id for case in summary.cases}),
        "labelled": sum(case.label is not None for case in summary.cases),
        "labels": {item.name: item.value for item in summary.names.values},
        "labels_file": str(summary.labels_file),
        "left_out": list(summary.problems),
    }
