"""Whether a result object is about the images of its job, by what its own file says; nothing else may leave."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydicom import uid
from pydicom.dataset import Dataset

from medseg.errors import MedsegError
from medseg.io.dicom_header import DicomHeader

_MAX_ITEMS = 5_000_000
_IDENTITY = {
    "PatientID": "patient",
    "IssuerOfPatientID": "patient",
    "PatientName": "patient",
    "PatientBirthDate": "patient",
    "PatientSex": "patient",
    "StudyID": "study",
    "StudyDate": "study",
    "AccessionNumber": "study",
}
"""Elements that every result has as its source has them, and what differs where one does."""

_OF_THE_SOURCE = ("ReferencedStudySequence", "ReferencedPatientSequence", "ReferencedPatientPhotoSequence")
"""Copied with patient and study; what they refer to is no image of the job."""

_SEGMENTATIONS = frozenset({str(uid.SegmentationStorage), "1.2.840.10008.5.1.4.1.1.66.7"})
_REPORTS = frozenset(
    {str(uid.EnhancedSRStorage), str(uid.ComprehensiveSRStorage), str(uid.Comprehensive3DSRStorage)}
)
_CLASSES: Mapping[str, frozenset[str]] = {
    "dicom_seg": frozenset({str(uid.SegmentationStorage)}),
    "dicom_seg_labelmap": frozenset({"1.2.840.10008.5.1.4.1.1.66.7"}),
    "instance_seg": _SEGMENTATIONS,
    "measurement_sr": _REPORTS,
    "instance_sr": _REPORTS,
    "rtstruct": frozenset({str(uid.RTStructureSetStorage)}),
    "presentation_state": frozenset(
        {str(uid.GrayscaleSoftcopyPresentationStateStorage), str(uid.ColorSoftcopyPresentationStateStorage)}
    ),
    "secondary_capture": frozenset({str(uid.SecondaryCaptureImageStorage)}),
    "encapsulated_pdf": frozenset({str(uid.EncapsulatedPDFStorage)}),
}
_FRAMES = ("ReferencedFrameOfReferenceUID", "FrameOfReferenceUID")
_REFERRING = ("ReferencedSOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID", *_FRAMES)
_PLACED = _SEGMENTATIONS | {str(uid.RTStructureSetStorage)}
"""Objects that have a place in the patient where their source has one."""


class ResultError(MedsegError):
    """A result does not belong to its source; it never leaves the node."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceStudy:
    """What every result must refer to.

    Parameters
    ----------
    study_uid, series_uid : str
    sop_instance_uids : frozenset of str
        Instances of the job.
    frames_of_reference : frozenset of str
        Theirs; empty where they have none.
    identity : mapping of str to frozenset of str
        Values that they have under the keywords that name patient and study; "" where one of them has none.
    """

    study_uid: str
    series_uid: str
    sop_instance_uids: frozenset[str]
    frames_of_reference: frozenset[str]
    identity: Mapping[str, frozenset[str]]

    @classmethod
    def of(
        cls,
        headers: Sequence[DicomHeader],
        *,
        study_uid: str,
        series_uid: str,
        sop_instance_uids: frozenset[str],
    ) -> SourceStudy:
        """What the headers of the instances of a job say."""
        return cls(
            study_uid=study_uid,
            series_uid=series_uid,
            sop_instance_uids=sop_instance_uids,
            frames_of_reference=frozenset(_text(header, "FrameOfReferenceUID") for header in headers) - {""},
            identity={
                keyword: frozenset(_text(header, keyword) for header in headers) for keyword in _IDENTITY
            },
        )

    def two_patients(self) -> str:
        """Where the instances, whose patient number is one, nevertheless name two patients; "" where they do not."""
        for keyword in ("PatientName", "PatientBirthDate", "PatientSex"):
            if len({_compared(text) for text in self.identity[keyword]} - {""}) > 1:
                return f"the instances are of two patients: they differ in {keyword}"
        return ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ResultObject:
    """A DICOM object of a job, read back."""

    name: str
    kind: str
    data_set: Dataset


