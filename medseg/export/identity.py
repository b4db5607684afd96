"""UIDs that follow from content: the same result is the same DICOM instance, a changed one never is."""

from __future__ import annotations

import hashlib
import uuid
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medseg.provenance import sha256_json

_VERSION_AND_VARIANT = (0xF << 76) | (0x3 << 62)
_CUSTOM_UUID = (0x8 << 76) | (0x2 << 62)


def content_digest(label_map: NDArray[Any], **parts: Any) -> str:
    """SHA-256, hex, of a label map (values and shape, whatever its integer type) and JSON values."""
    values = np.ascontiguousarray(label_map, dtype="<u4")
    pixels = hashlib.sha256(values.tobytes()).hexdigest()
    return sha256_json({**parts, "label_map": [list(label_map.shape), pixels]})


def derived_uid(kind: str, digest: str) -> str:
    """A UID under the root 2.25 for one `kind` of thing made from the content `digest`.

    References
    ----------
    DICOM PS3.5 B.2: 2.25 followed by a UUID as a decimal number. RFC 9562 5.8: UUID version 8,
    whose bits are the maker's choice, here the first of SHA-256.
    """
    bits = int.from_bytes(hashlib.sha256(f"medseg {kind} {digest}".encode()).digest()[:16])
    return f"2.25.{uuid.UUID(int=(bits & ~_VERSION_AND_VARIANT) | _CUSTOM_UUID).int}"
