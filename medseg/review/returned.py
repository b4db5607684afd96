"""Masks that come back: which file is of which case, and its voxels on the grid of the prediction."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from medseg.data.importers.file_names import ending_of, image_stem, list_files
from medseg.data.importers.matching import WORDS, affix_pattern, stem_key
from medseg.data.manifest import Case
from medseg.errors import GeometryError, StorageError
from medseg.io.nifti import read_nifti
from medseg.io.read import read_image
from medseg.io.sniff import sniff
from medseg.pipeline.named_masks import read_onto
from medseg.provenance import TEMPORARY_SUFFIX, sha256_file
from medseg.review.export import editing_grid, read_export_record
from medseg.review.results import ResultCase, Results
from medseg.volume import ImageGrid

_IMAGE_STEM = "image"


@dataclass(frozen=True, slots=True, kw_only=True)
class ReturnedMasks:
    """Files of a folder that was worked in.

    Parameters
    ----------
    masks : mapping of str to Path
        Case id -> the one mask that may have been changed.
    untouched : frozenset of str
        Cases whose exported masks are as they were.
    signoffs : tuple of Path
        Files named review*.json.
    problems : mapping of str to str
        Case id, or file name where no case is known, -> why nothing is taken.
    """

    masks: Mapping[str, Path]
    untouched: frozenset[str] = frozenset()
    signoffs: tuple[Path, ...] = ()
    problems: Mapping[str, str] = field(default_factory=dict)


def find_returned(folder: Path, results: Results) -> ReturnedMasks:
    """Pair the masks of a folder with the cases of results.

    In a folder that `--export` wrote, the digests of its record tell which file of a case was changed. In any other
    folder a mask belongs to the case that its name, or else the name of its folder, says; letter case and words
    such as `_mask` at the ends do not count. Where two files could be meant, neither is taken.

    Raises
    ------
    StorageError
        No such folder, or a damaged record.
    """
    if not folder.is_dir():
        raise StorageError(f"{folder} is no folder; name the one that holds the corrected masks")
    files = [path for path in list_files(folder, below=True) if TEMPORARY_SUFFIX not in path.name]
    signoffs = tuple(
        p for p in files if p.suffix == ".json" and p.name.startswith("review") and p.stem != "review-export"
    )
    record = read_export_record(folder)
    found = (
        _of_export(folder, record, results, files) if record is not None else _by_name(folder, results, files)
    )
    return ReturnedMasks(
        masks=found.masks, untouched=found.untouched, signoffs=signoffs, problems=found.problems
    )


def _of_export(folder: Path, record: Mapping[str, Any], results: Results, files: list[Path]) -> ReturnedMasks:
    masks: dict[str, Path] = {}
    untouched: set[str] = set()
    problems: dict[str, str] = {}
    homes = {entry["folder"]: entry for entry in record["cases"]}
    for entry in homes.values():
        case_id, case = entry["case_id"], results.cases.get(entry["case_id"])
        if case is None or case.mask_sha256() != entry.get("prediction_sha256"):
            problems[case_id] = (
                "the result that was exported is no longer there; its prediction has changed since"
            )
            continue
        candidates = [path for path in files if path.parent == folder / entry["folder"] and _is_mask(path)]
        changed = [path for path in candidates if sha256_file(path) != entry["files"].get(path.name)]
        if len(changed) > 1:
            names = ", ".join(path.name for path in changed)
            problems[case_id] = f"{len(changed)} masks were changed ({names}); keep the one that is right"
        elif changed:
            masks[case_id] = changed[0]
        else:
            untouched.add(case_id)
    strays = [p for p in files if _is_mask(p) and p.relative_to(folder).parts[0] not in homes]
    problems |= {
        str(path.relative_to(folder)): "it is in no folder of a case; move it into one" for path in strays
    }
    return ReturnedMasks(masks=masks, untouched=frozenset(untouched), problems=problems)


def _by_name(folder: Path, results: Results, files: list[Path]) -> ReturnedMasks:
    affix = affix_pattern()
    names = {stem_key(case.name, affix): case.case_id for case in results.cases.values()}
    exact = {case.name.casefold(): case.case_id for case in results.cases.values()}
    claims: dict[str, list[Path]] = {}
    problems: dict[str, str] = {}
    for path in filter(_is_mask, files):
        stem = image_stem(path.name)
        if stem.casefold() in WORDS and path.parent != folder:
            stem = path.parent.name
        case_id = exact.get(stem.casefold()) or names.get(stem_key(stem, affix))
        if case_id is None:
            problems[str(path.relative_to(folder))] = f"no case of {results.path} has this name"
        else:
            claims.setdefault(case_id, []).append(path)
    for case_id, paths in claims.items():
        if len(paths) > 1:
            listed = ", ".join(str(path.relative_to(folder)) for path in paths)
            problems[case_id] = f"{len(paths)} files may be meant ({listed}); keep the one that is right"
    masks = {case_id: paths[0] for case_id, paths in claims.items() if len(paths) == 1}
    return ReturnedMasks(masks=masks, problems=problems)


def _is_mask(path: Path) -> bool:
    """Whether a name is that of a mask; images of an export begin with `image`."""
    stem = image_stem(path.name).casefold()
    return ending_of(path.name) is not None and not (
        stem == _IMAGE_STEM or stem.startswith(f"{_IMAGE_STEM}_")
    )


def read_returned(path: Path, case: ResultCase, row: Case | None, results: Results) -> NDArray[Any]:
    """Class indices of a mask that came back, on the grid of the prediction.

    Parameters
    ----------
    path : Path
        NIfTI, NRRD, MetaImage or PNG; a segmentation of 3D Slicer; DICOM SEG or RTSTRUCT. Any order and direction of
        axes; whole numbers in any type.
    case : ResultCase
    row : Case or None
        Where the image is, which a SEG of a radiograph needs.
    results : Results

    Raises
    ------
    GeometryError
        Another grid; the message names both.
    LabelError
        A value or a structure that the table does not have, or fractions.
    ImageReadError
        The file cannot be read as a mask.
    """
    grid = read_nifti(case.mask).grid
    if sniff(path) == "dicom":
        return read_onto(path, _dicom_grid(grid, row), results.table)
    own = grid.affine is not None
    try:
        return read_onto(path, grid if own else editing_grid(grid), results.table)
    except GeometryError as err:
        hint = "" if own else "; edit the exported files, whose grid all programs agree on"
        raise GeometryError(f"{err}{hint}") from err


def _dicom_grid(grid: ImageGrid, row: Case | None) -> ImageGrid:
    """The grid of the DICOM image, which names its instances."""
    if grid.affine is not None or row is None:
        return grid
    return read_image(row.images).grid
