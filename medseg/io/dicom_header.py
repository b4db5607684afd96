"""Values of a DICOM header, read with distrust: absent, damaged and lying ones are told apart."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydicom import uid
from pydicom.dataset import Dataset

from medseg.errors import ImageReadError
from medseg.io.foreign import PARSER_ERRORS, recorded_warnings
from medseg.privacy import pseudonym

_PLAIN_TEXT = re.compile(r"[A-Za-z0-9 ._/()+,-]{1,64}")
_CODE = re.compile(r"[A-Z0-9 _]{1,16}")
_UID = re.compile(r"[0-9.]{1,64}")
_IDENTIFYING = ("PatientName", "PatientID", "OtherPatientIDs", "AccessionNumber", "PatientBirthDate")
_MIN_IDENTIFIER = 3


_BY_CLASS = {
    uid.ComputedRadiographyImageStorage: "CR",
    uid.DigitalXRayImageStorageForPresentation: "DX",
    uid.DigitalXRayImageStorageForProcessing: "DX",
    uid.CTImageStorage: "CT",
    uid.MRImageStorage: "MR",
    uid.UltrasoundImageStorage: "US",
}


@dataclass(frozen=True, slots=True)
class DicomHeader:
    """A data set and, for one frame of an enhanced object, the functional groups of that frame.

    Parameters
    ----------
    path : Path
        The file, for messages.
    layers : tuple of Dataset
        Where values are looked up, first hit wins; the data set itself is last.
    """

    path: Path
    layers: tuple[Dataset, ...]

    @classmethod
    def of(cls, dataset: Dataset, path: Path) -> DicomHeader:
        """Header of the first frame."""
        plain = cls(path, (dataset,))
        groups: list[Dataset] = []
        for keyword in ("PerFrameFunctionalGroupsSequence", "SharedFunctionalGroupsSequence"):
            for frame in plain.items(keyword)[:1]:
                tags, group = tuple(frame.keys()), cls(path, (frame,))
                groups += [item for tag in tags for item in group.items(tag)[:1]]
        return cls(path, (*groups, dataset))

    def value(self, keyword: Any) -> Any:
        """The first value found under a keyword or tag; None where absent or empty.

        Raises
        ------
        ImageReadError
            The value is there but cannot be converted; its text is not quoted.
        """
        for layer in self.layers:
            if keyword not in layer:
                continue
            try:
                with recorded_warnings():
                    found = layer[keyword].value
            except PARSER_ERRORS as err:
                raise ImageReadError(
                    f"{self.path}: {keyword} cannot be read ({type(err).__name__}): damaged header"
                ) from err
            if found is not None and found != "" and found != b"":
                return found
        return None

    def items(self, keyword: Any) -> list[Dataset]:
        """Items of a sequence; empty where it is absent or no sequence."""
        try:
            found = self.value(keyword)
        except ImageReadError:
            return []
        plain = isinstance(found, Sequence) and not isinstance(found, str | bytes)
        return [item for item in found if isinstance(item, Dataset)] if plain else []

    def numbers(self, keyword: str) -> tuple[float, ...]:
        """Numbers under a keyword: empty where absent, (nan,) where it holds anything else."""
        try:
            found = self.value(keyword)
            if found is None:
                return ()
            values = [found] if isinstance(found, str | bytes | int | float) else list(found)
            return tuple(float(v) for v in values)
        except (ImageReadError, *PARSER_ERRORS):
            return (math.nan,)

    def whole(self, keyword: str, low: int, high: int, default: int | None = None) -> int:
        """A whole number in [low, high].

        Raises
        ------
        ImageReadError
            Absent without default, not a whole number, or out of range; the message has the number.
        """
        found = self.numbers(keyword)
        if not found:
            if default is None:
                raise ImageReadError(f"{self.path}: {keyword} is missing, expected {low} to {high}")
            return default
        if len(found) != 1 or not low <= found[0] <= high or found[0] != int(found[0]):
            shown = ", ".join("not a number" if math.isnan(v) else f"{v:g}" for v in found[:3])
            raise ImageReadError(
                f"{self.path}: {keyword} is {shown}, expected a whole number from {low} to {high}"
            )
        return int(found[0])

    def texts(self, keyword: str) -> tuple[str, ...]:
        """Text values, stripped; empty where absent or damaged. Not for display: they may name a person."""
        try:
            found = self.value(keyword)
        except ImageReadError:
            return ()
        if found is None:
            return ()
        values = [found] if isinstance(found, str | bytes) or not isinstance(found, Sequence) else list(found)
        return tuple(str(v).strip("\0 ") for v in values)

    def code(self, keyword: str) -> str:
        """A code string (VR CS) such as PA or CHEST; "" where absent or anything but a code."""
        first = next(iter(self.texts(keyword)), "").upper()
        return first if _CODE.fullmatch(first) and not self._identifies(first) else ""

    def side(self) -> str:
        """Which side of a paired body part: R, L, U (neither) or B (both); "" where no such letter is there."""
        found = self.code("ImageLaterality") or self.code("Laterality")
        return found if found in ("R", "L", "U", "B") else ""

    def uid(self, keyword: str) -> str:
        """A UID; "" where absent or malformed."""
        first = next(iter(self.texts(keyword)), "")
        return first if _UID.fullmatch(first) else ""

    def plain_text(self, keyword: str) -> str:
        """Short text about the device; "" where it has odd characters or repeats the patient's name or ID."""
        first = next(iter(self.texts(keyword)), "")
        return first if _PLAIN_TEXT.fullmatch(first) and not self._identifies(first) else ""

    def _identifies(self, text: str) -> bool:
        return any(part in text.casefold() for part in self.identifiers())

    def identifiers(self) -> frozenset[str]:
        """Parts of the patient's name, numbers and birth date, in lower case, three characters or more."""
        parts = [
            part
            for keyword in _IDENTIFYING
            for text in self.texts(keyword)
            for part in re.split(r"[\^=\s,]+", text.casefold())
        ]
        return frozenset(part for part in parts if len(part) >= _MIN_IDENTIFIER)

    def person(self) -> frozenset[str]:
        """Words of the patient's name, letters alone and three or more, and the birth date; lower case.

        Numbers are not in it: in research collections the patient's number is the name of the case.
        """
        parts = [
            part for text in self.texts("PatientName") for part in re.split(r"[\^=\s,._-]+", text.casefold())
        ]
        words = {part for part in parts if len(part) >= _MIN_IDENTIFIER and part.isalpha()}
        return frozenset(words | set(self.texts("PatientBirthDate")) - {""})


def uid_name(value: str) -> str:
    """Name of a UID that the standard registers with the UID, else the UID alone, else "unknown"."""
    name = uid.UID(value).name if value else "unknown"
    return name if name == value or not value else f"{name} ({value})"


def modality_of(header: DicomHeader) -> str:
    """Modality, from the SOP class where the file leaves it out; SC for a secondary capture without one."""
    stated, kind = header.code("Modality"), header.uid("SOPClassUID")
    if stated in ("", "OT") and kind == uid.SecondaryCaptureImageStorage:
        return "SC"
    return stated or _BY_CLASS.get(kind, "")


def patient_pseudonym(header: DicomHeader) -> str:
    """Pseudonym of the Patient ID and its issuer, "" where there is no Patient ID."""
    number = next(iter(header.texts("PatientID")), "")
    issuer = next(iter(header.texts("IssuerOfPatientID")), "")
    return pseudonym(f"{number}|{issuer}" if issuer else number) if number else ""
