"""The files of one case: written by `predict` and `export`, read by `evaluate` and `report`.

`segmentation.nii.gz` and `measurements.json` are what later stages stand on; the JSON is written last, so a
case is done where it is there with the right key.
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
from medseg.export.dicom_seg import write_dicom_seg
from medseg.export.nifti import write_segmentation
from medseg.export.options import ExportName
from medseg.export.picture import write_mask_png, write_overlay_png
from medseg.io.nifti import read_nifti
from medseg.labels import LabelTable
from medseg.pipeline import recognition
from medseg.pipeline.case_objects import OBJECTS, export_object
from medseg.provenance import sha256_file, write_json
from medseg.volume import Volume

if TYPE_CHECKING:
    from medseg.pipeline.model import CaseResult, LoadedModel

MASK = "segmentation.nii.gz"
RECORD = "measurements.json"
SEG = "segmentation.dcm"
NO_SEG = "no DICOM SEG"
FILES: dict[ExportName, tuple[str, ...]] = {
    "nifti": (MASK, "segmentation.json"),
    "dicom_seg": (SEG,),
    **{kind: (name,) for kind, name in OBJECTS.items()},
    **{kind: (name,) for kind, name in recognition.OBJECTS.items()},
    "png": ("mask.png",),
    "overlay": ("overlay.png",),
}


def write_result(
    folder: Path, *, case_id: str, key: str, volume: Volume, result: CaseResult, model: LoadedModel
) -> dict[str, Any]:
    """Write mask, overlay, table and record of one case; the record."""
    write_segmentation(folder / MASK, result.label_map, volume, model.table)
    if volume.spatial_dims == 2:
        write_overlay_png(folder / "overlay.png", volume, result.label_map, model.table)
    write_csv(folder / "measurements.csv", result.measures.rows())
    if result.instances is not None:
        write_csv(folder / recognition.INSTANCES, result.instances.rows())
    record = case_record(case_id=case_id, key=key, volume=volume, result=result, model=model)
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
        **({} if model.fold is None else {"fold": model.fold}),
        "image": image_facts(volume),
        "verdict": result.flags.verdict,
        "flags": flags["flags"],
        "checks": flags["checks"],
        "gate": result.gate.to_json(),
        "confidence": {name: dict(values) for name, values in result.prediction.confidence.items()},
        "entropy": dict(result.prediction.entropy),
        "passes": result.prediction.passes,
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


def read_mask_file(folder: Path, table: LabelTable) -> NDArray[np.uint8]:
    """Class indices of a written mask, (*source)."""
    values = np.asarray(read_nifti(folder / MASK).array[0]).astype(np.int64)
    lookup = np.zeros(int(table.values.max()) + 1, dtype=np.uint8)
    lookup[table.values] = np.arange(table.class_count)
    return np.asarray(lookup[values], dtype=np.uint8)


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
    # Segmentations go first: the measurement reports refer to them.
    for kind in sorted(kinds, key=lambda name: name not in ("dicom_seg", "instance_seg")):
        if kind == "dicom_seg":
            said = _export_seg(folder, volume=volume, label_map=label_map, table=table, model=record["model"])
            failed = any(text.startswith(NO_SEG) for text in said)
            seg = folder / SEG if not failed and (folder / SEG).exists() else None
            notes += said
        elif kind in recognition.OBJECTS:
            notes += recognition.export_instances(
                kind, folder, volume=volume, label_map=label_map, table=table, record=record
            )
        elif kind in OBJECTS:
            notes += export_object(
                kind, folder, volume=volume, label_map=label_map, table=table, record=record, seg=seg
            )
        elif kind in ("png", "overlay") and volume.spatial_dims != 2:
            notes.append(f"no {kind}: the image is a volume")
        elif kind == "png":
            write_mask_png(folder / "mask.png", label_map, table)
    names = [name for kind in kinds for name in FILES[kind] if (folder / name).exists()]
    return {name: sha256_file(folder / name) for name in names}, tuple(notes)


def _export_seg(
    folder: Path, *, volume: Volume, label_map: NDArray[Any], table: LabelTable, model: dict[str, str]
) -> list[str]:
    if volume.source.format != "dicom":
        return [f"{NO_SEG}: the image is not a DICOM file, so there is no instance to refer to"]
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
