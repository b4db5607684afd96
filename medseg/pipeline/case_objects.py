"""The DICOM objects of one case besides the SEG: measurements, contours over a film, a picture, the report."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from medseg.errors import InputError
from medseg.export.dicom_seg import WrittenSeg, write_dicom_seg
from medseg.export.dicom_sr import MeasuredValue, write_measurement_sr
from medseg.export.encapsulated_pdf import html_to_pdf, write_encapsulated_pdf
from medseg.export.key_slices import result_picture
from medseg.export.options import OBJECT_FILES, ExportName
from medseg.export.presentation_state import write_presentation_state
from medseg.export.result_object import BANNER, ModelFacts
from medseg.export.rtstruct import write_rtstruct
from medseg.export.secondary_capture import write_secondary_capture
from medseg.export.written import WrittenObject
from medseg.labels import LabelTable
from medseg.report.case_page import render_case_page
from medseg.report.language import Language
from medseg.report.page import Structure
from medseg.report.text import quantity_text
from medseg.volume import Volume

_REGION_COLOUR = "#8a97a5"


def export_object(
    kind: ExportName,
    folder: Path,
    *,
    volume: Volume,
    label_map: NDArray[Any],
    table: LabelTable,
    record: Mapping[str, Any],
    seg: Path | None,
) -> list[str]:
    """Write one object into the case's folder; what a reader must know of it, or why it was not written.

    Parameters
    ----------
    kind : ExportName
        A key of `OBJECT_FILES`.
    folder : Path
    volume, label_map, table
        The case.
    record : mapping
        Its measurements.json.
    seg : Path or None
        The DICOM SEG that was written before.
    """
    path = folder / OBJECT_FILES[kind]
    if kind in ("html", "html_zh"):
        from medseg.pipeline.lone_page import write_lone_page

        language: Language = "zh" if kind == "html_zh" else "en"
        write_lone_page(
            path, volume=volume, label_map=label_map, table=table, record=record, language=language
        )
        return []
    try:
        written = _write(kind, path, volume=volume, label_map=label_map, table=table, record=record, seg=seg)
    except InputError as err:
        # The mask is right whatever the header lacks; the other files are written and the reason is told.
        path.unlink(missing_ok=True)
        return [f"no {kind}: {err}"]
    return list(written.notes)


def _write(
    kind: ExportName,
    path: Path,
    *,
    volume: Volume,
    label_map: NDArray[Any],
    table: LabelTable,
    record: Mapping[str, Any],
    seg: Path | None,
) -> WrittenObject | WrittenSeg:
    facts = record["model"]
    model = ModelFacts(name=facts["name"], version=facts["version"], weights_sha256=facts["weights_sha256"])
    if kind in ("dicom_seg_labelmap", "rtstruct"):
        return _write_masks(kind, path, volume=volume, label_map=label_map, table=table, model=model)
    if kind == "measurement_sr":
        if seg is None:
            raise InputError("there is no DICOM SEG of the case that it could refer to")
        return write_measurement_sr(
            path, seg_path=seg, grid=volume.grid, table=table, measures=measured_values(record)
        )
    if kind == "presentation_state":
        return write_presentation_state(path, label_map, grid=volume.grid, table=table, model=model)
    if kind == "secondary_capture":
        return write_secondary_capture(
            path, volume, label_map, table=table, model=model, captions=captions(record)
        )
    if volume.source.format != "dicom":
        raise InputError("the image is not a DICOM file, so there is no instance to refer to")
    pdf = html_to_pdf(_page(volume, label_map, table, record))
    title = f"Segmentation report, {model.name} {model.version}"
    return write_encapsulated_pdf(path, pdf, grid=volume.grid, title=title, model=model)


def _write_masks(
    kind: ExportName,
    path: Path,
    *,
    volume: Volume,
    label_map: NDArray[Any],
    table: LabelTable,
    model: ModelFacts,
) -> WrittenSeg | WrittenObject:
    """The label map in a form other than the BINARY SEG."""
    if volume.source.format != "dicom":
        raise InputError("the image is not a DICOM file, so there is no instance to refer to")
    if kind == "rtstruct":
        return write_rtstruct(
            path,
            label_map,
            volume.grid,
            table,
            algorithm_name=model.name,
            algorithm_version=model.version,
            weights_sha256=model.weights_sha256,
        )
    return write_dicom_seg(
        path,
        label_map,
        volume.grid,
        table,
        kind="labelmap",
        algorithm_name=model.name,
        algorithm_version=model.version,
        weights_sha256=model.weights_sha256,
    )


def measured_values(record: Mapping[str, Any]) -> dict[str, list[MeasuredValue]]:
    """Numbers of measurements.json by structure, those that have a value."""
    return {
        name: [
            MeasuredValue(
                measure=measure, value=q["value"], unit=q["unit"], cut_off=q["cut_off"], note=q["note"]
            )
            for measure, q in item["quantities"].items()
            if q["value"] is not None
        ]
        for name, item in record["measurements"]["structures"].items()
    }


def captions(record: Mapping[str, Any]) -> dict[str, str]:
    """Size of every structure in words, where it was measured."""
    found = {}
    for name, item in record["measurements"]["structures"].items():
        sizes = [item["quantities"].get(measure) for measure in ("volume", "area")]
        said = [quantity_text(size) for size in sizes if size is not None and size["value"] is not None]
        if said:
            found[name] = said[0]
    return found


def _page(volume: Volume, label_map: NDArray[Any], table: LabelTable, record: Mapping[str, Any]) -> str:
    picture = result_picture(volume, label_map, table, banner=BANNER)
    stream = io.BytesIO()
    picture.image.save(stream, "JPEG", quality=88, subsampling=0)
    structures = [Structure(name=label.name, colour=label.colour) for label in table.labels]
    structures += [Structure(name=name, colour=_REGION_COLOUR, kind="region") for name in table.regions]
    return render_case_page(
        record, structures=structures, picture_jpeg=stream.getvalue(), notes=picture.notes
    )
