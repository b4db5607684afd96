"""Label map of a projection radiograph -> DICOM Segmentation object.

A projection image has no patient geometry, so its SEG has none either: no frame of reference, no
plane position, orientation or pixel measures. Each frame refers to the one source image with
"spatial locations preserved", and has its rows and columns (DICOM PS3.3 A.51, C.8.20).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import highdicom as hd
import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.filewriter import correct_ambiguous_vr
from pydicom.uid import UID, ExplicitVRLittleEndian

from medseg import __version__
from medseg.export.identity import content_digest, derived_uid
from medseg.export.options import ContentQualification
from medseg.export.segments import check_labels, describe_algorithm, describe_segment
from medseg.export.source_header import (
    IDENTITY,
    SourceHeader,
    check_projection,
    content_dates,
    header_errors,
    read_source,
    without_identity,
)
from medseg.labels import LabelTable
from medseg.provenance import whole_file

SERIES_NUMBER = 901
"""High, so that viewers list the result after the images; 902 where the source is series 901."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WrittenSeg:
    """What came of an export.

    Parameters
    ----------
    path : Path or None
        None where no structure was found: a SEG with nothing in it is not written.
    sop_instance_uid, series_instance_uid : str
        "" where no file was written.
    notes : tuple of str
        What a reader of the result must know, one sentence each.
    """

    path: Path | None
    sop_instance_uid: str = ""
    series_instance_uid: str = ""
    notes: tuple[str, ...] = ()


def write_dicom_seg(
    path: Path,
    label_map: NDArray[Any],
    source_path: Path,
    table: LabelTable,
    *,
    algorithm_name: str,
    algorithm_version: str,
    weights_sha256: str,
    created: datetime | None = None,
    content_qualification: ContentQualification = "RESEARCH",
) -> WrittenSeg:
    """Write a BINARY Segmentation of one CR, DX or other single-frame projection image.

    Segment n is class n of the table, also where a structure before it is missing: every label is
    described, and those without a pixel have no frame. UIDs are derived from what determines the
    bytes (source instance, its patient and study, label map, labels, model, versions of the
    software, dates), so the same result is the same instance, byte for byte, and a changed one
    never takes its UID.

    Parameters
    ----------
    path : Path
        Written whole or not at all. An older file is removed where no structure was found.
    label_map : (I, J) integer array
        Class indices on the source's grid, i its column.
    source_path : Path
        The DICOM file that the label map belongs to.
    table : LabelTable
        Every label needs a code. Where both labels of a pair have one code, the side is its modifier.
    algorithm_name, algorithm_version, weights_sha256 : str
        Of the model bundle; name and version are cut at 64 characters.
    created : datetime or None
        When the result was made, local time: the content and series date, and so part of what
        makes the instance. None: the content date is the source's own (content, acquisition,
        series or study date), and 1900-01-01 where it has none.
    content_qualification : {"RESEARCH", "PRODUCT", "SERVICE"}

    Returns
    -------
    WrittenSeg

    Raises
    ------
    InputError
        The source lacks what a SEG must refer to, or is not a single-frame projection image.
    ImageReadError
        The source is not a DICOM file, or its header is damaged.
    GeometryError
        The label map does not have the source's columns and rows.
    LabelError
        A label without a coded concept, or a class index that the table does not have.
    StorageError
        The file cannot be written.

    References
    ----------
    DICOM PS3.3 A.51 and C.8.20; PS3.5 B.2 for UIDs made from UUIDs.
    """
    check_labels(label_map, table)
    if not label_map.any():
        path.unlink(missing_ok=True)
        return WrittenSeg(path=None, notes=("No DICOM SEG was written, because no structure was found.",))
    with header_errors(source_path):
        header = read_source(source_path)
        source = header.dataset
        check_projection(source, label_map.shape)
        dates, notes = content_dates(source, created)
        model = (algorithm_name, algorithm_version, weights_sha256)
        digest = _digest(label_map, source, table, model, [dates, content_qualification])
    algorithm = describe_algorithm(*model)
    segments = [
        describe_segment(n, label, table, algorithm, digest) for n, label in enumerate(table.labels, 1)
    ]
    with header_errors(source_path):
        seg = _build(source, label_map, segments, digest=digest)
        seg.SeriesDescription = f"medseg {algorithm_name} {algorithm_version}"[:58] + " [SEG]"
        seg.ContentQualification = content_qualification
        seg.DeviceSerialNumber = weights_sha256[:16] or "none"
        _finish(seg, source, digest=digest, dates=dates)
        _set_character_set(seg, header)
        with whole_file(path) as part:
            seg.save_as(part, enforce_file_format=True)
    return WrittenSeg(
        path=path,
        sop_instance_uid=str(seg.SOPInstanceUID),
        series_instance_uid=str(seg.SeriesInstanceUID),
        notes=(*notes, *_missing(label_map, table)),
    )


