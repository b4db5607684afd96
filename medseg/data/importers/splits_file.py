"""nnU-Net's splits_final.json -> the column fold, or split where there is one fold only."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

from medseg.data.importers.json_file import read_json
from medseg.data.importers.records import Listing, counted, shown
from medseg.data.manifest import Case
from medseg.data.splits import patients_in_several
from medseg.errors import ManifestError

SPLITS_NAME = "splits_final.json"


def follow_splits(listing: Listing, path: Path) -> None:
    """Give the training cases of `listing` the folds of a splits file; noted there is what does not fit.

    A case has the number of the fold that validates on it. One fold alone becomes the column split:
    train and validation.

    Parameters
    ----------
    listing : Listing
        Changed: its cases, problems and notes.
    path : Path
        A list of `{"train": [ids], "val": [ids]}`.

    """
    try:
        folds = _read(path)
    except ManifestError as err:
        listing.add(str(err), fatal=True)
        return
    own = {case.case_id for case in listing.cases if case.split != "test"}
    known = own | listing.broken()
    for number, (train, val) in enumerate(folds):
        _check_fold(listing, f"{path.name}, fold {number}", train, val, known)
    if len(folds) == 1:
        parts = (set(folds[0][0]), set(folds[0][1]))
        listing.cases = [_with_split(case, *parts) if case.case_id in own else case for case in listing.cases]
        return
    places = Counter(case_id for _, val in folds for case_id in set(val))
    for case_id in sorted(own):
        if places[case_id] != 1:
            text = f"validates in {counted(places[case_id], 'fold')} of {path.name}, expected one"
            listing.add(text, case_id=case_id)
    fold_of = {case_id: number for number, (_, val) in enumerate(folds) for case_id in val}
    listing.cases = [
        replace(case, fold=fold_of.get(case.case_id)) if case.case_id in own else case
        for case in listing.cases
    ]


def torn_patients(cases: list[Case]) -> list[str]:
    """A sentence for each patient whose cases lie in several folds or splits, naming the cases only."""
    found = []
    for what in ("fold", "split"):
        parts = {c.case_id: part for c in cases if (part := getattr(c, what)) is not None}
        for patient in patients_in_several(cases, parts):
            members = [c.case_id for c in cases if c.patient_id == patient and c.case_id in parts]
            found.append(
                f"one patient is in several {what}s: "
                + shown(f"{case_id} ({parts[case_id]})" for case_id in members)
            )
    return found


def _read(path: Path) -> list[tuple[list[str], list[str]]]:
    value = read_json(path)
    if not isinstance(value, list) or not value:
        raise ManifestError(f'{path}: expected a list of {{"train": [...], "val": [...]}}, one for each fold')
    return [(_ids(path, n, fold, "train"), _ids(path, n, fold, "val")) for n, fold in enumerate(value)]


def _ids(path: Path, number: int, fold: Any, key: str) -> list[str]:
    ids = fold.get(key) if isinstance(fold, dict) else None
    if not isinstance(ids, list) or not all(isinstance(case_id, str) for case_id in ids):
        raise ManifestError(f'{path}: fold {number} has no list "{key}" of case ids')
    return ids


def _check_fold(listing: Listing, where: str, train: list[str], val: list[str], known: set[str]) -> None:
    """Whether a fold's two lists are the known cases, each once: else the manifest would say other folds."""
    counts = Counter([*train, *val])
    twice = sorted(case_id for case_id, count in counts.items() if count > 1)
    if twice:
        listing.add(f"{where}: {counted(len(twice), 'case')} listed twice: {shown(twice)}")
    strange = sorted(set(counts) - known)
    if strange:
        listing.add(
            f"{where}: {counted(len(strange), 'case')} that the data set does not have: {shown(strange)}"
        )
    absent = sorted(known - set(counts))
    if absent:
        listing.add(
            f"{where}: {counted(len(absent), 'case')} neither trained nor validated on: {shown(absent)}"
        )


def _with_split(case: Case, train: set[str], val: set[str]) -> Case:
    if case.case_id in val:
        return replace(case, split="validation")
    return replace(case, split="train" if case.case_id in train else None)
