"""What the header of one DICOM slice says: where it lies, what it belongs to, how its pixels are stored.

A series has hundreds of headers that differ in a few elements. `HeaderReader` converts each different
element once, so that a study is looked through in little more time than its bytes take to read.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from pydicom.datadict import dictionary_VR as _dictionary_vr
from pydicom.dataset import Dataset
from pydicom.tag import Tag

from medseg.errors import MedsegError
from medseg.io.dicom_file import UNDEFINED_LENGTH, PixelElement, ScannedFile
from medseg.io.dicom_format import PixelFormat, frame_format, number_of_frames
from medseg.io.dicom_header import DicomHeader, modality_of, patient_pseudonym, uid_name
from medseg.io.limits import DEFAULT_LIMITS, ReadLimits

# What tells the images apart that one series holds at one place, in the order in which they are tried:
# first what makes other images, then time. Each entry lists the names that plain and enhanced objects use.
PARTS: dict[str, tuple[str, ...]] = {
    "stack": ("StackID",),
    "image type": ("FrameType", "ImageType"),
    "component": ("ComplexImageComponent",),
    "sequence": ("PulseSequenceName", "SequenceName"),
    "kernel": ("ConvolutionKernel",),
    "echo time": ("EffectiveEchoTime", "EchoTime"),
    "echo": ("EchoNumbers",),
    "inversion time": ("InversionTimes", "InversionTime"),
    "flip angle": ("FlipAngle",),
    "b-value": ("DiffusionBValue",),
    "direction": ("DiffusionGradientOrientation", "DiffusionDirectionality"),
    "energy": ("KVP",),
    "phase": ("NominalPercentageOfCardiacPhase", "NominalPercentageOfRespiratoryPhase"),
    "time point": ("TemporalPositionIndex", "TemporalPositionIdentifier"),
    "trigger time": ("NominalCardiacTriggerDelayTime", "TriggerTime"),
    "frame time": ("FrameReferenceTime",),
    "acquisition": ("FrameAcquisitionNumber", "AcquisitionNumber"),
    "acquisition time": ("FrameAcquisitionDateTime", "AcquisitionDateTime", "AcquisitionTime"),
    "content time": ("ContentTime",),
    "instance number": ("InstanceNumber",),
}
_FORMAT_KEYWORDS = (
    "PhotometricInterpretation",
    "SamplesPerPixel",
    "PlanarConfiguration",
    "Rows",
    "Columns",
    "BitsAllocated",
    "BitsStored",
    "HighBit",
    "PixelRepresentation",
)
_TEXT_VRS = frozenset({"CS", "DA", "DS", "DT", "IS", "LO", "SH", "TM", "UI"})
_UID = re.compile(r"[0-9.]{1,64}")

Triple = tuple[float, float, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class SliceHeader:
    """One frame, as its header describes it.

    Parameters
    ----------
    path : Path
    frame : int
        From 0, in a file of `frames`.
    patient : str
        Pseudonym of the Patient ID and its issuer, "" where there is none.
    position_lps : (float, float, float) or None
        Image Position (Patient), mm: centre of the first pixel.
    orientation_lps : tuple of six float, or None
        Image Orientation (Patient): cosines along a row, then along a column.
    pixel_spacing_mm : (float, float) or None
        Between rows, then between columns.
    thickness_mm : float or None
    slope, intercept : float
        value = slope * stored + intercept.
    parts : dict of str to tuple
        Values of `PARTS` that the header gives.
    form : PixelFormat or None
        None where the header does not say it; `problem` says what is wrong.
    pixels : PixelElement or None
    transfer_syntax : str
        That the pixels at hand have; `stored_as` is the file's own.
    inflated : bytes or None
        See `dicom_file.ScannedFile`.
    value_type : str
        Rescale Type (HU), or of PET Units (BQML) or SUV with its type (SUVBW); "" where not said.
    problem : str
        Why the pixels cannot be read, without the path; "" where they can.
    """

    path: Path
    frame: int
    frames: int
    patient: str
    sop_class_uid: str
    sop_instance_uid: str
    series_instance_uid: str
    study_instance_uid: str
    frame_of_reference_uid: str
    modality: str
    image_type: tuple[str, ...]
    position_lps: Triple | None
    orientation_lps: tuple[float, ...] | None
    pixel_spacing_mm: tuple[float, float] | None
    thickness_mm: float | None
    slope: float
    intercept: float
    value_type: str
    parts: dict[str, tuple[Any, ...]]
    form: PixelFormat | None
    pixels: PixelElement | None
    transfer_syntax: str
    stored_as: str
    inflated: bytes | None
    problem: str = ""

    @property
    def is_localizer(self) -> bool:
        """Whether the image says of itself that it only serves to plan others."""
        return "LOCALIZER" in self.image_type

    @property
    def place(self) -> str:
        """File, and frame where there are several, for messages."""
        return f"{self.path.name}" if self.frames == 1 else f"{self.path.name} frame {self.frame + 1}"


class HeaderReader:
    """Reads headers of slices; what repeats from file to file is converted once.

    Parameters
    ----------
    limits : ReadLimits
    """

    def __init__(self, limits: ReadLimits = DEFAULT_LIMITS) -> None:
        self.limits = limits
        self._seen: dict[tuple[Any, ...], Any] = {}

    def slices(self, scanned: ScannedFile) -> tuple[SliceHeader, ...]:
        """One entry for each frame of a file.
        A file whose frames are not described one by one gives one entry with a `problem`.

        Raises
        ------
        ImageReadError
            The number of frames is damaged.
        """
        header = DicomHeader(scanned.path, (scanned.dataset,))
        count = self.once(scanned, ("NumberOfFrames",), number_of_frames)
        form = self._form(scanned)
        if count == 1 and "SharedFunctionalGroupsSequence" not in scanned.dataset:
            return (self._slice(_Source(self, scanned, header, plain=True), form, 0, 1),)
        described = len(header.items("PerFrameFunctionalGroupsSequence"))
        if described != count:
            # One entry stands for all frames: what the file does not describe is not made up.
            whole = self._slice(_Source(self, scanned, header, plain=True), form, 0, count)
            found = f"describes {described} of them" if described else "does not say where they lie"
            return (replace(whole, problem=whole.problem or f"the file has {count} frames and {found}"),)
        frames = frame_headers(scanned, count)
        return tuple(
            self._slice(_Source(self, scanned, frame, plain=False), form, n, count)
            for n, frame in enumerate(frames)
        )

    def _slice(
        self, source: _Source, form: tuple[PixelFormat | None, str], frame: int, frames: int
    ) -> SliceHeader:
        scanned = source.scanned
        whole = _Source(self, scanned, DicomHeader(scanned.path, (scanned.dataset,)), plain=True)
        slope, slope_problem = source.number("RescaleSlope", 1.0)
        intercept, intercept_problem = source.number("RescaleIntercept", 0.0)
        if slope == 0:
            slope_problem = "RescaleSlope is 0, expected a number that is not zero"
        problem = form[1]
        if "ModalityLUTSequence" in scanned.dataset and not problem:
            problem = "its values go through a modality look-up table, which is read for single images only"
        return SliceHeader(
            path=scanned.path,
            frame=frame,
            frames=frames,
            patient=whole.get(("PatientID", "IssuerOfPatientID"), patient_pseudonym),
            sop_class_uid=whole.uid("SOPClassUID"),
            sop_instance_uid=whole.uid("SOPInstanceUID"),
            series_instance_uid=whole.uid("SeriesInstanceUID"),
            study_instance_uid=whole.uid("StudyInstanceUID"),
            frame_of_reference_uid=whole.uid("FrameOfReferenceUID"),
            modality=whole.get(("Modality", "SOPClassUID"), modality_of),
            image_type=source.get(("FrameType", "ImageType"), _image_type),
            position_lps=_finite(source.numbers("ImagePositionPatient"), 3),
            orientation_lps=_finite(source.numbers("ImageOrientationPatient"), 6),
            pixel_spacing_mm=_finite(source.numbers("PixelSpacing"), 2),
            thickness_mm=next(iter(_finite(source.numbers("SliceThickness"), 1) or ()), None),
            slope=slope,
            intercept=intercept,
            value_type=source.get(("RescaleType", "Units", "SUVType"), _value_type),
            parts={name: value for name, words in PARTS.items() if (value := source.part(words))},
            form=form[0],
            pixels=scanned.pixels,
            transfer_syntax=str(scanned.dataset.file_meta.TransferSyntaxUID),
            stored_as=scanned.stored_as,
            inflated=scanned.inflated,
            problem=problem or slope_problem or intercept_problem,
        )

    def _form(self, scanned: ScannedFile) -> tuple[PixelFormat | None, str]:
        """How the pixels are stored, or why they cannot be read."""
        header, pixels = DicomHeader(scanned.path, (scanned.dataset,)), scanned.pixels
        if pixels is None:
            return None, f"no pixel data; the object is: {uid_name(header.uid('SOPClassUID'))}"
        try:
            form: PixelFormat = self.once(
                scanned,
                (pixels.keyword, *_FORMAT_KEYWORDS),
                lambda h: frame_format(h, self.limits, keyword=pixels.keyword),
            )
        except MedsegError as err:
            return None, str(err).removeprefix(f"{scanned.path}: ")
        left = scanned.size - pixels.offset
        if pixels.length != UNDEFINED_LENGTH and pixels.length > left:
            return form, f"the file is truncated: its pixels have {pixels.length} bytes, {left} are there"
        return form, ""

    def once(
        self, scanned: ScannedFile, keywords: tuple[str, ...], convert: Callable[[DicomHeader], Any]
    ) -> Any:
        """`convert(header)`, remembered for files that have the very same bytes under `keywords`."""
        key = (keywords, tuple(_raw(scanned, keyword) for keyword in keywords))
        if key not in self._seen:
            self._seen[key] = convert(DicomHeader(scanned.path, (scanned.dataset,)))
        return self._seen[key]


@dataclass(frozen=True, slots=True)
class _Source:
    """Where the values of one slice come from: a plain header, or the functional groups of a frame."""

    reader: HeaderReader
    scanned: ScannedFile
    header: DicomHeader
    plain: bool

    def get(self, keywords: tuple[str, ...], convert: Callable[[DicomHeader], Any]) -> Any:
        return self.reader.once(self.scanned, keywords, convert) if self.plain else convert(self.header)

    def uid(self, keyword: str) -> str:
        if self.plain and (raw := _raw(self.scanned, keyword)) is not None and isinstance(raw[1], bytes):
            text = raw[1].strip(b"\0 ").decode("latin-1")
            return text if _UID.fullmatch(text) else ""
        return self.header.uid(keyword)

    def numbers(self, keyword: str) -> tuple[float, ...]:
        """Numbers of an element whose VR is DS."""
        raw = _raw(self.scanned, keyword) if self.plain else None
        if raw is None or not isinstance(raw[1], bytes):
            return self.header.numbers(keyword)
        text = raw[1].strip(b"\0 ").decode("latin-1")
        try:
            return tuple(float(value) for value in text.split("\\")) if text else ()
        except ValueError:
            return (math.nan,)

    def number(self, keyword: str, default: float) -> tuple[float, str]:
        found = self.numbers(keyword)
        if not found:
            return default, ""
        if len(found) != 1 or not math.isfinite(found[0]):
            return default, f"{keyword} is not one finite number; the header is damaged"
        return found[0], ""

    def part(self, keywords: tuple[str, ...]) -> tuple[Any, ...]:
        """What the first of `keywords` that is there holds; text is left as bytes, which most slices share."""
        for keyword in keywords:
            text = _vr(keyword) in _TEXT_VRS
            raw = _raw(self.scanned, keyword) if self.plain else None
            if self.plain and raw is None:
                continue
            if raw is not None and text and isinstance(raw[1], bytes):
                found: tuple[Any, ...] = (raw[1].strip(b"\0 "),) if raw[1] else ()
            else:
                found = self.header.texts(keyword) if text else self.header.numbers(keyword)
            if found:
                return found
        return ()


def frame_headers(scanned: ScannedFile, count: int) -> Iterator[DicomHeader]:
    """Header of each frame: its own functional groups first, then the shared ones, then the data set."""
    plain = DicomHeader(scanned.path, (scanned.dataset,))
    shared = _groups(plain.items("SharedFunctionalGroupsSequence")[:1], scanned.path)
    own = plain.items("PerFrameFunctionalGroupsSequence")
    for n in range(count):
        groups = _groups(own[n : n + 1], scanned.path)
        yield DicomHeader(scanned.path, (*own[n : n + 1], *groups, *shared, scanned.dataset))


def _groups(items: list[Dataset], path: Path) -> tuple[Dataset, ...]:
    """First item of every sequence in one item of functional groups."""
    # keys(), because a data set itself iterates over decoded elements.
    header = [DicomHeader(path, (item,)) for item in items]
    return tuple(
        inner
        for item, one in zip(items, header, strict=True)
        for tag in tuple(item.keys())
        for inner in one.items(tag)[:1]
    )


def _raw(scanned: ScannedFile, keyword: str) -> tuple[Any, Any] | None:
    """VR and bytes of an element of the top level, None where it is absent."""
    element = scanned.elements.get(_tag(keyword))
    return None if element is None else (element.VR, _hashable(element.value))


@cache
def _vr(keyword: str) -> str:
    return str(_dictionary_vr(keyword))


@cache
def _tag(keyword: str) -> int:
    return int(Tag(keyword))


def _hashable(value: Any) -> Any:
    """Sequences of undefined length are parsed when met; they stand for themselves."""
    return value if isinstance(value, bytes | str | None) else id(value)


def _finite(values: tuple[float, ...], count: int) -> Any:
    """The values where there are `count` finite ones, else None."""
    return values if len(values) == count and all(map(math.isfinite, values)) else None


def _image_type(header: DicomHeader) -> tuple[str, ...]:
    """Image Type of the frame, else of the file, in upper case."""
    return tuple(text.upper() for text in header.texts("FrameType") or header.texts("ImageType"))


def _value_type(header: DicomHeader) -> str:
    """What the values are: Rescale Type such as HU; of PET its Units, SUV with its type; "" where not said."""
    units = header.code("Units")
    # PS3.3 C.8.9.1.1.3: SUV Type tells g/ml apart, body weight where it is missing.
    if units == "GML":
        return f"SUV{header.code('SUVType') or 'BW'}"
    if units == "CM2ML":
        return f"SUV{header.code('SUVType') or 'BSA'}"
    return units or header.code("RescaleType")


def part_value(value: tuple[Any, ...]) -> tuple[tuple[float, ...] | str, ...]:
    """A value of `SliceHeader.parts` in a form that compares and sorts: numbers, else text."""
    text = "\\".join(v.decode("latin-1") if isinstance(v, bytes) else str(v) for v in value)
    try:
        return (tuple(float(v) for v in text.split("\\")),)
    except ValueError:
        return (text,)
