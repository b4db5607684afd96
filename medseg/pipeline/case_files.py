"""The files of one case: written by `predict` and `export`, read by `evaluate` and `report`.

`segmentation.nii.gz` and `measurements.json` are what later stages stand on; the JSON is written last, so a
case is done where it is there with the right key. What writes DICOM is imported when it is written: a picture
that is segmented needs none of it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from medseg.data.tables import write_csv
from medseg.errors import InputError, StorageError
from medseg.export.nifti import write_maps, write_segmentation
from medseg.export.options import OBJECT_FILES, TARGET_FILES, ExportName
from medseg.export.picture import write_mask_png, write_overlay_png
from medseg.inference.options import MAP_NAMES, MapName
from medseg.io.nifti import read_nifti
from medseg.labels import LabelTable
from medseg.pipeline.recognition import INSTANCES, write_rows
from medseg.provenance import sha256_file, write_json
from medseg.report.hand_off import ITK_LABELS
from medseg.volume import Volume

if TYPE_CHECKING:
    from medseg.pipeline.model import CaseResult, LoadedModel

MASK = "segmentation.nii.gz"
RECORD = "measurements.json"
SEG = "segmentation.dcm"
NO_SEG = "no DICOM SEG"
PAGES = ("html", "html_zh")
SPREAD_MAPS = ("disagreement", "variance")
FILES: dict[ExportName, tuple[str, ...]] = {
    "nifti": (MASK, "segmentation.json"),
    "dicom_seg": (SEG,),
    **{kind: (name,) for kind, name in OBJECT_FILES.items()},
    **{kind: (name,) for kind, name in TARGET_FILES.items()},
    "png": ("mask.png",),
    "overlay": ("overlay.png",),
    "entropy": ("entropy.nii.gz",),
    "disagreement": ("disagreement.nii.gz",),
    "variance": ("variance.nii.gz",),
    "probabilities": ("probability_*.nii.gz",),
}


NAMES = frozenset(
    {
        MASK,
        RECORD,
        "overlay.png",
        "measurements.csv",
        INSTANCES,
        ITK_LABELS,
        *(name for names in FILES.values() for name in names),
    }
)
"""Every file that a case's folder may get; * stands for a structure."""


def maps_of(kinds: Sequence[ExportName]) -> tuple[MapName, ...]:
    """Maps that a prediction has to give for these exports."""
    return tuple(name for name in MAP_NAMES if name in kinds)


def write_result(
    folder: Path,
    *,
    case_id: str,
    key: str,
    volume: Volume,
    result: CaseResult,
    model: LoadedModel,
    export_notes: Sequence[str] | None = None,
) -> dict[str, Any]:
    """Write mask, overlay, table and record of one case; the record.

    Where notes of `export_case` are given, the record tells them and the files that the folder has.
    """
    write_segmentation(folder / MASK, result.label_map, volume, model.table)
    if volume.spatial_dims == 2:
        write_overlay_png(folder / "overlay.png", volume, result.label_map, model.table)
    write_maps(folder, result.prediction.maps, volume)
    write_csv(folder / "measurements.csv", result.measures.rows())
    if result.instances is not None:
        write_rows(folder, result.instances.rows())
    record = case_record(case_id=case_id, key=key, volume=volume, result=result, model=model)
    if export_notes is not None:
        names = sorted(path.name for pattern in NAMES for path in folder.glob(pattern))
        record |= {"export_notes": list(export_notes), "files": names}
    write_json(folder / RECORD, record)
    return record


def case_record(
    *, case_id: str, key: str, volume: Volume, result: CaseResult, model: LoadedModel
) -> dict[str, Any]:
    """All that measurements.json says of one case."""
    flags = result.flags.to_json()
    return {
        "format": 1,
        "case_id": case_id,
        "key": key,
        "model": model.facts,
        "engine": model.engine_facts,
        **({} if model.fold is None else {"fold": model.fold}),
        "image": image_facts(volume),
        "verdict": result.flags.verdict,
        "flags": flags["flags"],
        "checks": flags["checks"],
        "gate": result.gate.to_json(),
        "confidence": {name: dict(values) for name, values in result.prediction.confidence.items()},
        "entropy": dict(result.prediction.entropy),
        **({"disagreement": dict(result.prediction.disagreement)} if result.prediction.disagreement else {}),
        **({"maps": sorted(result.prediction.maps)} if result.prediction.maps else {}),
        "passes": result.prediction.passes,
        "windows": dict(result.prediction.windows),
        "notes": [*volume.notes, *result.prediction.notes],
        "measurements": result.measures.to_json(),
        **_instances(result, model),
    }


def _instances(result: CaseResult, model: LoadedModel) -> dict[str, Any]:
    """The recognised targets and what an instance is; nothing where they were not asked for."""
    if result.instances is None or model.recognise is None:
        return {}
    options = model.recognise.model_dump(mode="json")
    return {"instances": {**result.instances.to_json(), "options": options}}


