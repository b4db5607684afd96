"""Cases out for correction: image, mask and label names for the programs that edit masks, and a record of it.

A case's folder holds its image (one file for each channel), the predicted mask twice (mask.nii.gz, and
mask.seg.nrrd for 3D Slicer) and, where there is one, its DICOM SEG. The record `review-export.json` has the
digest of each file, so that the one that was changed is known when the folder comes back.
"""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medseg import __version__
from medseg.data.manifest import Case
from medseg.errors import InputError, InputRefusedError, MedsegError, StorageError
from medseg.export.nifti import write_itksnap_labels
from medseg.export.slicer import write_colour_table, write_slicer_segmentation
from medseg.io.nifti import write_nifti
from medseg.io.read import read_image
from medseg.io.write_image import write_image
from medseg.pipeline import case_files
from medseg.pipeline.progress import Reporter
from medseg.pipeline.run_folder import now
from medseg.provenance import TEMPORARY_SUFFIX, sha256_file, whole_file, write_json, write_text
from medseg.review.ranking import RankedCase
from medseg.review.results import ResultCase, Results
from medseg.review.viewers import (
    COLOURS,
    DESCRIPTIONS,
    MASK,
    SEGMENTATION,
    TITLES,
    command_text,
    viewer_command,
)
from medseg.volume import ImageGrid, Volume

SCHEMA = "medseg.review-export/1"
RECORD = "review-export.json"
HOWTO = "HOWTO.txt"
_CHANNELS_OF_COLOUR = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Exported:
    """What was exported: folder and image files of each case, and a sentence for each that could not be."""

    images: Mapping[str, tuple[str, ...]]
    problems: Mapping[str, str]


def export_cases(
    folder: Path,
    results: Results,
    ranked: Sequence[RankedCase],
    rows: Mapping[str, Case],
    *,
    reporter: Reporter,
) -> Exported:
    """Write the folders of cases and the record; a case that is there already stays as it is.

    Parameters
    ----------
    folder : Path
        New, empty, or an earlier export of the same results.
    results : Results
    ranked : sequence of RankedCase
        The cases to export, in the order of review.
    rows : mapping of str to Case
        Case id -> where its images are.
    reporter : Reporter

    Raises
    ------
    StorageError
        The folder holds something else, or cannot be written.
    """
    entries = {entry["case_id"]: entry for entry in _earlier(folder, results)}
    problems: dict[str, str] = {}
    for done, case in enumerate(ranked, start=1):
        if case.case_id not in entries:
            try:
                entries[case.case_id] = _export(folder, results, case, rows.get(case.case_id))
                write_json(folder / RECORD, _record(results, entries))
            except StorageError:
                raise
            except MedsegError as err:
                problems[case.case_id] = str(err)
        reporter.advanced("review", done, len(ranked), case.case_id)
    write_colour_table(folder / COLOURS, results.table)
    write_itksnap_labels(folder / DESCRIPTIONS, results.table)
    write_text(folder / HOWTO, _howto(entries))
    write_json(folder / RECORD, _record(results, entries))
    wanted = [case.case_id for case in ranked if case.case_id in entries]
    return Exported(images={i: tuple(entries[i]["images"]) for i in wanted}, problems=problems)


def read_export_record(folder: Path) -> dict[str, Any] | None:
    """The record of an export, None where the folder is none.

    Raises
    ------
    StorageError
        It is damaged.
    """
    path = folder / RECORD
    if not path.is_file():
        return None
    try:
        value: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if value["schema"] != SCHEMA or not all(
            {"case_id", "folder", "files"} <= {*c} for c in value["cases"]
        ):
            raise ValueError(f"it is not a record of {SCHEMA}")
    except (OSError, ValueError, KeyError, TypeError) as err:
        raise StorageError(
            f"{path} is damaged: {err}; take the masks out into a folder of their own, named by case"
        ) from err
    return value


def editing_grid(grid: ImageGrid) -> ImageGrid:
    """The grid that a case is edited on: its own, or for pictures without a place in space one that viewers agree on.

    Without an affine every program makes up its own, and a mask that comes back may be turned. The first axis
    then leads to the patient's left and the second to the back, which viewers show upright in their axial view;
    ITK reads a NIfTI file without an affine in the same way.
    """
    if grid.affine is not None:
        return grid
    spacing = (*(grid.spacing_mm or (1.0,) * len(grid.shape)), 1.0)[:3]
    return replace(grid, affine=np.diag([-spacing[0], -spacing[1], spacing[2], 1.0]))


def _earlier(folder: Path, results: Results) -> list[dict[str, Any]]:
    """Entries of an earlier export into the same folder, those whose result did not change."""
    record = read_export_record(folder)
    if record is None:
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise StorageError(
                f"{folder} holds other files; choose a new folder for --export, or one of an earlier export"
            )
        return []
    known: list[dict[str, Any]] = []
    for entry in record["cases"]:
        case = results.cases.get(entry["case_id"])
        if case is None or case.mask_sha256() != entry.get("prediction_sha256"):
            raise StorageError(
                f"{folder} is an export of other results ({entry['case_id']} differs); choose a new folder"
            )
        known.append(entry)
    return known


