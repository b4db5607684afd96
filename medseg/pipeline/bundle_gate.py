"""The input gate that a bundle carries, as `calibration` wrote it. Imports no torch."""

from __future__ import annotations

from medseg.models.bundle import Bundle
from medseg.quality.gate import GateStatistics
from medseg.quality.profile import InputProfile, profile_from_json

RANGE = "range "
"""What the names of ranges begin with among the numbers of a gate."""

PROFILE = "profile "
"""What the names of the numbers of training images begin with."""


def read_gate(bundle: Bundle) -> GateStatistics | None:
    """The feature gate of a bundle, None where it has none."""
    arrays = bundle.load_gate()
    if not arrays or bundle.record.gate is None:
        return None
    return GateStatistics.from_parts(arrays, bundle.record.gate.limits)


def read_ranges(bundle: Bundle) -> dict[str, dict[str, float]]:
    """Ranges of results on the training images; empty where the bundle has none."""
    limits = {} if bundle.record.gate is None else bundle.record.gate.limits
    return {
        name.removeprefix(RANGE): dict(value)
        for name, value in limits.items()
        if name.startswith(RANGE) and isinstance(value, dict)
    }


def read_profile(bundle: Bundle) -> InputProfile | None:
    """What the training images of a bundle were like; None where it does not tell."""
    return None if bundle.record.gate is None else profile_from_json(bundle.record.gate.limits, PROFILE)
