"""Checks of where a result lies and what form it has: Q101, Q201, Q202, Q301, Q302, Q303."""

from __future__ import annotations

import numpy as np

from medseg.evaluation.quantities import StructureMeasures
from medseg.quality.flag import Flag, FlagLevel, Outcome, ResultFacts
from medseg.quality.options import FlagOptions

_FACES_2D = {"i first": "left", "i last": "right", "j first": "upper", "j last": "lower"}


def check_cut_off(s: StructureMeasures, facts: ResultFacts) -> Outcome:
    """Q101: does it reach the edge of the image?"""
    if s.shape is None:
        return Outcome("Q101", s.structure, reason="absent")
    if not s.cut_off:
        return Outcome("Q101", s.structure)
    faces = [_FACES_2D[f] if len(facts.measures.image_shape) == 2 else f for f in s.shape.touches]
    flag = Flag(
        code="Q101",
        level="note",
        structure=s.structure,
        text=f"{s.structure} reaches the {' and '.join(faces)} edge of the image; its size is a lower bound",
        measured=float(len(faces)),
        limit=0.0,
        advice="do not compare its size with whole structures",
    )
    return Outcome("Q101", s.structure, flag)


def check_stray_parts(s: StructureMeasures, options: FlagOptions) -> Outcome:
    """Q201: does it lie in one piece?"""
    if s.shape is None:
        return Outcome("Q201", s.structure, reason="absent")
    stray = 1.0 - s.shape.largest_share
    if stray <= options.stray_share:
        return Outcome("Q201", s.structure)
    flag = Flag(
        code="Q201",
        level="review",
        structure=s.structure,
        text=f"{s.structure} has {s.shape.parts} parts; {stray:.1%} of it lies outside the largest",
        measured=stray,
        limit=options.stray_share,
        advice="look at the smaller parts; remove them or keep the largest in postprocess",
    )
    return Outcome("Q201", s.structure, flag)


def check_holes(s: StructureMeasures, facts: ResultFacts, options: FlagOptions) -> Outcome:
    """Q202: does it have closed holes?"""
    if s.shape is None:
        return Outcome("Q202", s.structure, reason="absent")
    if len(facts.measures.image_shape) == 2:
        measured, limit = s.shape.hole_voxels / s.shape.voxels, options.hole_share
        size = f"{measured:.1%} of its area"
    elif facts.measures.spacing_mm is None:
        return Outcome("Q202", s.structure, reason="the spacing of the image is unknown")
    else:
        measured = s.shape.hole_voxels * float(np.prod(facts.measures.spacing_mm)) / 1000.0
        limit, size = options.hole_ml, f"{measured:.2f} ml"
    if measured <= limit:
        return Outcome("Q202", s.structure)
    flag = Flag(
        code="Q202",
        level="review",
        structure=s.structure,
        text=f"{s.structure} has closed holes of {size}",
        measured=measured,
        limit=limit,
        advice="look whether the holes are real; fill them in postprocess if not",
    )
    return Outcome("Q202", s.structure, flag)


def check_size(s: StructureMeasures, facts: ResultFacts) -> Outcome:
    """Q301: does it have a size that training results have?"""
    name = f"fraction {s.structure}"
    if s.shape is None:
        return Outcome("Q301", s.structure, reason="absent")
    limits = (facts.ranges or {}).get(name)
    if limits is None:
        return Outcome("Q301", s.structure, reason="no training range is known")
    low, high = limits["low"], limits["high"]
    if low <= s.fraction <= high:
        return Outcome("Q301", s.structure)
    if s.cut_off and s.fraction < low:
        return Outcome("Q301", s.structure, reason="cut off: its size is a lower bound")
    flag = Flag(
        code="Q301",
        level="review",
        structure=s.structure,
        text=f"{s.structure} fills {s.fraction:.1%} of the image (in training {low:.1%} to {high:.1%})",
        measured=s.fraction,
        limit=low if s.fraction < low else high,
        advice="check the contour against the image",
    )
    return Outcome("Q301", s.structure, flag)


def check_ratio(left: str, right: str, facts: ResultFacts) -> Outcome:
    """Q302: do both sides have the sizes that training results have?"""
    pair = f"{left}/{right}"
    one, two = facts.measures.structures[left], facts.measures.structures[right]
    limits = (facts.ranges or {}).get(f"ratio {pair}")
    if one.shape is None or two.shape is None:
        return Outcome("Q302", pair, reason="absent")
    if one.cut_off or two.cut_off:
        return Outcome("Q302", pair, reason="cut off")
    if limits is None:
        return Outcome("Q302", pair, reason="no training range is known")
    ratio = one.shape.voxels / two.shape.voxels
    low, high = float(np.exp(limits["low"])), float(np.exp(limits["high"]))
    if low <= ratio <= high:
        return Outcome("Q302", pair)
    flag = Flag(
        code="Q302",
        level="review",
        structure=pair,
        text=f"{pair} is {ratio:.2f}; training results lie in {low:.2f} to {high:.2f}",
        measured=ratio,
        limit=low if ratio < low else high,
        advice="check whether one side was missed in part, or the disease explains it",
    )
    return Outcome("Q302", pair, flag)


def check_sides(left: str, right: str, facts: ResultFacts, options: FlagOptions) -> Outcome:
    """Q303: does the left label lie on the patient's left?"""
    pair = f"{left}/{right}"
    one, two = facts.measures.structures[left].shape, facts.measures.structures[right].shape
    lateral = facts.measures.lateral
    if one is None or two is None:
        return Outcome("Q303", pair, reason="absent")
    if lateral is None:
        return Outcome("Q303", pair, reason="no axis of the image runs from left to right")
    sign = 1.0 if lateral.towards_left else -1.0
    centres = {left: sign * one.centroid[lateral.axis], right: sign * two.centroid[lateral.axis]}
    if centres[left] <= centres[right]:
        text = f"{left} lies on the right of {right}"
        if lateral.assumed:
            text += ", if the image is displayed in the usual way"
        return Outcome("Q303", pair, _side_flag(pair, "fail", text, 1.0, 0.0))
    astray = {
        left: _beyond(facts, left, lateral.axis, -sign, limit=-centres[right]),
        right: _beyond(facts, right, lateral.axis, sign, limit=centres[left]),
    }
    name, share = max(astray.items(), key=lambda item: item[1])
    if share <= options.wrong_side_share:
        return Outcome("Q303", pair)
    text = f"{share:.1%} of {name} lies beyond the centre of the other side"
    return Outcome("Q303", pair, _side_flag(pair, "review", text, share, options.wrong_side_share))


def _beyond(facts: ResultFacts, name: str, axis: int, sign: float, *, limit: float) -> float:
    """Share of a label whose index times `sign` along `axis` is larger than `limit`."""
    others = tuple(a for a in range(facts.label_map.ndim) if a != axis)
    profile = (facts.label_map == facts.table.class_index(name)).sum(axis=others)
    beyond = sign * np.arange(len(profile)) > limit
    return float(profile[beyond].sum() / profile.sum())


def _side_flag(pair: str, level: FlagLevel, text: str, measured: float, limit: float) -> Flag:
    advice = "check the side marker and the orientation of the image; do not use the sides before"
    return Flag(
        code="Q303",
        level=level,
        structure=pair,
        text=text,
        measured=measured,
        limit=limit,
        advice=advice,
    )
