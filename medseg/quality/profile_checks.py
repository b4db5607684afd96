"""Is an image of the kind that a model was trained on? Checks of `InputFacts` against an `InputProfile`.

They run before the network: header, field of view, values, histogram, look and orientation.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Literal

import numpy as np

from medseg.quality.appearance import Look, turns
from medseg.quality.finding import Finding, GateCheck
from medseg.quality.gate import GateStatistics
from medseg.quality.input_facts import AXES, SIDEWAYS, InputFacts
from medseg.quality.options import GateOptions
from medseg.quality.profile import REFUSE_FACTOR, InputProfile, TurnStatistics, measures_of, turn_vectors
from medseg.quality.ranges import excess

# Radiographs go by several names; what stands in OT and SC was converted from something that is not told.
_RADIOGRAPHS = frozenset({"CR", "DX", "RG"})
_UNTOLD = frozenset({"", "OT", "SC"})
_NO_PROFILE = "the model tells nothing of its training images"


def check_profile(
    facts: InputFacts, profile: InputProfile | None, options: GateOptions | None = None
) -> tuple[GateCheck, ...]:
    """Compare an image with the training images of a model.

    Parameters
    ----------
    facts : InputFacts
    profile : InputProfile or None
        None for a bundle that carries none: every check is then "not judged".
    options : GateOptions, optional
        Which checks are made, and how far they let go.

    Returns
    -------
    tuple of GateCheck
        Modality, orientation, field of view, proportions, values, histogram, appearance; those that are turned off are
        left out.
    """
    options = options or GateOptions()
    known = profile or InputProfile()
    if known.negatives and known.look is not None:
        looks = (facts.look, facts.look.inverted())
        facts = replace(facts, look=min(looks, key=lambda look: _distance(look, known.look)))
    made = (
        _modality(facts, known),
        _orientation(facts, known),
        _field_of_view(facts, known, options),
        _outside("proportions", "proportion ", facts, known, "not known of the training images"),
        _values(facts, known),
        _histogram(facts, known),
        _appearance(facts, known.look),
    )
    return tuple(
        GateCheck(name=check.name, reason=_NO_PROFILE) if profile is None else check
        for check in made
        if check.name not in options.off
    )


def _distance(look: Look, statistics: GateStatistics | None) -> float:
    return 0.0 if statistics is None else statistics.distance(look.vector())


def _flagged(
    name: str,
    text: str,
    *,
    level: Literal["review", "refuse"],
    measured: float | None = None,
    limit: float | None = None,
) -> GateCheck:
    finding = Finding(check=name, level=level, text=text, measured=measured, limit=limit)
    return GateCheck(name=name, finding=finding, measured=measured, limit=limit)


def _modality(facts: InputFacts, profile: InputProfile) -> GateCheck:
    name, known = "modality", set(profile.modalities)
    if not known:
        return GateCheck(name=name, reason="the training images did not say theirs")
    if facts.modality in _UNTOLD:
        return GateCheck(name=name, reason="the file does not say it")
    if known & _RADIOGRAPHS:
        known |= _RADIOGRAPHS
    if facts.modality in known:
        return GateCheck(name=name)
    text = (
        f"the modality of the image is {facts.modality}, the model was trained on {', '.join(sorted(known))}"
    )
    return _flagged(name, text, level="refuse")


def _orientation(facts: InputFacts, profile: InputProfile) -> GateCheck:
    """By the header where it cannot be right, else by whether the image looks more usual when it is turned."""
    name = "orientation"
    if not facts.frontal and profile.frontal == 1.0:
        text = "no axis of the picture runs between the patient's sides and head and foot, as it does in a frontal one"
        if facts.view in SIDEWAYS:
            text = f"the file says that the view is {facts.view}, and the training images were frontal ones"
        return _flagged(name, text, level="review")
    if profile.oriented == 1.0 and not facts.oriented:
        text = "the file does not say where the axes lead, and those of all training images did"
        return _flagged(name, text, level="review")
    if profile.look is None or profile.turned is None:
        return GateCheck(name=name, reason="not known of the training images")
    for test in profile.mirrors:
        if (mirrored := test.score(facts.look)) < test.limit:
            text = f"the image looks mirrored along the axis that leads {AXES[facts.spatial_dims][test.axis]}"
            return _flagged(name, text, level="review", measured=mirrored, limit=test.limit)
    score, turn = turn_score(facts, profile.look, profile.turned)
    limit = profile.turned.limit
    if score <= limit:
        return GateCheck(name=name, measured=score, limit=limit)
    text = f"the image looks much more like the training images when it is turned or mirrored ({turn})"
    return _flagged(name, text, level="review", measured=score, limit=limit)


def turn_score(facts: InputFacts, look: GateStatistics, turned: TurnStatistics) -> tuple[float, str]:
    """How much more usual an image looks in the best of the other orientations, and which that is.

    Returns
    -------
    float
        Gain in standard deviations of the gains of correct images; 0 where no turn makes it more usual.
    str
        Name of the turn, see `appearance.turns`; "" where there is none.
    """
    distances = look.distances(turn_vectors(facts))
    names = list(turns(facts.spatial_dims))
    gains = distances[0] - distances[1:]
    mean, spread = np.array([turned.gains[name] for name in names]).T
    scores = np.where(gains > 0, (gains - mean) / spread, 0.0)
    best = int(np.argmax(scores))
    return (float(scores[best]), names[best]) if scores[best] > 0 else (0.0, "")


def _field_of_view(facts: InputFacts, profile: InputProfile, options: GateOptions) -> GateCheck:
    name = "field of view"
    sides = {n: r for n, r in profile.ranges.items() if n.startswith("side ")}
    if facts.spatial_dims == 2 or not sides:
        reason = (
            "pictures are brought to one size"
            if facts.spatial_dims == 2
            else "not known of the training images"
        )
        return GateCheck(name=name, reason=reason)
    if facts.spacing_mm is None:
        return GateCheck(name=name, reason="the spacing of the image is unknown")
    found = facts.measures()
    for key, limits in sides.items():
        low, high = limits["low"] / options.extent_factor, limits["high"] * options.extent_factor
        if not low <= found[key] <= high:
            text = (
                f"the image is {found[key]:.4g} mm long towards {key.removeprefix('side ')}, training images "
                f"{limits['low']:.4g} to {limits['high']:.4g} mm"
            )
            limit = low if found[key] < low else high
            return _flagged(name, text, level="review", measured=found[key], limit=limit)
    return GateCheck(name=name)


def _outside(name: str, prefix: str, facts: InputFacts, profile: InputProfile, reason: str) -> GateCheck:
    """The number of a kind that lies farthest outside its range."""
    worst = max(_farness(prefix, facts, profile), default=None)
    if worst is None:
        return GateCheck(name=name, reason=reason)
    far, key, value = worst
    if far <= profile.room:
        return GateCheck(name=name, measured=far, limit=profile.room)
    limits = profile.ranges[key]
    text = f"the {key} of the image is {value:.4g}, that of training images {limits['low']:.4g} to {limits['high']:.4g}"
    # A new place frames its images in another way; values of another unit are never right.
    far_off = name == "values" and far > REFUSE_FACTOR * profile.room
    level: Literal["review", "refuse"] = "refuse" if far_off else "review"
    limit = limits["low"] if value < limits["low"] else limits["high"]
    return _flagged(name, text, level=level, measured=value, limit=limit)


def _farness(prefix: str, facts: InputFacts, profile: InputProfile) -> Iterator[tuple[float, str, float]]:
    measures = measures_of(facts, unit_matters=True)
    for key, limits in profile.ranges.items():
        if key.startswith(prefix) and key in measures:
            yield excess(measures[key], limits), key, measures[key]


def _values(facts: InputFacts, profile: InputProfile) -> GateCheck:
    reason = "the model scales each image by itself, or its training images have no common unit"
    return _outside("values", "value ", facts, profile, reason)


def _histogram(facts: InputFacts, profile: InputProfile) -> GateCheck:
    name, limit = "histogram", profile.histogram_limit
    if profile.histogram is None:
        return GateCheck(name=name, reason="not known of the training images")
    distance = float(np.abs(facts.look.levels - profile.histogram).mean())
    if distance <= limit:
        return GateCheck(name=name, measured=distance, limit=limit)
    text = (
        f"the grey values of the image are distributed unlike those of training images (distance {distance:.2f}, limit "
        f"{limit:.2f} of the grey range)"
    )
    return _flagged(name, text, level="review", measured=distance, limit=limit)


def _appearance(facts: InputFacts, look: GateStatistics | None) -> GateCheck:
    name = "appearance"
    if look is None:
        return GateCheck(name=name, reason="not known of the training images")
    distance = look.distance(facts.look.vector())
    if distance <= look.review:
        return GateCheck(name=name, measured=distance, limit=look.review)
    level: Literal["review", "refuse"] = "refuse" if distance > look.refuse else "review"
    text = f"the image looks unlike the training images at a glance (distance {distance:.2f}, limit {look.review:.2f})"
    return _flagged(name, text, level=level, measured=distance, limit=look.review)
