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

from medseg.errors import InputError
from medseg.io.dicom_file import scan_file
from medseg.io.foreign import foreign_parser, recorded_warnings
from medseg.io.limits import DEFAULT_LIMITS
from medseg.volume import ImageGrid

UNKNOWN_DATE = "19000101"
UNDATED = "The source image has no date; results that must have one say 1900-01-01."
"""The note about it, the same for every kind of result, so that a case says it once."""
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
    dataset = scan_file(path, DEFAULT_LIMITS).dataset
    return SourceHeader(dataset=dataset, texts=_raw_texts(dataset))


def check_source(source: Dataset, grid: ImageGrid) -> None:
    """Refuse a source that an object in its coordinates cannot refer to.

    Raises
    ------
    InputError
        A UID is missing or malformed, the file is not one of the grid's, a position in the patient that
        the grid does not have, or several frames without their numbers.
    GeometryError
        Other columns or rows than the grid's.
    """
    missing = [name for name in _NEEDED if not source.get(name)]
    if missing:
        raise InputError(f"the source image has no {', '.join(missing)}, to which a DICOM SEG must refer")
    broken = [n for n in _NEEDED if n.endswith("UID") and not _is_uid(str(source[n].value))]
    if broken:
        raise InputError(
            f"{', '.join(broken)} of the source image is malformed; a DICOM SEG cannot refer to it"
        )
    if grid.affine is None and any(source.get(name) is not None for name in _GEOMETRY):
        raise InputError(
            "the source image has a position in the patient (CT, MR or another slice) that could not be used, "
            "so a DICOM SEG of it has no place; check its header with medseg inspect"
        )
    frames = int(source.get("NumberOfFrames") or 1)
    if frames != 1 and not grid.source.frame_numbers:
        raise InputError(
            f"the source image has {frames} frames, and the numbers of those in the label map are not known"
        )
    _check_instances(source, grid)


def _check_instances(source: Dataset, grid: ImageGrid) -> None:
    """The instances of the slices: one UID each, and the file at hand is one of them."""
    uids, slices = grid.source.sop_instance_uids, grid.shape[2] if len(grid.shape) == 3 else 1
    if len(uids) != slices:
        raise InputError(
            f"the image has {slices} slices and {len(uids)} SOP Instance UIDs; a DICOM SEG must refer to the "
            "instance of each slice, so the files must have them"
        )
    bad = next((k for k, uid in enumerate(uids) if not _is_uid(uid)), None)
    if bad is not None:
        raise InputError(
            f"the SOPInstanceUID of slice {bad + 1} is {'malformed' if uids[bad] else 'empty'}; "
            "a DICOM SEG cannot refer to it"
        )
    if grid.source.frame_numbers and len(grid.source.frame_numbers) != slices:
        raise InputError(f"the image has {slices} slices and {len(grid.source.frame_numbers)} frame numbers")
    stated = {
        "SOPInstanceUID": uids,
        "StudyInstanceUID": (grid.source.study_instance_uid,),
        "SeriesInstanceUID": (grid.source.series_instance_uid,),
    }
    for keyword, known in stated.items():
        if any(known) and str(source[keyword].value) not in known:
            raise InputError(
                f"{keyword} of the source file is not the image's: the file was changed; read it again"
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
    return {"ContentDate": UNKNOWN_DATE, "ContentTime": "000000"}, (UNDATED,)


def _is_uid(text: str) -> bool:
    return _UID.fullmatch(text) is not None


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
