"""`medseg inspect`: what is in a file or folder, from headers alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from medseg.errors import StorageError
from medseg.geometry import axis_codes
from medseg.io.dicom_header import uid_name
from medseg.io.discover import Discovery, Found, discover
from medseg.io.series import SeriesVolume
from medseg.io.stacks import plane_of
from medseg.pipeline.result import Result

COLUMNS = (
    "key",
    "state",
    "modality",
    "description",
    "grid",
    "spacing mm",
    "orientation",
    "tilt",
    "files",
    "stored as",
)
_SHOWN_SKIPPED = 10


def inspect_folder(paths: Sequence[Path], *, identify: bool = False) -> Result:
    """Look through files and folders.

    Parameters
    ----------
    paths : sequence of Path
    identify : bool, optional
        Whether UIDs are told; pseudonyms of patients and studies stand for them otherwise.

    Returns
    -------
    Result
        `facts` holds volumes, images, masks and skipped files; exit code 3 where there is no image at all.

    Raises
    ------
    StorageError
        A path does not exist.
    """
    missing = [path for path in paths if not path.exists()]
    if missing:
        raise StorageError(f"{missing[0]} does not exist; correct the path")
    found = discover(paths)
    masks = {label.path for label in found.labels}
    found = replace(found, skipped=tuple(item for item in found.skipped if item.path not in masks))
    facts = {
        "format": 1,
        "volumes": [
            _volume(image, image.volume, identify) for image in found.images if image.volume is not None
        ],
        "images": [_image(image) for image in found.images if image.volume is None],
        "masks": [{"kind": label.kind, "file": str(label.path)} for label in found.labels],
        "skipped": [{"file": str(item.path), "reason": item.reason} for item in found.skipped],
    }
    lines = _lines(found)
    return Result(exit_code=0 if found.images or found.labels else 3, lines=tuple(lines), facts=facts)


def table_rows(facts: dict[str, Any]) -> list[tuple[str, ...]]:
    """One row of `COLUMNS` for each volume and each image."""
    rows: list[tuple[str, ...]] = [
        (
            volume["key"],
            _state(volume),
            volume["modality"] or "?",
            ", ".join(text for text in (volume["description"], volume["part"]) if text),
            " x ".join(str(n) for n in volume["shape"]) if all(volume["shape"]) else "?",
            _numbers(volume["spacing_mm"]),
            volume["orientation"],
            f"{volume['tilt_degrees']:.1f}°" if volume["tilt_degrees"] else "",
            str(volume["files"]),
            volume["transfer_syntax"],
        )
        for volume in facts["volumes"]
    ]
    images: list[tuple[str, ...]] = [
        (
            "",
            "ok",
            image["modality"] or image["kind"],
            Path(image["file"]).name,
            "",
            "",
            "",
            "",
            "1",
            image["kind"],
        )
        for image in facts["images"]
    ]
    return rows + images


def _state(volume: dict[str, Any]) -> str:
    if volume["problems"]:
        return "refused"
    return (
        "ok"
        if not volume["notes"]
        else f"ok, {len(volume['notes'])} note{'s' if len(volume['notes']) > 1 else ''}"
    )


def _numbers(values: Sequence[float] | None) -> str:
    return "?" if values is None else " x ".join(f"{v:.4g}" for v in values)


def _volume(image: Found, volume: SeriesVolume, identify: bool) -> dict[str, Any]:
    grid, first = volume.grid, volume.slices[0]
    syntaxes = Counter(header.stored_as for header in volume.slices)
    shown: dict[str, Any] = {
        "key": volume.key,
        "case_id": image.case_id,
        "patient": image.patient_id,
        "modality": volume.modality,
        "series_number": volume.series_number,
        "description": volume.description,
        "part": volume.part,
        "parts": volume.parts,
        "localizer": volume.is_localizer,
        "shape": list(grid.shape),
        "spacing_mm": None if grid.spacing_mm is None else list(grid.spacing_mm),
        "affine": None if grid.affine is None else grid.affine.tolist(),
        "orientation": " ".join(
            (plane_of(first), axis_codes(grid.affine) if grid.affine is not None else "")
        ).strip(),
        "tilt_degrees": round(volume.tilt_degrees, 2),
        "files": len({header.path for header in volume.slices}),
        "folder": str(first.path.parent),
        "transfer_syntax": ", ".join(_short(uid) for uid in syntaxes),
        "value_type": first.value_type,
        "manufacturer": grid.header.get("manufacturer", ""),
        "problems": list(volume.problems),
        "notes": list(volume.notes),
    }
    if identify:
        shown |= {
            "study_instance_uid": first.study_instance_uid,
            "series_instance_uid": first.series_instance_uid,
            "frame_of_reference_uid": first.frame_of_reference_uid,
        }
    return shown


def _image(image: Found) -> dict[str, Any]:
    return {
        "case_id": image.case_id,
        "kind": image.kind,
        "modality": image.modality,
        "file": str(image.paths[0]),
    }


def _short(uid: str) -> str:
    name = uid_name(uid) if uid else "no meta header"
    return _SHORT.get(name.split(" (1.2")[0], name.split(" (")[0])


_SHORT = {
    "Explicit VR Little Endian": "explicit",
    "Implicit VR Little Endian": "implicit",
    "Explicit VR Big Endian": "big endian",
    "Deflated Explicit VR Little Endian": "deflated",
    "JPEG 2000 Image Compression (Lossless Only)": "JPEG 2000 lossless",
    "JPEG 2000 Image Compression": "JPEG 2000",
    "JPEG-LS Lossless Image Compression": "JPEG-LS",
    "JPEG Lossless, Non-Hierarchical, First-Order Prediction (Process 14 [Selection Value 1])": "JPEG lossless",
    "RLE Lossless": "RLE",
}


def _lines(found: Discovery) -> list[str]:
    """Problems and notes, masks and what was left out, in sentences."""
    lines = []
    for image in found.images:
        if image.volume is not None:
            lines += [f"{image.volume.key} cannot be read: {problem}" for problem in image.volume.problems]
            lines += [f"{image.volume.key}: {note}" for note in image.volume.notes]
    lines += [f"mask: {label.path.name} ({label.kind})" for label in found.labels]
    lines += [f"left out {item.path.name}: {item.reason}" for item in found.skipped[:_SHOWN_SKIPPED]]
    if len(found.skipped) > _SHOWN_SKIPPED:
        lines.append(f"left out {len(found.skipped) - _SHOWN_SKIPPED} more files; --json lists them")
    return lines
