"""What the segments of a DICOM SEG show, and which algorithm made them."""

from __future__ import annotations

from typing import Any

import highdicom as hd
from numpy.typing import NDArray
from pydicom.sr.codedict import codes

from medseg.errors import GeometryError, LabelError
from medseg.export.identity import derived_uid
from medseg.labels import Label, LabelTable

_CATEGORY = hd.sr.CodedConcept("123037004", "SCT", "Anatomical Structure")
_MAX_SEGMENTS = 65535
_SIDES = {"left": ("7771000", "Left"), "right": ("24028007", "Right"), "both": ("51440002", "Right and left")}


def check_labels(label_map: NDArray[Any], table: LabelTable) -> None:
    """Refuse a label map that is no picture or volume, or not of the table."""
    if label_map.ndim not in (2, 3) or label_map.dtype.kind not in "bui":
        raise GeometryError(
            "expected a label map of whole numbers (columns, rows) or (columns, rows, slices), "
            f"found {label_map.dtype} of shape {label_map.shape}"
        )
    if label_map.size and not 0 <= int(label_map.min()) <= int(label_map.max()) < table.class_count:
        raise LabelError(
            f"the label map holds class indices {int(label_map.min())} to {int(label_map.max())}, "
            f"the table has 0 to {table.class_count - 1}"
        )


def check_codes(table: LabelTable) -> None:
    """Refuse labels without a coded concept, and more of them than a segment number can count."""
    if len(table.labels) > _MAX_SEGMENTS:
        raise LabelError(
            f"a DICOM SEG holds at most {_MAX_SEGMENTS} segments, the table has {len(table.labels)}"
        )
    for label in table.labels:
        _concept(label)


def describe_algorithm(name: str, version: str, weights_sha256: str) -> hd.AlgorithmIdentificationSequence:
    """The model that made the segments: name, version and the hash of its weights."""
    return hd.AlgorithmIdentificationSequence(
        name=name[:64],
        family=codes.cid7162.ArtificialIntelligence,
        version=version[:64],
        parameters={"weights_sha256": weights_sha256},
    )


def describe_segment(
    number: int,
    label: Label,
    table: LabelTable,
    algorithm: hd.AlgorithmIdentificationSequence,
    digest: str,
) -> hd.seg.SegmentDescription:
    """Segment `number` as DICOM describes it; its tracking UID follows from the content `digest`."""
    kind = _concept(label)
    twin = next((other for other in table.labels if other.name == label.pair), None)
    if twin is not None and twin.code == label.code and label.side in _SIDES:
        value, meaning = _SIDES[label.side]
        kind.SegmentedPropertyTypeModifierCodeSequence = [hd.sr.CodedConcept(value, "SCT", meaning)]
    red, green, blue = (int(label.colour[k : k + 2], 16) for k in (1, 3, 5))
    return hd.seg.SegmentDescription(
        segment_number=number,
        segment_label=label.name[:64],
        segmented_property_category=_CATEGORY,
        segmented_property_type=kind,
        algorithm_type=hd.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
        algorithm_identification=algorithm,
        tracking_uid=derived_uid(f"tracking {label.name}", digest),
        tracking_id=label.name,
        display_color=hd.color.CIELabColor.from_rgb(red, green, blue),
    )


def _concept(label: Label) -> hd.sr.CodedConcept:
    if label.code is None:
        raise LabelError(
            f"a DICOM SEG needs a coded concept for each label, {label.name} has none; "
            f"give labels.{label.name}.code, or leave dicom_seg out of export"
        )
    try:
        return hd.sr.CodedConcept(label.code.value, label.code.scheme, label.code.meaning)
    except ValueError as err:
        raise LabelError(f"the code of label {label.name} cannot be written in DICOM: {err}") from err