def _export(folder: Path, results: Results, ranked: RankedCase, row: Case | None) -> dict[str, Any]:
    case = results.cases[ranked.case_id]
    if row is None:
        raise InputError(
            "its image is not known; name the files or folders that were predicted with --images, or its list with "
            "--manifest"
        )
    case.require_prediction()
    volume = read_image(row.images, fourth_axis="channels")
    if case.image_sha256 and volume.source.sha256 != case.image_sha256:
        raise InputRefusedError(f"{row.images[0]} has changed since it was segmented; predict it again")
    classes = case_files.read_mask_file(case.folder, results.table).reshape(volume.spatial_shape)
    home = folder / case.name
    with _whole_folder(home) as part:
        images = _write_images(part, volume)
        _write_masks(part, classes, volume, results)
        files = [*images, MASK, SEGMENTATION, *_copied_seg(part, case)]
    return {
        "case_id": case.case_id,
        "folder": case.name,
        "level": ranked.level,
        "score": round(ranked.score, 4),
        "because": ranked.because,
        "prediction_sha256": case.mask_sha256(),
        "image_sha256": volume.source.sha256,
        "own_grid": volume.affine is not None,
        "images": images,
        "files": {name: sha256_file(home / name) for name in files},
    }


@contextlib.contextmanager
def _whole_folder(path: Path) -> Iterator[Path]:
    """Yield a folder beside `path` that becomes it when the block ends well."""
    if path.exists():
        raise StorageError(
            f"{path} exists, but the record does not know it: an export was killed there; move the folder away"
        )
    part = path.with_name(f".{path.name}{TEMPORARY_SUFFIX}")
    shutil.rmtree(part, ignore_errors=True)
    try:
        part.mkdir(parents=True)
        yield part
        part.rename(path)
    except OSError as err:
        raise StorageError(
            f"cannot write {path}: {err.strerror or err}; free space or choose another folder"
        ) from err
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _placed(volume: Volume) -> Volume:
    """The volume on the grid that it is edited on."""
    return replace(volume, affine=editing_grid(volume.grid).affine)


def _write_images(home: Path, volume: Volume) -> list[str]:
    """One file for each channel; a colour picture as one of gray."""
    placed, channels = _placed(volume), volume.array.shape[0]
    if volume.spatial_dims == 2 and channels == _CHANNELS_OF_COLOUR:
        gray = placed.array.mean(axis=0, keepdims=True, dtype=np.float32)
        placed, channels = replace(placed, array=gray), 1
    names = ["image.nii.gz"] if channels == 1 else [f"image_{n}.nii.gz" for n in range(channels)]
    for number, name in enumerate(names):
        write_image(home / name, replace(placed, array=placed.array[number : number + 1]))
    return names


def _write_masks(home: Path, classes: NDArray[Any], volume: Volume, results: Results) -> None:
    placed = _placed(volume)
    write_nifti(home / MASK, results.table.decode(classes), placed)
    write_slicer_segmentation(home / SEGMENTATION, classes, placed, results.table)


def _copied_seg(home: Path, case: ResultCase) -> list[str]:
    if case.seg is None:
        return []
    with whole_file(home / case_files.SEG) as part:
        shutil.copyfile(case.seg, part)
    return [case_files.SEG]


def _record(results: Results, entries: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    return {
        "schema": SCHEMA,
        "medseg": __version__,
        "created": now(),
        "results": results.path.resolve().name,
        "kind": results.kind,
        "model": results.model,
        "labels": results.table.to_json()["labels"],
        "cases": list(entries.values()),
    }


def _howto(entries: Mapping[str, Mapping[str, Any]]) -> str:
    lines = [
        "Masks to correct, the case that needs it most first. Start the commands in this folder.",
        "",
        f"Edit ONE of {MASK} (ITK-SNAP) and {SEGMENTATION} (3D Slicer) and save it under its name; the record knows",
        "which one was changed. Leave a mask that is right as it is, and accept it on the report page. Then:",
        "",
        "    medseg review RUN --import THIS_FOLDER",
        "",
        "In 3D Slicer: Segment Editor, then save the segmentation (.seg.nrrd). Do not rename the structures.",
        "",
    ]
    for entry in entries.values():
        lines.append(f"{entry['case_id']} ({entry['level']}): {entry['because']}")
        for viewer, title in TITLES.items():
            command = viewer_command(viewer, Path(entry["folder"]), images=entry["images"])
            lines.append(f"    {title}: {command_text(command)}")
        lines.append("")
    return "\n".join(lines)
