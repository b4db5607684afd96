"""Which series of a study a rule takes, and why the others are left."""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence
from dataclasses import dataclass

from medseg.node.completeness import SliceGeometry
from medseg.node.rule_options import MatchOptions, RuleOptions


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A series as rules see it; texts are those of its first instance."""

    series_uid: str
    modality: str
    body_part: str
    description: str
    protocol: str
    number: int | None
    called_by: str
    mixed: str
    geometry: SliceGeometry
    views: frozenset[str] = frozenset()
    """View positions of its images, "" for one that does not say."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """What a rule does with a study: the series it takes, and for each other series why not."""

    chosen: tuple[Candidate, ...]
    left: tuple[tuple[Candidate, str], ...]


def choose(rule: RuleOptions, study: Sequence[Candidate]) -> Choice:
    """Ask a rule about all series of a study.

    Of several that match, `choose: best` takes the one with most slices, then the thinnest, then the lowest number.
    """
    reasons = [(candidate, why_not(rule.match, candidate)) for candidate in study]
    fitting = [candidate for candidate, reason in reasons if not reason]
    left = [(candidate, reason) for candidate, reason in reasons if reason]
    if rule.choose == "all" or len(fitting) < 2:
        return Choice(chosen=tuple(fitting), left=tuple(left))
    best, *others = sorted(fitting, key=_order)
    left += [(other, _worse(other, best)) for other in others]
    return Choice(chosen=(best,), left=tuple(left))


def why_not(match: MatchOptions, candidate: Candidate) -> str:
    """Why a series does not match; "" where it does."""
    if candidate.mixed:
        return candidate.mixed
    texts = (
        ("modality", match.modality, (candidate.modality,)),
        ("body part", match.body_part, (candidate.body_part,)),
        ("series description", match.description, (candidate.description,)),
        ("protocol", match.protocol, (candidate.protocol,)),
        ("calling AE title", match.calling_ae_title, (candidate.called_by,)),
        ("view", match.view, candidate.views),
    )
    for name, patterns, found in texts:
        if patterns and not any(_any(patterns, text) for text in found):
            return f"its {name} is not one of {', '.join(pattern or 'none' for pattern in patterns)}"
    if _any(match.not_description, candidate.description):
        return "its series description is excluded"
    return _count_reason(match, candidate.geometry)


def _count_reason(match: MatchOptions, geometry: SliceGeometry) -> str:
    if geometry.slices < match.min_slices:
        return f"{geometry.slices} slices, the rule asks for {match.min_slices}"
    if match.max_slices is not None and geometry.slices > match.max_slices:
        return f"{geometry.slices} slices, the rule takes {match.max_slices} at most"
    limit = match.max_spacing_mm
    if limit is not None and geometry.spacing_mm is not None and geometry.spacing_mm > limit + 1e-3:
        return f"a step of {geometry.spacing_mm:g} mm between slices, the rule takes {limit:g} mm at most"
    return ""


def _any(patterns: Sequence[str], text: str) -> bool:
    return any(fnmatch.fnmatchcase(text.casefold(), pattern.casefold()) for pattern in patterns)


def _order(candidate: Candidate) -> tuple[float, float, float, str]:
    geometry = candidate.geometry
    spacing = float("inf") if geometry.spacing_mm is None else geometry.spacing_mm
    number = float("inf") if candidate.number is None else candidate.number
    return (-geometry.slices, spacing, number, candidate.series_uid)


def _worse(other: Candidate, best: Candidate) -> str:
    name = "another series" if best.number is None else f"series {best.number}"
    if other.geometry.slices != best.geometry.slices:
        return f"{name} has {best.geometry.slices} slices, this one {other.geometry.slices}"
    if other.geometry.spacing_mm != best.geometry.spacing_mm:
        return f"{name} has thinner slices"
    return f"{name} comes first by its number"
