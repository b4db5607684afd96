"""The header of the DICOM image that an exported object refers to."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from pydicom import config as pydicom_config
from pydicom.datadict import dictionary_has_tag, dictionary_VR
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.tag import BaseTag
from pydicom.valuerep import CUSTOMIZABLE_CHARSET_VR

from medseg.errors import GeometryError, InputError
from medseg.io.dicom_file import parse_file
from medseg.io.foreign import foreign_parser, recorded_warnings
from medseg.io.limits import DEFAULT_LIMITS, read_bytes

UNKNOWN_DATE = "19000101"
"""Stands where DICOM wants a date and nobody knows one."""

# Type 2 of patient and study: an exported object must have them, a source may lack them.
IDENTITY = (
    "PatientName",
    "PatientID",
    "PatientBirthDate",
    "PatientSex",
    "AccessionNumber",
    "StudyID",
    "StudyDate",
    "StudyTime",
    "ReferringPhysicianName",
)
_NEEDED = ("SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID", "Rows", "Columns")
_GEOMETRY = ("ImagePositionPatient", "ImageOrientationPatient", "SharedFunctionalGroupsSequence")
_UID = re.compile(r"(?=.{1,64}$)(0|[1-9]\d*)(\.(0|[1-9]\d*))+")
_TIME = re.compile(r"([01]\d|2[0-3])[0-5]\d[0-5]\d(\.\d{1,6})?")


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceHeader:
    """A header, and its texts as the file has them.

    Parameters
    ----------
    dataset : Dataset
        All elements but the pixels.
    texts : mapping of tag to RawDataElement
        Bytes of the text elements. Decoding and encoding again drops escape sequences and empty
        groups of names, and an archive then sees another patient.
    """

    dataset: Dataset
    texts: Mapping[BaseTag, RawDataElement]


@contextlib.contextmanager
def header_errors(path: Path) -> Iterator[None]:
    """Take a foreign header's values as they are; whatever cannot be done with them is an ImageReadError."""
    with (
        foreign_parser(path, "its header cannot be used for a DICOM object", quote=False),
        recorded_warnings(),
        pydicom_config.disable_value_validation(),
    ):
        yield


def read_source(path: Path) -> SourceHeader:
    """Header of a DICOM file.

    Raises
    ------
    ImageReadError
        Not a DICOM file, or a damaged one.
    """
    dataset, _ = parse_file(read_bytes(path, DEFAULT_LIMITS), path, DEFAULT_LIMITS)
    for keyword in ("PixelData", "FloatPixelData", "DoubleFloatPixelData"):
        dataset.pop(keyword, None)
    return SourceHeader(dataset=dataset, texts=_raw_texts(dataset))


def check_projection(source: Dataset, shape: tuple[int, ...]) -> None:
    """Refuse a source that is no single-frame projection image of `shape` (columns, rows).

    Raises
    ------
    InputError
        A UID is missing or malformed, the image has a place in the patient, or several frames.
    GeometryError
        Other columns or rows.
    """
    missing = [name for name in _NEEDED if not source.get(name)]
    if missing:
        raise InputError(f"the source image has no {', '.join(missing)}, to which a DICOM SEG must refer")
    broken = [n for n in _NEEDED if n.endswith("UID") and not _UID.fullmatch(str(source[n].value))]
    if broken:
        raise InputError(
            f"{', '.join(broken)} of the source image is malformed; a DICOM SEG cannot refer to it"
        )
    if any(source.get(name) is not None for name in _GEOMETRY):
        raise InputError(
            "the source image has a position in the patient (CT, MR or another slice); "
            "a DICOM SEG of such images is not in this version, only of projection images"
        )
    frames = int(source.get("NumberOfFrames") or 1)
    if frames != 1:
        raise InputError(f"the source image has {frames} frames; a DICOM SEG of it is not in this version")
    if shape != (source.Columns, source.Rows):
        raise GeometryError(
            f"the label map has {shape[0]} columns and {shape[1]} rows, "
            f"the source image {source.Columns} and {source.Rows}"
        )


def content_dates(source: Dataset, created: datetime | None) -> tuple[dict[str, str], tuple[str, ...]]:
    """Content (and series) date and time by keyword, from `created` or else from the source, and notes."""
    if created is not None:
        date, time = created.strftime("%Y%m%d"), created.strftime("%H%M%S")
        return {"ContentDate": date, "ContentTime": time, "SeriesDate": date, "SeriesTime": time}, ()
    for what in ("Content", "Acquisition", "Series", "Study"):
        date, time = str(source.get(f"{what}Date") or ""), str(source.get(f"{what}Time") or "")
        if _is_date(date):
            return {"ContentDate": date, "ContentTime": time if _TIME.fullmatch(time) else "000000"}, ()
    note = "The source image has no date; the DICOM SEG says 1900-01-01 where it must have one."
    return {"ContentDate": UNKNOWN_DATE, "ContentTime": "000000"}, (note,)


def without_identity(source: Dataset) -> Dataset:
    """Copy for highdicom: type 2 elements there but empty, and nothing that it takes for patient geometry."""
    geometry = ("PixelSpacing", "ImagerPixelSpacing", "FrameOfReferenceUID")
    left_out = {*IDENTITY, *geometry, "SpecificCharacterSet", "Modality"}
    plain = Dataset()
    plain.update({e.tag: e for e in source if e.tag.group <= 0x0028 and e.keyword not in left_out})
    # New elements: setting one that both data sets hold would empty the source's as well.
    for keyword in IDENTITY:
        setattr(plain, keyword, None)
    plain.Modality = source.get("Modality") or "OT"
    return plain


def _is_date(text: str) -> bool:
    if not re.fullmatch(r"\d{8}", text):
        return False
    try:
        datetime.strptime(text, "%Y%m%d")
    except ValueError:
        return False
    return True


def _raw_texts(source: Dataset) -> dict[BaseTag, RawDataElement]:
    texts = {}
    for tag in source.keys():  # noqa: SIM118 (a data set itself iterates over decoded elements)
        raw = source.get_item(tag)
        if not isinstance(raw, RawDataElement) or not raw.value or tag.is_private:
            continue
        vr = raw.VR or (dictionary_VR(tag) if dictionary_has_tag(tag) else "UN")
        if vr in CUSTOMIZABLE_CHARSET_VR:
            even = raw.value + b" " * (len(raw.value) % 2)
            texts[tag] = raw._replace(
                VR=vr, value=even, length=len(even), is_implicit_VR=False, is_little_endian=True
            )
    return texts
