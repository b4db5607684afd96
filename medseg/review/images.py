"""Which image and which row of a manifest a result belongs to: by the run's own list, or by hashes."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from medseg.config.schema import PipelineConfig
from medseg.data.manifest import SPLIT_WORDS, Case, Split, read_manifest
from medseg.data.tables import restore_text
from medseg.errors import MedsegError, StorageError
from medseg.io.checksum import image_sha256
from medseg.io.discover import discover
from medseg.pipeline.sources import find_cases
from medseg.provenance import sha256_file
from medseg.review.results import Results, read_rows


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """Rows that results belong to.

    Parameters
    ----------
    rows : tuple of Case
        Of the list that the results come from, splits and folds as the run dealt them; empty where there is none.
    by_case : mapping of str to Case
        Result's case id -> its row, or for results without one a new row made of the image that was found.
    path : Path or None
        The manifest, where the list is one.
    notes : tuple of str
        What a reader must know.
    """

    rows: tuple[Case, ...] = ()
    by_case: Mapping[str, Case] = field(default_factory=dict)
    path: Path | None = None
    notes: tuple[str, ...] = ()


def find_origin(results: Results, *, images: Sequence[Path] = (), manifest: Path | None = None) -> Origin:
    """The rows and images of results.

    Parameters
    ----------
    results : Results
    images : sequence of Path
        Of a folder of predictions: files or folders in which the images are found again by their hashes.
    manifest : Path or None
        Of a folder of predictions: the list that the model was trained on. Images that it has keep their row; a new
        image of a patient that it has gets that patient's split and fold, so that no patient is torn apart.

    Raises
    ------
    StorageError
        A path does not exist.
    ManifestError
        The manifest is damaged.
    """
    if results.config is not None and manifest is None:
        return _of_run(results, results.config)
    rows = () if manifest is None else read_manifest(manifest, check_files=False)
    found = {**_by_hash(rows), **_discovered(images, rows)}
    by_case = {
        case_id: found[case.image_sha256]
        for case_id, case in results.cases.items()
        if case.image_sha256 in found
    }
    renamed = {case_id: _own_name(case_id, row, rows) for case_id, row in by_case.items()}
    notes = () if manifest is not None else (_UNKNOWN,)
    return Origin(rows=rows, by_case=renamed, path=manifest, notes=notes)


_UNKNOWN = (
    "which images the model was trained on is not known here; if any of these patients are among them, name the "
    "training's list with --manifest, so that they keep their split"
)


def _of_run(results: Results, config: PipelineConfig) -> Origin:
    cases, _ = find_cases(config.data.source, made_folder=results.path / "cache")
    dealt = {row["case_id"]: row for row in _dealt(results)} if config.training is not None else {}
    rows = tuple(_as_dealt(case, dealt.get(case.case_id, {})) for case in cases)
    path = getattr(config.data.source, "path", None)
    by_case = {row.case_id: row for row in rows if row.case_id in results.cases}
    return Origin(rows=rows, by_case=by_case, path=path)


def _dealt(results: Results) -> list[dict[str, str]]:
    """Case id, split and fold of each case as the run used it."""
    return [
        {k: restore_text(v or "") for k, v in row.items()} for row in read_rows(results.path / "cases.csv")
    ]


def _as_dealt(case: Case, row: Mapping[str, str]) -> Case:
    """A case with the split of the run; where every fold was tested in its turn, with its fold instead."""
    if row.get("fold", "").isdigit():
        return replace(case, fold=int(row["fold"]), split=None)
    return replace(case, split=SPLIT_WORDS.get(row.get("split", ""), case.split))


def _by_hash(rows: Sequence[Case]) -> dict[str, Case]:
    """Rows by the hash of their image, as a result's record has it."""
    found: dict[str, Case] = {}
    for row in rows:
        digests = row.sha256.split(";") if row.sha256 else []
        if not digests and all(path.is_file() for path in row.images):
            digests = [sha256_file(path) for path in row.images]
        if digests:
            one = digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()
            found[one] = row
    return found


def _discovered(images: Sequence[Path], rows: Sequence[Case]) -> dict[str, Case]:
    """New rows for images of files and folders, by their hash; a patient whom the list has keeps split and fold."""
    missing = [path for path in images if not path.exists()]
    if missing:
        raise StorageError(f"{missing[0]} does not exist; correct --images")
    known = _by_hash(rows)
    patients = {row.patient_id: row for row in rows}
    found: dict[str, Case] = {}
    for image in discover(images).images if images else ():
        try:
            digest = image_sha256(image.paths)
        except MedsegError:
            # It cannot be read, so no result can be of it.
            continue
        if digest not in known:
            kin = patients.get(image.patient_id)
            found[digest] = Case(
                case_id=image.case_id,
                patient_id=image.patient_id,
                images=image.paths,
                split=_new_split(rows) if kin is None else kin.split,
                fold=_new_fold(rows) if kin is None else kin.fold,
                sha256=digest if len(image.paths) == 1 else None,
            )
    return found


def _new_split(rows: Sequence[Case]) -> Split | None:
    return "train" if any(row.split is not None for row in rows) else None


def _new_fold(rows: Sequence[Case]) -> int | None:
    """The fold that has the fewest cases, for a patient whom no fold has."""
    folds = [row.fold for row in rows if row.fold is not None]
    return min(sorted(set(folds)), key=folds.count) if folds else None


def _own_name(case_id: str, row: Case, rows: Sequence[Case]) -> Case:
    """The row itself where the list has it, else a new row under the result's id."""
    return row if any(row is known for known in rows) else replace(row, case_id=case_id)
