"""UIDs, pseudonyms and shifts of dates that follow from the original and a secret."""

from __future__ import annotations

import hashlib
import hmac
import uuid

from pydicom.dataset import Dataset

from medseg.errors import ConfigError

SHORTEST_KEY = 16
_MOST_DAYS = 3650
_DICOM_ROOT = "1.2.840.10008."


class KeyedMap:
    """The same original and the same key give the same stand-in; without the key nobody goes either way.

    Parameters
    ----------
    key : bytes

    Raises
    ------
    ConfigError
        The key is short.
    """

    def __init__(self, key: bytes) -> None:
        if len(key) < SHORTEST_KEY:
            raise ConfigError(f"deidentify.key: {len(key)} characters, expected {SHORTEST_KEY} or more")
        self._key = key

    def uid(self, original: str) -> str:
        """The UID that stands for another one (PS3.5 B.2). Those that the standard itself gives stay."""
        if original.startswith(_DICOM_ROOT):
            return original
        bits = int.from_bytes(self._digest("uid", original)[:16])
        shaped = bits & ~((0xF << 76) | (0x3 << 62)) | (0x8 << 76) | (0x2 << 62)
        return f"2.25.{uuid.UUID(int=shaped).int}"

    def pseudonym(self, patient: str) -> str:
        """What stands for a patient, as `patient_of` tells him: `P-` and twelve digits."""
        return "P-" + self._digest("patient", patient).hex()[:12].upper()

    def days(self, patient: str) -> int:
        """How many days the dates of a patient are moved back."""
        return 1 + int.from_bytes(self._digest("days", patient)[:8]) % _MOST_DAYS

    def file_name(self, kind: str, original: str) -> str:
        """A name for a file or folder that tells nothing of the original."""
        return f"{kind}-{self._digest(kind, original).hex()[:16]}"

    def _digest(self, kind: str, text: str) -> bytes:
        return hmac.new(
            self._key, f"{kind}\0{text}".encode("utf-8", "surrogatepass"), hashlib.sha256
        ).digest()


def patient_of(data_set: Dataset) -> str:
    """What tells patients apart: the number, without one name and birth date, without these the study."""
    for keywords in (
        ("PatientID", "IssuerOfPatientID"),
        ("PatientName", "PatientBirthDate"),
        ("StudyInstanceUID",),
    ):
        values = [str(data_set.get(name) or "").strip() for name in keywords]
        if values[0]:
            return "\0".join((keywords[0], *values))
    return ""
