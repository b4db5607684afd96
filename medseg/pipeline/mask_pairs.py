"""Which mask of one folder belongs to which of another: by the names of the files, or as a CSV says."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from medseg.data.importers.file_names import ending_of, image_stem, list_files
from medseg.data.importers.matching import WORDS, match_stems
from medseg.data.manifest import manifest_error
from medseg.data.tables import restore_text
from medseg.errors import ManifestError, StorageError
from medseg.io.sniff import sniff
from medseg.pipeline.case_files import MASK, RECORD, SEG
from medseg.pipeline.mask_sources import pairs_by_series

_MAX_BYTES = 256 << 20
_OWN = ("case_id", "patient_id", "prediction", "reference", "image")
# Of several files of one case, such as a mask in NIfTI and the SEG made from it, the first of these.
_PREFERRED = (".nii.gz", ".nii", ".nrrd", ".nhdr", ".mha", ".mhd", ".dcm")


@dataclass(frozen=True, slots=True, kw_only=True)
class MaskFiles:
    """The files of one case.

    Parameters
    ----------
    case_id, patient_id : str
    reference : Path
    prediction : Path or None
        None where there is none.
    image : Path or None
        Whose grid both are brought onto; needed where both are RTSTRUCT.
    columns : mapping of str to str
        Other columns of the CSV.
    """

    case_id: str
    patient_id: str
    reference: Path
    prediction: Path | None
    image: Path | None = None
    columns: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pairing:
    """Cases in the order of their names, and masks that belong to none.

    `patients_known` is False where nothing says which cases are of one patient: each then stands for one.
    """

    cases: tuple[MaskFiles, ...]
    lone_predictions: tuple[Path, ...] = ()
    lone_references: tuple[Path, ...] = ()
    patients_known: bool = False


def pair_masks(
    prediction: Path, reference: Path, *, cases: Path | None = None, strip: Sequence[str] = ()
) -> Pairing:
    """Find the masks of every case.

    Files go together when their names are equal but for the ending, letter case, and words such as
    `_seg` or `_mask` at the ends. A file that is named by such a word alone goes by the name of its
    folder: `case7/segmentation.nii.gz` belongs to `case7.nii.gz`. Of a case's folder that medseg wrote only the mask
    counts, and it goes by the name of that folder, wherever it lies. A DICOM SEG or RTSTRUCT that is left over belongs
    to the one that was drawn on the same series.

    Parameters
    ----------
    prediction, reference : Path
        Folders, or one file each.
    cases : Path, optional
        CSV with a column `case_id`, and any of `patient_id`, `prediction`, `reference`, `image` (paths from
        the folder of the masks, or of the CSV for `image`); other columns are kept. Where it does not name a
        mask, the file named like the case is taken. Cases that it does not list are left out.
    strip : sequence of str, optional
        More words at the ends of names that do not count.

    Raises
    ------
    ManifestError
        Names that cannot be told apart, no reference at all, or a damaged CSV; all problems at once.
    StorageError
        A path does not exist.
    """
    for path in (prediction, reference):
        if not path.exists():
            raise StorageError(f"{path} does not exist; correct the path")
    if cases is not None:
        return _by_csv(prediction, reference, cases, strip)
    if prediction.is_file() and reference.is_file():
        name = image_stem(reference.name)
        return Pairing(
            cases=(MaskFiles(case_id=name, patient_id=name, reference=reference, prediction=prediction),)
        )
    ours, theirs = _masks(prediction), _masks(reference)
    pairs, lone = _matched(ours, theirs, strip)
    found = [
        MaskFiles(
            case_id=_case_id(stem), patient_id=_case_id(stem), reference=path, prediction=pairs.get(stem)
        )
        for stem, path in sorted(theirs.items())
    ]
    if not found:
        raise ManifestError(
            f"{reference}: no mask in it; expected NIfTI, NRRD, MetaImage, PNG, TIFF or DICOM"
        )
    return Pairing(cases=tuple(found), lone_predictions=lone)


def _masks(folder: Path) -> dict[str, Path]:
    """Stem -> file; of several of one stem the preferred format."""
    found: dict[str, list[Path]] = {}
    files = [folder] if folder.is_file() else list_files(folder, below=True)
    own = _own_masks(files)
    for path in files:
        if path.parent in own:
            continue
        # DICOM files often have no ending.
        if ending_of(path.name) is None and (path.suffix or sniff(path) != "dicom"):
            continue
        home = path.parent.relative_to(folder) if folder.is_dir() else Path()
        stem = image_stem(path.name)
        if stem.casefold() in WORDS and home.name:
            home, stem = home.parent, home.name
        found.setdefault((home / stem).as_posix(), []).append(path)
    for home, path in own.items():
        named = home.name if [other.name for other in own].count(home.name) == 1 else ""
        found.setdefault(named or home.relative_to(folder).as_posix(), []).append(path)
    return {stem: min(paths, key=_preference) for stem, paths in found.items()}


def _own_masks(files: Sequence[Path]) -> dict[Path, Path]:
    """Folders of cases that medseg wrote, and the mask in each; pictures and maps beside it are no masks."""
    told = {path.parent for path in files if path.name == RECORD}
    masks = [path for name in (SEG, MASK) for path in files if path.name == name and path.parent in told]
    return {path.parent: path for path in masks}


def _preference(path: Path) -> tuple[int, str]:
    ending = (ending_of(path.name) or ".dcm").casefold()
    return (_PREFERRED.index(ending) if ending in _PREFERRED else len(_PREFERRED), path.name)


def _matched(
    ours: Mapping[str, Path], theirs: Mapping[str, Path], strip: Sequence[str]
) -> tuple[dict[str, Path], tuple[Path, ...]]:
    """Reference stem -> prediction, and predictions without a reference."""
    matches = match_stems(tuple(ours), tuple(theirs), strip=strip)
    if matches.ambiguous:
        raise manifest_error(
            "predictions and references",
            [
                f"{', '.join(left)} and {', '.join(right)} cannot be told apart; rename them, or pair them in a CSV "
                "(--cases)"
                for left, right in matches.ambiguous
            ],
        )
    drawn = pairs_by_series(
        {stem: _dicom_beside(ours[stem]) for stem in matches.images},
        {stem: _dicom_beside(theirs[stem]) for stem in matches.masks},
    )
    named = {right: ours[left] for left, right in matches.pairs}
    alone = tuple(ours[stem] for stem in matches.images if stem not in drawn.values())
    return named | {right: ours[left] for right, left in drawn.items()}, alone


def _dicom_beside(path: Path) -> Path:
    """The SEG that medseg wrote beside a mask of its own, which tells the series; else the mask itself."""
    seg = path.with_name(SEG)
    return seg if path.name == MASK and seg.exists() else path


def _case_id(stem: str) -> str:
    return stem.replace("/", "_")


def _by_csv(prediction: Path, reference: Path, cases: Path, strip: Sequence[str]) -> Pairing:
    ours, theirs = _masks(prediction), _masks(reference)
    places = (
        _Place(role="prediction", home=prediction, named=ours, strip=strip),
        _Place(role="reference", home=reference, named=theirs, strip=strip),
        _Place(role="image", home=cases.parent, named={}, strip=()),
    )
    found: dict[str, MaskFiles] = {}
    problems: list[str] = []
    rows = _rows(cases)
    for line, row in rows:
        case_id = row["case_id"]
        paths = {place.role: place.find(row) for place in places}
        lost = [f"{role} {path} does not exist" for role, path in paths.items() if path and not path.exists()]
        if not case_id or case_id in found:
            lost.append("case_id is empty" if not case_id else f"{case_id} is there twice")
        if paths["reference"] is None:
            lost.append(f"no reference named like {case_id} in {reference}")
        else:
            found[case_id] = MaskFiles(
                case_id=case_id,
                patient_id=row.get("patient_id") or case_id,
                reference=paths["reference"],
                prediction=paths["prediction"],
                image=paths["image"],
                columns={name: value for name, value in row.items() if name not in _OWN},
            )
        problems += [f"line {line}: {text}" for text in lost]
    if problems or not found:
        raise manifest_error(str(cases), problems or ["no cases below the header"])
    used = {path for case in found.values() for path in (case.prediction, case.reference)}
    return Pairing(
        cases=tuple(found.values()),
        lone_predictions=tuple(path for path in ours.values() if path not in used),
        lone_references=tuple(path for path in theirs.values() if path not in used),
        patients_known=all(row.get("patient_id") for _, row in rows),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Place:
    """Where the files of one role are looked for: as the row says, else by the name of the case."""

    role: str
    home: Path
    named: Mapping[str, Path]
    strip: Sequence[str]

    def find(self, row: Mapping[str, str]) -> Path | None:
        """The file of a row; None where the row names none and none is named like the case."""
        given = row.get(self.role, "")
        if given:
            return (self.home if self.home.is_dir() else self.home.parent) / given
        matches = match_stems((row["case_id"],), tuple(self.named), strip=self.strip)
        return self.named[matches.pairs[0][1]] if matches.pairs else None


def _rows(path: Path) -> list[tuple[int, dict[str, str]]]:
    """(line, cells) of a CSV with a column `case_id`."""
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise ManifestError(f"{path}: larger than {_MAX_BYTES >> 20} MiB, no list of cases")
        text = path.read_text(encoding="utf-8-sig")
    except OSError as err:
        raise StorageError(f"{path} cannot be read: {err.strerror or err}") from err
    except UnicodeDecodeError as err:
        raise ManifestError(f"{path}: expected UTF-8 text; save it as CSV UTF-8") from err
    reader = csv.DictReader(io.StringIO(text, newline=""))
    if "case_id" not in (reader.fieldnames or ()):
        raise ManifestError(
            f"{path}: expected a column case_id, found {', '.join(reader.fieldnames or ()) or 'none'}"
        )
    rows = []
    for row in reader:
        if None in row:
            raise ManifestError(f"{path}, line {reader.line_num}: more cells than the header has columns")
        rows.append((reader.line_num, {k: restore_text((v or "").strip()) for k, v in row.items()}))
    return rows
