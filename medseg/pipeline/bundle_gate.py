"""The input gate that a bundle carries, as `calibration` wrote it. Imports no torch."""

from __future__ import annotations

from medseg.models.bundle import Bundle
from medseg.quality.family import LEAST_MARGIN
from medseg.quality.gate import GateStatistics
from medseg.quality.profile import InputProfile, profile_from_json
from medseg.quality.sides import SideTest, side_test_from_json

RANGE = "range "
"""What the names of ranges begin with among the numbers of a gate."""

PROFILE = "profile "
"""What the names of the numbers of training images begin with."""

FAMILY = "family"
"""Numbers that let all checks together flag few left-out results."""


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


def read_cohort_margin(bundle: Bundle) -> float:
    """Room beyond the ends of the ranges of results; that of older bundles where the bundle does not tell."""
    return _family(bundle).get("cohort_margin", LEAST_MARGIN)


def read_result_room(bundle: Bundle) -> float:
    """Factor by which the gate's ranges of results are wider; 1 where the bundle does not tell."""
    return _family(bundle).get("result_room", 1.0)


def _family(bundle: Bundle) -> dict[str, float]:
    found = {} if bundle.record.gate is None else bundle.record.gate.limits.get(FAMILY)
    return dict(found) if isinstance(found, dict) else {}


def read_sides(bundle: Bundle) -> SideTest | None:
    """How a bundle tells an image from a mirrored one; None where it does not."""
    return None if bundle.record.gate is None else side_test_from_json(bundle.record.gate.limits)


def read_profile(bundle: Bundle) -> InputProfile | None:
    """What the training images of a bundle were like; None where it does not tell."""
    return None if bundle.record.gate is None else profile_from_json(bundle.record.gate.limits, PROFILE)