def check_objects(objects: Sequence[ResultObject], source: SourceStudy) -> None:
    """Refuse the objects of a job where one of them is not about its source.

    Raises
    ------
    ResultError
        Another patient, study, frame of reference or kind than it should be; references to series or instances that
        are neither of the source nor results of the same job, or none to the source.
    """
    uids = source.sop_instance_uids | {str(one.data_set.SOPInstanceUID) for one in objects}
    series = {source.series_uid} | {str(one.data_set.SeriesInstanceUID) for one in objects}
    for one in objects:
        _check_kind(one)
        _check_identity(one, source)
        _check_frame(one, source)
        _check_references(one, source, uids=uids, series=series)


def _check_kind(one: ResultObject) -> None:
    found, known = str(one.data_set.SOPClassUID), _CLASSES.get(one.kind)
    if known is None or found not in known:
        raise ResultError(f"{one.name} is of a SOP class that the export {one.kind} does not have")
    marked = one.data_set.get("ContentQualification") == "RESEARCH"
    if not marked and found != uid.RTStructureSetStorage:
        raise ResultError(f"{one.name} is not marked RESEARCH")


def _check_identity(one: ResultObject, source: SourceStudy) -> None:
    if str(one.data_set.get("StudyInstanceUID") or "") != source.study_uid:
        raise ResultError(f"{one.name} is of another study than its source")
    header = DicomHeader(Path(one.name), (one.data_set,))
    for keyword, what in _IDENTITY.items():
        if _text(header, keyword) not in source.identity[keyword]:
            raise ResultError(f"{one.name} is of another {what} than its source ({keyword})")
    if str(one.data_set.SeriesInstanceUID) == source.series_uid:
        raise ResultError(f"{one.name} stands in the series of its source")
    if str(one.data_set.SOPInstanceUID) in source.sop_instance_uids:
        raise ResultError(f"{one.name} has the UID of an image that it was made from")


def _check_frame(one: ResultObject, source: SourceStudy) -> None:
    found = str(one.data_set.get("FrameOfReferenceUID") or "")
    missing = not found and str(one.data_set.SOPClassUID) in _PLACED
    if source.frames_of_reference and (missing or (found and found not in source.frames_of_reference)):
        raise ResultError(f"{one.name} is in another frame of reference than its source")


def _check_references(
    one: ResultObject, source: SourceStudy, *, uids: set[str] | frozenset[str], series: set[str]
) -> None:
    reached = False
    for keyword, value in _references(one.data_set):
        if keyword == "ReferencedSOPInstanceUID":
            reached = reached or value in source.sop_instance_uids
            # An RT structure set refers to the study as if it were an instance.
            if value not in uids and value != source.study_uid:
                raise ResultError(f"{one.name} refers to instances that it was not made from")
        elif keyword == "SeriesInstanceUID" and value not in series:
            raise ResultError(f"{one.name} refers to a series that it was not made from")
        elif keyword == "StudyInstanceUID" and value != source.study_uid:
            raise ResultError(f"{one.name} refers to another study than its source")
        elif keyword in _FRAMES and not _known_frame(value, source):
            raise ResultError(f"{one.name} refers to another frame of reference than its source")
    if not reached:
        raise ResultError(f"{one.name} refers to none of the instances that it was made from")


def _known_frame(value: str, source: SourceStudy) -> bool:
    return not source.frames_of_reference or value in source.frames_of_reference


def _references(data_set: Dataset) -> Iterator[tuple[str, str]]:
    """Keyword and value of what stands in sequences, at any depth, and may refer to something."""
    waiting = [
        item
        for element in data_set
        if element.VR == "SQ" and element.keyword not in _OF_THE_SOURCE
        for item in element.value
    ]
    seen = 0
    while waiting:
        for element in waiting.pop():
            seen += 1
            if seen > _MAX_ITEMS:
                raise ResultError(
                    f"a result of more than {_MAX_ITEMS} elements, whose references cannot all be checked"
                )
            if element.VR == "SQ":
                waiting += element.value
            elif element.keyword in _REFERRING:
                yield element.keyword, str(element.value)


def _text(header: DicomHeader, keyword: str) -> str:
    return "\\".join(header.texts(keyword))


def _compared(text: str) -> str:
    """A name, date or sex without what writers spell in different ways: case, separators, other scripts."""
    return " ".join(text.split("=")[0].replace("^", " ").casefold().split())
