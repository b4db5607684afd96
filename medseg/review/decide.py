"""What becomes of each case that came back: a new label, the prediction as label, left out, or nothing yet."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from numpy.typing import NDArray

from medseg.data.manifest import Case
from medseg.errors import EnvironmentFailure, InputError, MedsegError
from medseg.export.nifti import write_segmentation
from medseg.io.nifti import read_nifti
from medseg.pipeline import case_files
from medseg.provenance import sha256_file
from medseg.review.changes import MaskChange, compare_masks
from medseg.review.results import ResultCase, Results
from medseg.review.returned import ReturnedMasks, read_returned
from medseg.review.signoff import SignOff, SignOffs

Kind = Literal["corrected", "accepted", "rejected", "pending", "unchanged"]
REVIEWED, VERSION, BEFORE = "reviewed", "reviewed_in", "label_before"


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of one case.

    Parameters
    ----------
    case_id : str
    kind : str
        corrected: a changed mask is the new label. accepted: signed off as it is. rejected. pending: signed off as to
        be edited, and no changed mask came. unchanged: nothing was said.
    note, reader : str
        Of the sign-off.
    label : Path or None
        The mask that was written for this version; None where the row keeps its label.
    returned : Path or None
        The file that came back.
    change : MaskChange or None
        Prediction against correction.
    """

    case_id: str
    kind: Kind
    note: str = ""
    reader: str = ""
    label: Path | None = None
    returned: Path | None = None
    change: MaskChange | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Deciding:
    """Decides case by case and writes new labels into `masks`.

    Parameters
    ----------
    results : Results
    rows : mapping of str to Case
        Result's case id -> its row in the list so far.
    returned : ReturnedMasks
    signoffs : SignOffs
    masks : Path
        Folder for the new labels.
    """

    results: Results
    rows: Mapping[str, Case]
    returned: ReturnedMasks
    signoffs: SignOffs
    masks: Path

    def all(self, told: Callable[[int, int, str], None]) -> tuple[list[Outcome], dict[str, str]]:
        """Outcomes of the cases that something is said of, and the problems; one bad case takes no other along.

        Raises
        ------
        EnvironmentFailure
            The disk is full, or a folder cannot be written.
        """
        problems = {**self.signoffs.problems, **self.returned.problems}
        spoken = {*self.returned.masks, *self.returned.untouched, *self.signoffs.by_case} - {*problems}
        outcomes: list[Outcome] = []
        for done, case_id in enumerate(sorted(spoken), start=1):
            try:
                outcomes.append(self._one(case_id))
            except EnvironmentFailure:
                raise
            except MedsegError as err:
                problems[case_id] = str(err)
            told(done, len(spoken), case_id)
        return outcomes, dict(sorted(problems.items()))

    def _one(self, case_id: str) -> Outcome:
        case = self.results.cases.get(case_id)
        if case is None:
            raise InputError(f"a sign-off speaks of it, but {self.results.path} has no such case")
        case.require_prediction()
        said, path = self.signoffs.by_case.get(case_id), self.returned.masks.get(case_id)
        _check_signed(case, said, run=self.results.path.resolve().name)
        change, classes = (None, None) if path is None else self._changed(case, path)
        if change is not None and change.changed_voxels and path is not None and classes is not None:
            return self._corrected(case, said, path, classes, change)
        if said is None:
            return Outcome(case_id=case_id, kind="unchanged", returned=path)
        if said.decision == "accept":
            label = self._accepted(case)
            return Outcome(case_id=case_id, kind="accepted", note=said.note, reader=said.reader, label=label)
        kind: Kind = "rejected" if said.decision == "reject" else "pending"
        return Outcome(case_id=case_id, kind=kind, note=said.note, reader=said.reader, returned=path)

    def _changed(self, case: ResultCase, path: Path) -> tuple[MaskChange, NDArray[Any]]:
        after = read_returned(path, case, self.rows.get(case.case_id), self.results)
        before = case_files.read_mask_file(case.folder, self.results.table)
        grid = read_nifti(case.mask).grid
        return compare_masks(before, after, table=self.results.table, grid=grid), after

    def _corrected(
        self, case: ResultCase, said: SignOff | None, path: Path, classes: NDArray[Any], change: MaskChange
    ) -> Outcome:
        if said is not None and said.decision != "edit":
            raise InputError(
                f"{said.path.name} says {said.decision}, but {path.name} came back with {change.changed_voxels} "
                "changed voxels; change the sign-off to edit, or take the mask away"
            )
        label = self._write(
            case, classes, f"Corrected by a reader, from the prediction of {_model(self.results)}."
        )
        return Outcome(
            case_id=case.case_id,
            kind="corrected",
            note="" if said is None else said.note,
            reader="" if said is None else said.reader,
            label=label,
            returned=path,
            change=change,
        )

    def _accepted(self, case: ResultCase) -> Path | None:
        """The prediction as label of a case that has none; a label that is there is better."""
        row = self._row(case)
        if row.label is not None:
            return None
        classes = case_files.read_mask_file(case.folder, self.results.table)
        return self._write(case, classes, f"Prediction of {_model(self.results)}, accepted by a reader.")

    def _write(self, case: ResultCase, classes: NDArray[Any], note: str) -> Path:
        self._row(case)
        path = self.masks / f"{case.name}.nii.gz"
        like = read_nifti(case.mask)
        write_segmentation(path, classes.reshape(like.spatial_shape), like, self.results.table, notes=(note,))
        return path

    def _row(self, case: ResultCase) -> Case:
        row = self.rows.get(case.case_id)
        if row is None:
            raise InputError(
                "its image is not known, so it has no row in the new list; name the files or folders that were "
                "predicted with --images"
            )
        return row


