"""One DICOM file -> the bytes of its clean copy, and where that belongs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from pydicom.dataset import Dataset
from pydicom.uid import UID

from medseg.deidentification.blanking import blank
from medseg.deidentification.deidentifier import Deidentifier
from medseg.deidentification.keyed_map import KeyedMap, patient_of
from medseg.deidentification.options import BlankRule, ProfileOptions
from medseg.deidentification.pixel_encoding import is_implicit_vr, is_little_endian, transfer_syntax
from medseg.deidentification.risks import IdentifiersLeftError, enclosed_in
from medseg.errors import ImageReadError
from medseg.export.dicom_bytes import encoded, file_head
from medseg.io.dicom_file import parse_file
from medseg.io.foreign import foreign_parser, recorded_warnings
from medseg.io.limits import DEFAULT_LIMITS, read_bytes

_UIDS = ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID")
_IDENTITY = (
    ("patient", "PatientID"),
    *zip(("study", "series", "instance"), (_UIDS[2], _UIDS[3], _UIDS[1]), strict=True),
)

PIXELS = "regions of pixels"
"""Note on a file whose pixels were blanked."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CleanFile:
    """A file without identifiers.

    Parameters
    ----------
    place : PurePosixPath
        Patient, study, series and name, below the output folder; tells nothing of the original.
    content : bytes
        The file.
    identities : tuple of (kind, original, stand-in)
        Of patient, study, series and instance.
    notes : tuple of str
        What was taken out that somebody may miss.
    """

    place: PurePosixPath
    content: bytes
    identities: tuple[tuple[str, str, str], ...]
    notes: tuple[str, ...]


class FileCleaner:
    """Cleans files, one after the other, by the same profile and key.

    Parameters
    ----------
    options : ProfileOptions
    blank_rules : sequence of BlankRule
    key : bytes
    """

    def __init__(self, options: ProfileOptions, blank_rules: Sequence[BlankRule], key: bytes) -> None:
        self._rules, self._keyed = tuple(blank_rules), KeyedMap(key)
        self._deidentify = Deidentifier(options, self._keyed)

    @property
    def methods(self) -> tuple[tuple[str, str], ...]:
        """Code and meaning of what is done to every file (CID 7050)."""
        return self._deidentify.profile.methods

    def clean(self, path: Path) -> CleanFile:
        """Read a file and clean it in memory.

        Raises
        ------
        InputError
            Not DICOM, damaged, or identifiers would stay; one sentence with the path and nothing of the content.
        StorageError
            It may not be read.
        """
        content = read_bytes(path, DEFAULT_LIMITS)
        with foreign_parser(path, "its identifiers cannot be taken out", quote=False), recorded_warnings():
            data_set, _ = parse_file(content, path, DEFAULT_LIMITS)
            try:
                return self._clean(data_set, path)
            except IdentifiersLeftError as err:
                raise IdentifiersLeftError(f"{path}: {err}") from err

    def _clean(self, data_set: Dataset, path: Path) -> CleanFile:
        if enclosed := enclosed_in(data_set):
            raise IdentifiersLeftError(enclosed)
        _check_identity(data_set, path)
        before = [(kind, _original(data_set, keyword)) for kind, keyword in _IDENTITY]
        place, notes = self._place(data_set, dict(before)), _notes(data_set)
        blanked = blank(data_set, path, self._rules, DEFAULT_LIMITS)
        notes += (PIXELS,) if blanked else ()
        cleaned = self._deidentify(data_set, pixels_cleaned=blanked)
        identities = tuple(
            (kind, original, str(cleaned.get(keyword) or ""))
            for (kind, original), (_, keyword) in zip(before, _IDENTITY, strict=True)
        )
        return CleanFile(place=place, content=_encoded(cleaned), identities=identities, notes=notes)

    def _place(self, data_set: Dataset, original: dict[str, str]) -> PurePosixPath:
        names = (self._keyed.file_name(kind, original[kind]) for kind in ("study", "series", "instance"))
        study, series, instance = names
        return PurePosixPath(self._keyed.pseudonym(patient_of(data_set)), study, series, f"{instance}.dcm")


def _original(data_set: Dataset, keyword: str) -> str:
    """A UID, or the patient's number, or what stands for it."""
    text = str(data_set.get(keyword) or "").strip()
    return text or " ".join(patient_of(data_set).split("\0")[1:])


def _check_identity(data_set: Dataset, path: Path) -> None:
    if not UID(transfer_syntax(data_set)).is_valid:
        raise ImageReadError(f"{path}: the Transfer Syntax UID is not a UID; the file is damaged")
    for keyword in _UIDS:
        text = str(data_set.get(keyword) or "").strip()
        if not UID(text).is_valid:
            raise ImageReadError(f"{path}: {keyword} {'is not a UID' if text else 'is missing'}")


def _notes(data_set: Dataset) -> tuple[str, ...]:
    tags = list(data_set.keys())
    found = {
        "private elements": any(tag.is_private for tag in tags),
        "overlays or curves": any(tag.group >> 8 in (0x50, 0x60) and not tag.is_private for tag in tags),
        "icon images": "IconImageSequence" in data_set,
        "structured content": "ContentSequence" in data_set,
        "graphics": "GraphicAnnotationSequence" in data_set,
    }
    return tuple(name for name, there in found.items() if there)


def _encoded(data_set: Dataset) -> bytes:
    """A DICOM file with an empty preamble."""
    head = file_head(
        transfer_syntax_uid=transfer_syntax(data_set),
        sop_class_uid=data_set.SOPClassUID,
        sop_instance_uid=data_set.SOPInstanceUID,
    )
    return head + encoded(
        data_set, implicit_vr=is_implicit_vr(data_set), little_endian=is_little_endian(data_set)
    )
