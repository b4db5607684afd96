"""Checks of how sure the network was: Q401, and Q403 of an ensemble."""

from __future__ import annotations

from medseg.evaluation.quantities import StructureMeasures
from medseg.quality.flag import Flag, Outcome, ResultFacts
from medseg.quality.options import FlagOptions
from medseg.quality.place import place_of_shape


def check_confidence(s: StructureMeasures, facts: ResultFacts, options: FlagOptions) -> Outcome:
    """Q401: was the network sure of the core of the structure? The border is always uncertain and is left out."""
    if s.shape is None:
        return Outcome("Q401", s.structure, reason="absent")
    known = (facts.confidence or {}).get(s.structure, {})
    if "uncertain_core" in known:
        measured, limit = known["uncertain_core"], options.uncertain_share
        bad, text = measured > limit, f"{measured:.0%} of the core of {s.structure} is undecided"
    elif "mean_probability" in known:
        measured, limit = known["mean_probability"], options.least_probability
        bad, text = measured < limit, f"the mean probability in the core of {s.structure} is {measured:.2f}"
    else:
        return Outcome("Q401", s.structure, reason="the model gives no confidence")
    if not bad:
        return Outcome("Q401", s.structure, measured=measured, limit=limit, unit="1")
    flag = Flag(
        code="Q401",
        level="review",
        structure=s.structure,
        text=text,
        measured=measured,
        limit=limit,
        advice="check the structure against the image before using its numbers",
        unit="1",
        place=place_of_shape(s.shape, facts.affine),
    )
    return Outcome("Q401", s.structure, flag)


def check_disagreement(s: StructureMeasures, facts: ResultFacts, options: FlagOptions) -> Outcome:
    """Q403: do the networks of an ensemble agree on the structure?"""
    if s.shape is None:
        return Outcome("Q403", s.structure, reason="absent")
    measured = (facts.confidence or {}).get(s.structure, {}).get("disagreement")
    if measured is None:
        return Outcome("Q403", s.structure, reason="the model is a single network")
    limit = options.disagreement
    if measured <= limit:
        return Outcome("Q403", s.structure, measured=measured, limit=limit, unit="1")
    flag = Flag(
        code="Q403",
        level="review",
        structure=s.structure,
        text=f"{measured:.0%} of the pairs of networks differ in {s.structure}, averaged over it",
        measured=measured,
        limit=limit,
        advice="look at the map of the disagreement; check the structure against the image",
        unit="1",
        place=place_of_shape(s.shape, facts.affine),
    )
    return Outcome("Q403", s.structure, flag)