def _model(results: Results) -> str:
    return f"{results.model['name']} {results.model['version']}"


def _check_signed(case: ResultCase, said: SignOff | None, *, run: str) -> None:
    """Refuse a sign-off of another mask; where the page did not list the mask, one of another run."""
    if said is None:
        return
    other = said.mask_sha256 != case.mask_sha256() if said.mask_sha256 else said.run not in ("", run)
    if other:
        raise InputError(
            f"{said.path.name} signs off another mask than the one that is there now; open the report again and "
            "decide anew"
        )


def new_rows(
    rows: Mapping[str, Case],
    by_case: Mapping[str, Case],
    outcomes: Sequence[Outcome],
    *,
    masks: Path,
    version: int,
) -> list[Case]:
    """The rows of the next version.

    Rows keep image, patient, split, fold and all columns. A new label follows the label table, so the row's naming
    scheme goes; the label before is kept in a column. A rejected case without a label of its own is left out.

    Parameters
    ----------
    rows : mapping of str to Case
        Those of the version before, by their case id.
    by_case : mapping of str to Case
        Result's case id -> its row, new ones included.
    outcomes : sequence of Outcome
    masks : Path
        Folder of this version's labels, as it will be named.
    version : int
    """
    changed = dict(rows)
    for outcome in outcomes:
        row = by_case.get(outcome.case_id)
        if row is None or outcome.kind in ("pending", "unchanged"):
            continue
        if outcome.kind == "rejected" and row.label is None:
            changed.pop(row.case_id, None)
            continue
        marks = {REVIEWED: outcome.kind, VERSION: f"v{version}"}
        if outcome.label is not None:
            before = row.columns.get(BEFORE) or ("" if row.label is None else str(row.label))
            marks[BEFORE] = before
            row = replace(row, label=masks / outcome.label.name, scheme=None)
        changed[row.case_id] = replace(row, columns={**row.columns, **marks})
    return list(changed.values())


def outcome_record(outcome: Outcome, row: Case | None, *, masks: Path) -> dict[str, Any]:
    """One case in the record of a version."""
    value: dict[str, Any] = {"case_id": outcome.case_id, "outcome": outcome.kind, "note": outcome.note}
    value |= {"reader": outcome.reader} if outcome.reader else {}
    if outcome.returned is not None:
        value["returned"] = {"file": outcome.returned.name, "sha256": sha256_file(outcome.returned)}
    if outcome.label is not None:
        value["label"] = {
            "file": f"{masks.name}/{outcome.label.name}",
            "sha256": sha256_file(outcome.label),
        }
        if row is not None and row.label is not None and row.label.is_file():
            value["label_before"] = {"file": str(row.label), "sha256": sha256_file(row.label)}
    return value if outcome.change is None else value | {"change": outcome.change.to_json()}
