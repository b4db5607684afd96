"""Whether an evaluated image was among those that the network was trained on, told by its pixels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """A case with the SHA-256 of its decoded pixels."""

    case_id: str
    patient_id: str
    digest: str


def find_leaks(evaluated: Seen, trained: Sequence[Seen]) -> list[str]:
    """One sentence for each training case with the same pixels, or of the same patient."""
    found = []
    for other in sorted(trained, key=lambda seen: seen.case_id):
        if other.digest == evaluated.digest:
            found.append(f"{evaluated.case_id} has the same pixels as the training case {other.case_id}")
        elif other.patient_id == evaluated.patient_id:
            found.append(f"{evaluated.case_id} is of the same patient as the training case {other.case_id}")
    return found
