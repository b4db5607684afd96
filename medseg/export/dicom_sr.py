"""Measurements of a segmentation -> DICOM SR, template TID 1500, one measurement group per structure.

The report refers to segments of a BINARY SEG: viewers and validators refuse references to a LABELMAP.
It lists source instances in its evidence and leaves the image library out, whose twenty items per
slice would be most of the report.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Literal, TypeAlias

import highdicom as hd
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes

from medseg import __version__
from medseg.errors import InputError
from medseg.export.identity import derived_uid
from medseg.export.options import ContentQualification
from medseg.export.result_object import ResultObject, result_object
from medseg.export.segment_reference import (
    algorithm_item,
    evidence_of,
    finding_site,
    plain_concept,
    read_seg,
    seg_dates,
    seg_model,
    segment_reference,
)
from medseg.export.sr_concepts import (
    COMMENT,
    CUT_OFF,
    QUALITY_FINDING,
    TITLE,
    MeasurementConcept,
    measurement_concept,
    procedure_of,
)
from medseg.export.written import WrittenObject
from medseg.labels import LabelTable
from medseg.volume import ImageGrid

SERIES_NUMBER = 911
_DIGITS = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredValue:
    """One number of one structure.

    Parameters
    ----------
    measure : str
        volume, area, long_axis, plane_long_axis, plane_short_axis, width, mean_intensity, sd_intensity,
        min_intensity or max_intensity; others are left out of the report.
    value : float
    unit : str
        ml, mm2, mm, pixels, HU, a UCUM code for PET, or 1 for MR.
    cut_off : bool
        Whether the edge of the image cuts off what was measured.
    note : str
        What to mind when reading it.
    """

    measure: str
    value: float
    unit: str
    cut_off: bool = False
    note: str = ""


_Group: TypeAlias = hd.sr.VolumetricROIMeasurementsAndQualitativeEvaluations
_Coded: TypeAlias = Sequence[tuple[MeasuredValue, MeasurementConcept]]


def write_measurement_sr(
    path: Path,
    *,
    seg_path: Path,
    grid: ImageGrid,
    table: LabelTable,
    measures: Mapping[str, Sequence[MeasuredValue]],
    created: datetime | None = None,
    comprehensive: bool = False,
    content_qualification: ContentQualification = "RESEARCH",
    sides: Mapping[str, Literal["left", "right"]] | None = None,
    series_number: int = SERIES_NUMBER,
) -> WrittenObject:
    """Write a measurement report on a segmentation.

    Tracking identifiers, finding, finding site with its side, and algorithm are those of the segments
    in the SEG. Numbers are rounded to six digits. A structure that the edge of the image cuts off
    carries the finding "Anatomy coverage incomplete" and a comment. UIDs are derived from the SEG's,
    the numbers and the versions of the software: the same report is the same instance.

    Parameters
    ----------
    path : Path
        Written whole or not at all. An older file is removed where nothing was measured.
    seg_path : Path
        BINARY Segmentation of the structures; a segment's label is the label's name.
    grid : ImageGrid
        Of the image: modality, and the source whose patient and study the report belongs to.
    table : LabelTable
        Labels that may be reported; regions are no segments and are not.
    measures : mapping of str to sequence of MeasuredValue
        By name of the structure, those that were found.
    created : datetime or None
        When the result was made; None: the content date of the SEG.
    comprehensive : bool
        Comprehensive SR (88.33), for archives that do not take Comprehensive 3D SR (88.34).
    content_qualification : {"RESEARCH", "PRODUCT", "SERVICE"}
    sides : mapping of str to {"left", "right"}, optional
        Side of structures whose segment does not say it.
    series_number : int, optional

    Returns
    -------
    WrittenObject

    Raises
    ------
    InputError
        The SEG is not BINARY or of another study, or lacks a structure that was measured.
    ImageReadError
        Source or SEG is damaged.
    StorageError
        The file cannot be written.

    References
    ----------
    DICOM PS3.16 TID 1500, TID 1411, TID 1419, TID 4019; CID 7021, 7469, 7470, 7472, 7474, 100.
    """
    flat = len(grid.shape) == 2
    seg = read_seg(seg_path)
    segments = {str(s.SegmentLabel): s for s in seg.SegmentSequence}
    found = {name: list(measures[name]) for name in table.names[1:] if measures.get(name)}
    lacking = [name for name in found if name[:64] not in segments]
    if lacking:
        raise InputError(
            f"{seg_path} has no segment {', '.join(lacking)}, which was measured; write it again"
        )
    coded = {name: _coded(values, grid) for name, values in found.items()}
    reported = {name: values for name, values in coded.items() if values}
    if not reported:
        path.unlink(missing_ok=True)
        return WrittenObject(path=None, notes=("No measurement report was written: nothing to report.",))
    with result_object(
        "SR",
        grid,
        series_number=series_number,
        model=seg_model(seg),
        determined_by={
            "seg": str(seg.SOPInstanceUID),
            "comprehensive": comprehensive,
            "values": {n: [asdict(v) for v, _ in values] for n, values in reported.items()},
            **({} if not sides else {"sides": dict(sides)}),
        },
        created=created,
        dates=None if created is not None else seg_dates(seg),
        qualification=content_qualification,
    ) as made:
        if str(made.source.StudyInstanceUID) != str(seg.StudyInstanceUID):
            raise InputError(f"{seg_path} belongs to another study than the image; write it again")
        groups = [
            _group(seg, segments[n[:64]], values, flat=flat, side=(sides or {}).get(n))
            for n, values in reported.items()
        ]
        report = _report(made, seg, groups, grid=grid, comprehensive=comprehensive)
        return made.save(report, path, notes=_left_out(found, coded))


def _left_out(found: Mapping[str, Sequence[MeasuredValue]], coded: Mapping[str, _Coded]) -> tuple[str, ...]:
    kept = {name: {value.measure for value, _ in values} for name, values in coded.items()}
    names = sorted({v.measure for n, values in found.items() for v in values if v.measure not in kept[n]})
    return (
        (f"Without a code for it, and so not in the measurement report: {', '.join(names)}.",)
        if names
        else ()
    )


def _coded(values: Sequence[MeasuredValue], grid: ImageGrid) -> _Coded:
    pairs = [
        (v, measurement_concept(v.measure, v.unit, modality=grid.modality, spatial_dims=len(grid.shape)))
        for v in values
    ]
    return [(value, concept) for value, concept in pairs if concept is not None]


def _group(
    seg: Dataset, segment: Dataset, values: _Coded, *, flat: bool, side: Literal["left", "right"] | None
) -> _Group:
    """Measurement group of a segment, TID 1411.

    Also of a radiograph's: TID 1410 refers to a frame of the SEG, and highdicom 0.28 then gives frame and
    segment number together, which dciodvfy and DCMTK refuse.
    """
    cut = any(value.cut_off for value, _ in values)
    group = hd.sr.VolumetricROIMeasurementsAndQualitativeEvaluations(
        tracking_identifier=hd.sr.TrackingIdentifier(
            uid=str(segment.TrackingUID), identifier=str(segment.TrackingID)
        ),
        referenced_segment=segment_reference(seg, int(segment.SegmentNumber), flat=flat),
        finding_type=plain_concept(segment.SegmentedPropertyTypeCodeSequence[0]),
        finding_sites=[finding_site(segment, side)],
        algorithm_id=algorithm_item(segment),
        measurements=[_measurement(value, concept) for value, concept in values],
        qualitative_evaluations=[hd.sr.QualitativeEvaluation(name=QUALITY_FINDING, value=CUT_OFF)]
        if cut
        else None,
    )
    for text in _comments([value for value, _ in values], cut=cut):
        item = hd.sr.TextContentItem(
            name=COMMENT, value=text, relationship_type=hd.sr.RelationshipTypeValues.CONTAINS
        )
        group[0].ContentSequence.append(item)
    return group


def _comments(values: Sequence[MeasuredValue], *, cut: bool) -> tuple[str, ...]:
    said = dict.fromkeys(value.note for value in values if value.note)
    first = "The edge of the image cuts the structure off: sizes are lower bounds." if cut else ""
    return tuple(text for text in (first, *said) if text)


def _measurement(value: MeasuredValue, concept: MeasurementConcept) -> hd.sr.Measurement:
    return hd.sr.Measurement(
        name=concept.name,
        value=float(f"{value.value:.{_DIGITS}g}"),
        unit=concept.unit,
        derivation=concept.derivation,
        method=concept.method,
    )


def _report(
    made: ResultObject,
    seg: Dataset,
    groups: Sequence[_Group],
    *,
    grid: ImageGrid,
    comprehensive: bool,
) -> hd.sr.Comprehensive3DSR | hd.sr.ComprehensiveSR:
    device = hd.sr.DeviceObserverIdentifyingAttributes(
        uid=derived_uid("device", f"medseg {__version__} {made.model.weights_sha256}"),
        name="medseg",
        manufacturer_name="medseg",
        model_name=made.model.name[:64],
        serial_number=made.model.weights_sha256[:16] or "none",
    )
    observer = hd.sr.ObserverContext(observer_type=codes.DCM.Device, observer_identifying_attributes=device)
    content = hd.sr.MeasurementReport(
        observation_context=hd.sr.ObservationContext(observer_device_context=observer),
        procedure_reported=procedure_of(grid.modality),
        imaging_measurements=groups,
        title=TITLE,
    )
    kind = hd.sr.ComprehensiveSR if comprehensive else hd.sr.Comprehensive3DSR
    return kind(
        evidence=[made.reference(), *evidence_of(seg, made.source)],
        content=content[0],
        is_complete=True,
        is_final=False,
        is_verified=False,
        **made.common(),
    )
