"""The part of a segmentation object that does not depend on the frames: all modules before the pixels.

References
----------
DICOM PS3.3 A.51 (Segmentation), A.92 (Label Map Segmentation) and C.8.20.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import highdicom as hd
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.filewriter import correct_ambiguous_vr
from pydicom.uid import UID, ExplicitVRLittleEndian, RLELossless

from medseg import __version__
from medseg.export.identity import IMPLEMENTATION_CLASS_UID, derived_uid
from medseg.export.options import ContentQualification
from medseg.export.patient_study import acquisition_equipment, copy_patient_and_study, patient_orientation
from medseg.export.seg_frames import MAX_FRACTION, Overlap
from medseg.export.seg_place import SegPlace
from medseg.export.source_header import SourceHeader

SegKind = Literal["binary", "labelmap", "fractional"]
SEGMENTATION, LABEL_MAP = "1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.66.7"
SERIES_NUMBER = 901
"""High, so that viewers list the result after the images; 902 where the source is series 901."""

_SEGMENT_POINTER = (0x0062000B, 0x0062000A, "Referenced Segment Number")
_POSITION_POINTER = (0x00200032, 0x00209113, "Image Position Patient")
_LABEL_POINTER = (0x00209453, 0x00209111, "Frame Label")


@dataclass(frozen=True, slots=True, kw_only=True)
class SegFacts:
    """What the modules say of a result.

    Parameters
    ----------
    kind : {"binary", "labelmap", "fractional"}
    bits : {1, 8, 16}
    frames : int
    rle : bool
    overlap : {"NO", "YES", "UNDEFINED"}
    digest : str
        Of all that determines the file; UIDs are made from it.
    description : str
        Series Description.
    device : str
        Device Serial Number.
    dates : dict of str
        Content and series dates by keyword.
    content_qualification : str
    """

    kind: SegKind
    bits: int
    frames: int
    rle: bool
    overlap: Overlap
    digest: str
    description: str
    device: str
    dates: dict[str, str]
    content_qualification: ContentQualification


def static_modules(
    header: SourceHeader, place: SegPlace, segments: Sequence[Dataset], facts: SegFacts
) -> Dataset:
    """The data set without Per-Frame Functional Groups and pixels."""
    source = header.dataset
    seg = _base(source, facts)
    _image(seg, source, place, facts)
    _dimensions(seg, place, facts)
    seg.SegmentSequence = list(segments)
    seg.ReferencedSeriesSequence = [_referenced_series(source, place)]
    seg.SharedFunctionalGroupsSequence = [_shared_groups(place)]
    if place.frame_of_reference_uid:
        seg.FrameOfReferenceUID = place.frame_of_reference_uid
        seg.PositionReferenceIndicator = source.get("PositionReferenceIndicator") or ""
    _set_character_set(seg, header)
    return seg


def _base(source: Dataset, facts: SegFacts) -> Dataset:
    """Patient, study, series, equipment and SOP common."""
    seg = Dataset()
    seg.StudyInstanceUID = str(source.StudyInstanceUID)
    seg.SeriesInstanceUID = derived_uid("series", facts.digest)
    seg.SOPInstanceUID = derived_uid("instance", facts.digest)
    seg.SOPClassUID = LABEL_MAP if facts.kind == "labelmap" else SEGMENTATION
    seg.SeriesNumber = SERIES_NUMBER + (source.get("SeriesNumber") == SERIES_NUMBER)
    seg.InstanceNumber, seg.Modality = 1, "SEG"
    seg.Manufacturer = seg.ManufacturerModelName = "medseg"
    seg.SoftwareVersions, seg.DeviceSerialNumber = __version__, facts.device
    copy_patient_and_study(source, seg)
    for keyword, value in facts.dates.items():
        setattr(seg, keyword, value)
    seg.SeriesDescription = facts.description
    seg.ContentQualification = facts.content_qualification
    if source.get("BodyPartExamined"):
        seg.BodyPartExamined = source.BodyPartExamined
    equipment = acquisition_equipment(source)
    if equipment is not None:
        seg.ContributingEquipmentSequence = [equipment]
    _set_meta(seg, facts)
    return seg


def _set_meta(seg: Dataset, facts: SegFacts) -> None:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = seg.SOPClassUID
    meta.MediaStorageSOPInstanceUID = seg.SOPInstanceUID
    meta.TransferSyntaxUID = RLELossless if facts.rle else ExplicitVRLittleEndian
    meta.ImplementationClassUID = UID(IMPLEMENTATION_CLASS_UID)
    meta.ImplementationVersionName = f"medseg {__version__}"[:16]
    seg.file_meta = meta
    seg.preamble = b"\0" * 128


def _image(seg: Dataset, source: Dataset, place: SegPlace, facts: SegFacts) -> None:
    """General image, image pixel, multi-frame and segmentation image."""
    seg.ImageType = ["DERIVED", "PRIMARY"]
    if place.projection:
        # PS3.3 C.7.6.1: required, if possibly empty, where there is no patient geometry.
        seg.PatientOrientation = patient_orientation(source)
    _lossy(seg, source)
    seg.SamplesPerPixel, seg.PhotometricInterpretation = 1, "MONOCHROME2"
    seg.PresentationLUTShape = "IDENTITY"
    seg.Rows, seg.Columns, seg.NumberOfFrames = place.rows, place.columns, facts.frames
    seg.BitsAllocated = seg.BitsStored = facts.bits
    seg.HighBit, seg.PixelRepresentation = facts.bits - 1, 0
    seg.SegmentationType = facts.kind.upper()
    seg.SegmentsOverlap = facts.overlap
    if facts.kind == "fractional":
        seg.SegmentationFractionalType, seg.MaximumFractionalValue = "PROBABILITY", MAX_FRACTION
    elif facts.kind == "labelmap":
        seg.PixelPaddingValue = 0
    seg.ContentLabel, seg.ContentDescription, seg.ContentCreatorName = "SEGMENTATION", "", "medseg^"


def _lossy(seg: Dataset, source: Dataset) -> None:
    """PS3.3 C.8.20.2: a segmentation of a lossy image says so."""
    seg.LossyImageCompression = "01" if source.get("LossyImageCompression") == "01" else "00"
    if seg.LossyImageCompression == "01":
        for keyword in ("LossyImageCompressionRatio", "LossyImageCompressionMethod"):
            if source.get(keyword):
                setattr(seg, keyword, source[keyword].value)


def _dimensions(seg: Dataset, place: SegPlace, facts: SegFacts) -> None:
    organisation = derived_uid("dimensions", facts.digest)
    pointers = [] if facts.kind == "labelmap" else [_SEGMENT_POINTER]
    if not place.projection:
        pointers.append(_POSITION_POINTER)
    elif facts.kind == "labelmap":
        # There is one frame, and the dimension module wants an index.
        pointers.append(_LABEL_POINTER)
    whole = Dataset()
    whole.DimensionOrganizationUID = organisation
    seg.DimensionOrganizationSequence = [whole]
    seg.DimensionIndexSequence = []
    for pointer, group, label in pointers:
        index = Dataset()
        index.DimensionOrganizationUID, index.DimensionIndexPointer = organisation, pointer
        index.FunctionalGroupPointer = group
        index.DimensionDescriptionLabel = label
        seg.DimensionIndexSequence.append(index)


def _referenced_series(source: Dataset, place: SegPlace) -> Dataset:
    series = Dataset()
    series.SeriesInstanceUID = str(source.SeriesInstanceUID)
    series.ReferencedInstanceSequence = []
    for uid in place.unique_instances:
        instance = Dataset()
        instance.ReferencedSOPClassUID, instance.ReferencedSOPInstanceUID = place.sop_class_uid, uid
        series.ReferencedInstanceSequence.append(instance)
    return series


def _shared_groups(place: SegPlace) -> Dataset:
    groups = Dataset()
    if place.projection:
        return groups
    orientation, measures = Dataset(), Dataset()
    orientation.ImageOrientationPatient = list(place.orientation)
    measures.PixelSpacing = list(place.spacing)
    if place.thickness:
        measures.SliceThickness = place.thickness
    if place.between:
        measures.SpacingBetweenSlices = place.between
    groups.PlaneOrientationSequence, groups.PixelMeasuresSequence = [orientation], [measures]
    return groups


def background_segment(algorithm_name: str) -> Dataset:
    """Segment 0 of a label map, which other writers describe and readers expect."""
    background = Dataset()
    background.SegmentNumber, background.SegmentLabel = 0, "Background"
    background.SegmentAlgorithmType, background.SegmentAlgorithmName = "AUTOMATIC", algorithm_name[:64]
    concept = hd.sr.CodedConcept("125040", "DCM", "Background")
    background.SegmentedPropertyCategoryCodeSequence = [concept]
    background.SegmentedPropertyTypeCodeSequence = [concept]
    return background


def _set_character_set(seg: Dataset, header: SourceHeader) -> None:
    """The source's character set and the very bytes of its names; UTF-8 where our own texts do not fit it."""
    source = header.dataset
    if not all(text.isascii() for text in (*_own_texts(seg), seg.SeriesDescription)):
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


def _own_texts(seg: Dataset) -> list[Any]:
    texts = []
    for segment in seg.SegmentSequence:
        texts += [segment.SegmentLabel, segment.SegmentAlgorithmName]
        texts.append(segment.SegmentedPropertyTypeCodeSequence[0].CodeMeaning)
    return texts