def image_facts(volume: Volume) -> dict[str, Any]:
    """What a record says of the image: grid, kind, hashes; no identifiers."""
    return {
        "shape": list(volume.spatial_shape),
        "channels": int(volume.array.shape[0]),
        "spacing_mm": None if volume.spacing_mm is None else list(volume.spacing_mm),
        "spacing_origin": volume.spacing_origin,
        "patient_orientation": volume.patient_orientation,
        "modality": volume.modality,
        "format": volume.source.format,
        "header": dict(volume.header),
        "file_sha256": volume.source.sha256,
        "pixel_sha256": volume.pixel_sha256,
    }


def read_record(folder: Path) -> dict[str, Any] | None:
    """The record of a finished case, None where there is none."""
    path = folder / RECORD
    if not path.exists():
        return None
    try:
        value: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as err:
        raise StorageError(f"{path} is damaged: {err}; remove it and run again") from err
    return value


def is_done(folder: Path, key: str) -> bool:
    """Whether the case was finished with this very key."""
    record = read_record(folder)
    return record is not None and record.get("key") == key and (folder / MASK).exists()


def finished_record(folder: Path) -> dict[str, Any] | None:
    """The record of a case that names its files, if they are all there; None also where it is damaged."""
    try:
        record = read_record(folder)
    except StorageError:
        return None
    if not isinstance(record, dict) or not {"key", "verdict", "measurements", "export_notes", "files"} <= {
        *record
    }:
        return None
    return record if all((folder / name).is_file() for name in record["files"]) else None


def read_mask_file(folder: Path, table: LabelTable) -> NDArray[np.uint8]:
    """Class indices of a written mask, (*source)."""
    values = np.asarray(read_nifti(folder / MASK).array[0]).astype(np.int64)
    lookup = np.zeros(int(table.values.max()) + 1, dtype=np.uint8)
    lookup[table.values] = np.arange(table.class_count)
    return np.asarray(lookup[values], dtype=np.uint8)


def read_map(folder: Path, name: MapName, shape: tuple[int, ...]) -> NDArray[np.float32] | None:
    """A written map, 0 to 1, (*source); None where there is none."""
    path = folder / f"{name}.nii.gz"
    if not path.exists():
        return None
    return np.asarray(read_nifti(path).array[0], dtype=np.float32).reshape(shape)


def export_case(
    folder: Path,
    *,
    kinds: Sequence[ExportName],
    volume: Volume,
    label_map: NDArray[Any],
    table: LabelTable,
    record: Mapping[str, Any],
) -> tuple[dict[str, str], tuple[str, ...]]:
    """Write the asked-for files; their names with hashes, and a sentence for each that cannot be.

    `record` is the case's measurements.json, which need not be written yet.
    """
    notes: list[str] = []
    seg: Path | None = None
    # Segmentations go first: the measurement reports refer to them. Pages name all other files.
    for kind in sorted(kinds, key=lambda name: (name in PAGES, name not in ("dicom_seg", "instance_seg"))):
        if kind == "dicom_seg":
            said = _export_seg(folder, volume=volume, label_map=label_map, table=table, model=record["model"])
            failed = any(text.startswith(NO_SEG) for text in said)
            seg = folder / SEG if not failed and (folder / SEG).exists() else None
            notes += said
        elif kind in TARGET_FILES:
            from medseg.pipeline.target_objects import export_instances

            notes += export_instances(
                kind, folder, volume=volume, label_map=label_map, table=table, record=record
            )
        elif kind in OBJECT_FILES:
            from medseg.pipeline.case_objects import export_object

            notes += export_object(
                kind, folder, volume=volume, label_map=label_map, table=table, record=record, seg=seg
            )
        elif kind in ("png", "overlay") and volume.spatial_dims != 2:
            notes.append(f"no {kind}: the image is a volume")
        elif kind in SPREAD_MAPS and kind not in record.get("maps", ()):
            notes.append(f"no map of the {kind}: the model is a single network")
        elif kind == "png":
            write_mask_png(folder / "mask.png", label_map, table)
    names = [path.name for kind in kinds for pattern in FILES[kind] for path in sorted(folder.glob(pattern))]
    return {name: sha256_file(folder / name) for name in names}, tuple(dict.fromkeys(notes))


def _export_seg(
    folder: Path, *, volume: Volume, label_map: NDArray[Any], table: LabelTable, model: dict[str, str]
) -> list[str]:
    if volume.source.format != "dicom":
        return [f"{NO_SEG}: the image is not a DICOM file, so there is no instance to refer to"]
    from medseg.export.dicom_seg import write_dicom_seg

    try:
        written = write_dicom_seg(
            folder / SEG,
            label_map,
            volume.grid,
            table,
            algorithm_name=model["name"],
            algorithm_version=model["version"],
            weights_sha256=model["weights_sha256"],
        )
    except InputError as err:
        # The mask is right whatever the header lacks; the other files are written and the reason is told.
        return [f"{NO_SEG}: {err}"]
    return list(written.notes)
