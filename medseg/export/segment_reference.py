"""What a measurement report takes from the SEG that it refers to: segments, their codes, sources, dates."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import highdicom as hd
import pydicom
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError
from pydicom.uid import SegmentationStorage

from medseg.errors import ImageReadError, InputError
from medseg.export.result_object import ModelFacts
from medseg.export.source_header import header_errors
from medseg.export.sr_concepts import LATERALITY, SIDES, Concept

_SEG_TAGS = (
    "SOPClassUID",
    "SOPInstanceUID",
    "SeriesInstanceUID",
    "StudyInstanceUID",
    "ContentDate",
    "ContentTime",
    "SeriesDate",
    "SeriesTime",
    "SegmentationType",
    "SegmentSequence",
    "ReferencedSeriesSequence",
)


def read_seg(path: Path) -> Dataset:
    """What a report needs of a SEG, without its thousands of frame items.

    Raises
    ------
    InputError
        Not a BINARY Segmentation, or one that does not say which images it was made of.
    ImageReadError
        Not DICOM, or damaged.
    """
    with header_errors(path):
        try:
            seg = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=list(_SEG_TAGS))
        except InvalidDicomError as err:
            raise ImageReadError(f"{path}: expected a DICOM Segmentation, found no DICOM file") from err
        kind = str(seg.get("SegmentationType") or seg.SOPClassUID.name)
        if seg.SOPClassUID != SegmentationStorage or kind != "BINARY":
            raise InputError(f"{path}: a measurement report refers to a BINARY Segmentation, found {kind}")
        if not seg.get("ReferencedSeriesSequence") or not seg.get("SegmentSequence"):
            raise InputError(f"{path}: the Segmentation does not say which images it was made of")
        return seg


def seg_dates(seg: Dataset) -> dict[str, str]:
    """Content and series date and time of a SEG, by keyword."""
    names = ("ContentDate", "ContentTime", "SeriesDate", "SeriesTime")
    return {name: str(seg[name].value) for name in names if seg.get(name)}


def _algorithm(segment: Dataset) -> Dataset | None:
    items = segment.get("SegmentationAlgorithmIdentificationSequence")
    return items[0] if items else None


def seg_model(seg: Dataset) -> ModelFacts:
    """The model that made the first segment, as the SEG names it."""
    algorithm = _algorithm(seg.SegmentSequence[0])
    if algorithm is None:
        name = str(seg.SegmentSequence[0].get("SegmentAlgorithmName") or "unknown")
        return ModelFacts(name=name, version="unknown")
    text = str(algorithm.get("AlgorithmParameters") or "")
    return ModelFacts(
        name=str(algorithm.AlgorithmName),
        version=str(algorithm.AlgorithmVersion),
        weights_sha256=text.partition("weights_sha256=")[2].strip("'\"")[:64],
    )


def segment_reference(seg: Dataset, number: int, *, flat: bool) -> hd.sr.ReferencedSegment:
    """Reference to a segment, and to its one image or its series: naming every slice would be most of the report."""
    series = seg.ReferencedSeriesSequence[0]
    image = series.ReferencedInstanceSequence[0]
    source: dict[str, Any] = (
        {
            "source_images": [
                hd.sr.SourceImageForSegmentation(
                    str(image.ReferencedSOPClassUID), str(image.ReferencedSOPInstanceUID)
                )
            ]
        }
        if flat
        else {"source_series": hd.sr.SourceSeriesForSegmentation(str(series.SeriesInstanceUID))}
    )
    return hd.sr.ReferencedSegment(
        sop_class_uid=str(seg.SOPClassUID),
        sop_instance_uid=str(seg.SOPInstanceUID),
        segment_number=number,
        **source,
    )


def plain_concept(item: Dataset) -> Concept:
    """A code without the modifiers that its sequence may hold; a concept in a report must have none."""
    value = item.get("CodeValue") or item.get("LongCodeValue") or item.get("URNCodeValue")
    return Concept(
        str(value), str(item.CodingSchemeDesignator), str(item.CodeMeaning), item.get("CodingSchemeVersion")
    )


def finding_site(segment: Dataset, side: Literal["left", "right"] | None = None) -> hd.sr.FindingSite:
    """Where it is: the segment's anatomic region, or else the structure itself, with its side.

    `side` is that of a segment that does not say it.
    """
    kind = segment.SegmentedPropertyTypeCodeSequence[0]
    regions = segment.get("AnatomicRegionSequence")
    place = regions[0] if regions else kind
    modifiers = [
        *(place.get("AnatomicRegionModifierSequence") or ()),
        *(kind.get("SegmentedPropertyTypeModifierCodeSequence") or ()),
    ]
    sides = [m for m in modifiers if (str(m.get("CodeValue")), str(m.CodingSchemeDesignator)) in SIDES]
    laterality = plain_concept(sides[0]) if sides else None if side is None else LATERALITY[side]
    return hd.sr.FindingSite(anatomic_location=plain_concept(place), laterality=laterality)


def algorithm_item(segment: Dataset) -> hd.sr.AlgorithmIdentification | None:
    """Algorithm identification, TID 4019, as the segment has it."""
    algorithm = _algorithm(segment)
    if algorithm is None:
        return None
    text = str(algorithm.get("AlgorithmParameters") or "")
    return hd.sr.AlgorithmIdentification(
        name=str(algorithm.AlgorithmName),
        version=str(algorithm.AlgorithmVersion),
        parameters=[text] if text else None,
    )


def evidence_of(seg: Dataset, source: Dataset) -> list[Dataset]:
    """The SEG and every image that it was made of, as far as a reference needs them."""
    own = Dataset()
    for name in ("SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID"):
        setattr(own, name, seg[name].value)
    listed, seen = [own], {str(source.SOPInstanceUID)}
    for series in seg.ReferencedSeriesSequence:
        for instance in series.ReferencedInstanceSequence:
            if str(instance.ReferencedSOPInstanceUID) in seen:
                continue
            seen.add(str(instance.ReferencedSOPInstanceUID))
            image = Dataset()
            image.SOPClassUID = instance.ReferencedSOPClassUID
            image.SOPInstanceUID = instance.ReferencedSOPInstanceUID
            image.SeriesInstanceUID = series.SeriesInstanceUID
            image.StudyInstanceUID = seg.StudyInstanceUID
            listed.append(image)
    return listed