def _missing(label_map: NDArray[Any], table: LabelTable) -> tuple[str, ...]:
    names = [label.name for n, label in enumerate(table.labels, 1) if not (label_map == n).any()]
    return (f"Not found, and so without a frame in the DICOM SEG: {', '.join(names)}.",) if names else ()


def _digest(
    label_map: NDArray[Any], source: Dataset, table: LabelTable, model: tuple[str, str, str], other: list[Any]
) -> str:
    """Hash of all that determines the file."""
    return content_digest(
        label_map,
        source=str(source.SOPInstanceUID),
        identity=[str(source.get(name) or "") for name in IDENTITY],
        labels=table.to_json()["labels"],
        model=list(model),
        software=[__version__, *(metadata.version(name) for name in ("highdicom", "pydicom"))],
        other=other,
    )


def _build(
    source: Dataset,
    label_map: NDArray[Any],
    segments: Sequence[hd.seg.SegmentDescription],
    *,
    digest: str,
) -> hd.seg.Segmentation:
    # Class n is segment n: both count the table's labels from 1.
    pixels = np.ascontiguousarray(label_map.T).astype(np.uint8 if len(segments) < 256 else np.uint16)
    seg = hd.seg.Segmentation(
        source_images=[without_identity(source)],
        pixel_array=pixels,
        segmentation_type=hd.seg.SegmentationTypeValues.BINARY,
        segment_descriptions=segments,
        series_instance_uid=derived_uid("series", digest),
        series_number=SERIES_NUMBER + (source.get("SeriesNumber") == SERIES_NUMBER),
        sop_instance_uid=derived_uid("instance", digest),
        instance_number=1,
        manufacturer="medseg",
        manufacturer_model_name="medseg",
        software_versions=__version__,
        device_serial_number="none",
        content_label="SEGMENTATION",
        content_creator_name="medseg^",
        transfer_syntax_uid=ExplicitVRLittleEndian,
        omit_empty_frames=True,
    )
    # The values as they are, after the constructor, which would judge and log them.
    seg.copy_patient_and_study_information(source)
    return seg


def _finish(seg: hd.seg.Segmentation, source: Dataset, *, digest: str, dates: dict[str, str]) -> None:
    """What highdicom leaves out, and what it would make differ from run to run."""
    # PS3.3 C.7.6.1: required, if possibly empty, where there is no patient geometry.
    seg.PatientOrientation = source.get("PatientOrientation")
    if source.get("BodyPartExamined"):
        seg.BodyPartExamined = source.BodyPartExamined
    for keyword in ("InstanceCreationDate", "InstanceCreationTime"):
        seg.pop(keyword, None)
    for keyword, value in dates.items():
        setattr(seg, keyword, value)
    organisation = derived_uid("dimensions", digest)
    for item in (*seg.DimensionOrganizationSequence, *seg.DimensionIndexSequence):
        item.DimensionOrganizationUID = organisation
    equipment = [item for item in seg.ContributingEquipmentSequence if item.get("Manufacturer")]
    for item in equipment:
        item.pop("ContributionDateTime", None)
    seg.ContributingEquipmentSequence = equipment
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = seg.SOPClassUID
    meta.MediaStorageSOPInstanceUID = seg.SOPInstanceUID
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.ImplementationClassUID = UID(derived_uid("implementation", "medseg"))
    meta.ImplementationVersionName = f"medseg {__version__}"[:16]
    seg.file_meta = meta
    seg.preamble = b"\0" * 128


def _set_character_set(seg: hd.seg.Segmentation, header: SourceHeader) -> None:
    """The source's character set and the very bytes of its names; UTF-8 where our own texts do not fit it."""
    source = header.dataset
    own = [text for item in seg.SegmentSequence for text in (item.SegmentLabel, item.SegmentAlgorithmName)]
    own += [item.SegmentedPropertyTypeCodeSequence[0].CodeMeaning for item in seg.SegmentSequence]
    if not all(text.isascii() for text in (*own, seg.SeriesDescription)):
        seg.SpecificCharacterSet = "ISO_IR 192"
        return
    if "SpecificCharacterSet" in source:
        seg.SpecificCharacterSet = source.SpecificCharacterSet
    for tag, raw in header.texts.items():
        # Only what was copied: other texts under these tags are our own.
        if tag in seg and seg.get_item(tag) is source.get_item(tag):
            seg[tag] = raw
    # Else pydicom takes them for elements of another encoding and decodes them after all.
    correct_ambiguous_vr(seg, True)
    seg.set_original_encoding(False, True, source.original_character_set)
