"""UIDs that follow from content: the same result is the same DICOM instance, a changed one never is."""

from __future__ import annotations

import hashlib
import uuid
from typing import Any

from medseg.provenance import sha256_json

_VERSION_AND_VARIANT = (0xF << 76) | (0x3 << 62)
_CUSTOM_UUID = (0x8 << 76) | (0x2 << 62)


def json_digest(**parts: Any) -> str:
    """SHA-256, hex, of named JSON values: what a result is made from."""
    return sha256_json(parts)


def derived_uid(kind: str, digest: str) -> str:
    """A UID under the root 2.25 for one `kind` of thing made from the content `digest`.

    References
    ----------
    DICOM PS3.5 B.2: 2.25 followed by a UUID as a decimal number. RFC 9562 5.8: UUID version 8,
    whose bits are the maker's choice, here the first of SHA-256.
    """
    bits = int.from_bytes(hashlib.sha256(f"medseg {kind} {digest}".encode()).digest()[:16])
    return f"2.25.{uuid.UUID(int=(bits & ~_VERSION_AND_VARIANT) | _CUSTOM_UUID).int}"


IMPLEMENTATION_CLASS_UID = derived_uid("implementation", "medseg")
"""Of files and associations (PS3.7 D.3.3.2)."""
