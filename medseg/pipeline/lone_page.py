"""The page of a case that is predicted without a run: no cohort, no reference, no settings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from medseg.export.display import window_of
from medseg.export.nifti import write_itksnap_labels
from medseg.labels import LabelTable
from medseg.provenance import sha256_file, versions, write_text
from medseg.report.case_data import CasePage, LogLine
from medseg.report.case_pictures import CaseImages, case_pictures, geometry_facts
from medseg.report.case_report import render_case
from medseg.report.hand_off import ITK_LABELS
from medseg.report.language import Language
from medseg.report.mosaic import Masks
from medseg.report.options import ReportOptions
from medseg.report.page import CaseReport, Structure
from medseg.report.viewer import case_viewer
from medseg.volume import Volume

REGION_COLOUR = "#8a97a5"
_STUDY = ("body_part", "view_position", "laterality", "patient_position", "manufacturer")


def write_lone_page(
    path: Path,
    *,
    volume: Volume,
    label_map: NDArray[Any],
    table: LabelTable,
    record: Mapping[str, Any],
    language: Language,
) -> None:
    """Write the page of one case, and the label description for ITK-SNAP, beside its other files.

    Parameters
    ----------
    path : Path
        Written whole or not at all.
    volume, label_map, table
        The case; class indices on the grid of the volume.
    record : mapping
        Its measurements.json.
    language : Language
    """
    page = lone_page(
        path.parent, volume=volume, label_map=label_map, table=table, record=record, language=language
    )
    masks = Masks(array=label_map, names=dict(enumerate(table.names[1:], start=1)))
    options = ReportOptions()
    viewer = case_viewer(
        page, images_of(volume, predicted=masks), option=options.viewer, max_bytes=options.viewer_size
    )
    write_text(path, render_case(replace(page, viewer=viewer)))
    write_itksnap_labels(path.parent / ITK_LABELS, table)


def lone_page(
    folder: Path,
    *,
    volume: Volume,
    label_map: NDArray[Any],
    table: LabelTable,
    record: Mapping[str, Any],
    language: Language = "en",
) -> CasePage:
    """What the page says, without a viewer; it names the files that are in the case's folder so far."""
    others = [
        p for p in sorted(folder.iterdir()) if p.is_file() and p.suffix in (".gz", ".dcm", ".png", ".json")
    ]
    files = {p.name: sha256_file(p) for p in others if p.name != "measurements.json"}
    case_id = str(record["case_id"])
    model = record["model"]
    page = CasePage(
        case=CaseReport(case_id=case_id, patient="", split="", record=record, files=files),
        structures=structures_of(table),
        language=language,
        title=str(model["name"]),
        codes=codes_of(table),
        facts=model_facts(record),
        study=study_facts(record),
        geometry=geometry_facts(volume, language),
        versions=versions(),
        log=tuple(LogLine(time="", level="W", text=note) for note in record["notes"]),
    )
    masks = Masks(array=label_map, names=dict(enumerate(table.names[1:], start=1)))
    return case_pictures(page, images_of(volume, predicted=masks))


def images_of(
    volume: Volume, *, predicted: Masks, reference: Masks | None = None, doubt: NDArray[Any] | None = None
) -> CaseImages:
    """What pictures are drawn from, in the window of the image's header or of its percentiles."""
    window = window_of(volume)
    low, high = window.limits
    unit = " HU" if volume.modality == "CT" else ""
    return CaseImages(
        volume=volume,
        gray=window.gray,
        window=f"{low:.4g} … {high:.4g}{unit}".replace("-", "−"),
        predicted=predicted,
        reference=reference,
        doubt=doubt,
    )


def structures_of(table: LabelTable) -> tuple[Structure, ...]:
    """Labels, then regions, with their colours."""
    labels = [Structure(name=label.name, colour=label.colour) for label in table.labels]
    return (*labels, *(Structure(name=n, colour=REGION_COLOUR, kind="region") for n in table.regions))


def codes_of(table: LabelTable) -> dict[str, str]:
    """Coded concept of each label that has one."""
    return {
        label.name: f"{label.code.scheme} {label.code.value}"
        for label in table.labels
        if label.code is not None
    }


def study_facts(record: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Of the examination, from the header of the image; nothing that names a person."""
    header = record["image"].get("header", {})
    rows = [(key, header[key]) for key in _STUDY if header.get(key)]
    return [*rows, *([("scanner", header["model"])] if header.get("model") else [])]


def model_facts(record: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Of the model, as the record names it."""
    model = record["model"]
    return [
        ("model", f"{model['name']} {model['version']}"),
        ("weights", f"SHA-256 {model['weights_sha256'][:16]}…"),
        ("licence", str(model["licence"])),
    ]
