"""Checks of what form a mask has and which side it lies on: Q101, Q201, Q202, Q203, Q303."""

from __future__ import annotations

import numpy as np

from medseg.evaluation.quantities import StructureMeasures
from medseg.evaluation.shape import ObjectShape
from medseg.quality.cohort import at_percentile, cell_mm
from medseg.quality.flag import Flag, Outcome, ResultFacts
from medseg.quality.options import FlagLevel, FlagOptions
from medseg.quality.place import place_at, place_of_face, place_of_hole, place_of_shape, place_of_stray
from medseg.quality.slice_steps import SliceStep, largest_step, slice_axis

_FACES_2D = {"i first": "left", "i last": "right", "j first": "upper", "j last": "lower"}


def check_cut_off(s: StructureMeasures, facts: ResultFacts) -> Outcome:
    """Q101: does it reach the edge of the image?"""
    if s.shape is None:
        return Outcome("Q101", s.structure, reason="absent")
    if not s.cut_off:
        return Outcome("Q101", s.structure, measured=0.0, limit=0.0, unit="edges")
    faces = [_FACES_2D[f] if len(facts.measures.image_shape) == 2 else f for f in s.shape.touches]
    flag = Flag(
        code="Q101",
        level="note",
        structure=s.structure,
        text=f"{s.structure} reaches the {' and '.join(faces)} edge of the image; its size is a lower bound",
        measured=float(len(faces)),
        limit=0.0,
        advice="do not compare its size with whole structures",
        unit="edges",
        place=place_of_face(s.shape, facts.mask(s.structure), facts.affine),
    )
    return Outcome("Q101", s.structure, flag)


def check_stray_parts(s: StructureMeasures, facts: ResultFacts, options: FlagOptions) -> Outcome:
    """Q201: does it lie in one piece?"""
    if s.shape is None:
        return Outcome("Q201", s.structure, reason="absent")
    stray = 1.0 - s.shape.largest_share
    if stray <= options.stray_share:
        return Outcome("Q201", s.structure, measured=stray, limit=options.stray_share, unit="1")
    flag = Flag(
        code="Q201",
        level="review",
        structure=s.structure,
        text=f"{s.structure} has {s.shape.parts} parts; {stray:.1%} of it lies outside the largest",
        measured=stray,
        limit=options.stray_share,
        advice="look at the smaller parts; remove them or keep the largest in postprocess",
        unit="1",
        place=place_of_stray(s.shape, facts.mask(s.structure), facts.affine),
    )
    return Outcome("Q201", s.structure, flag)


def check_holes(s: StructureMeasures, facts: ResultFacts, options: FlagOptions) -> Outcome:
    """Q202: does it have closed holes, by volume or by share?"""
    if s.shape is None:
        return Outcome("Q202", s.structure, reason="absent")
    share = s.shape.hole_voxels / s.shape.voxels
    flat = len(facts.measures.image_shape) == 2
    measured, limit, unit = share, options.hole_share, "1"
    cell = cell_mm(facts.measures, facts.affine)
    if not flat and share <= limit and cell is not None:
        measured, limit, unit = s.shape.hole_voxels * cell / 1000.0, options.hole_ml, "ml"
    if measured <= limit:
        return Outcome("Q202", s.structure, measured=measured, limit=limit, unit=unit)
    size = f"{measured:.2f} ml" if unit == "ml" else f"{share:.1%} of its {'area' if flat else 'volume'}"
    flag = Flag(
        code="Q202",
        level="review",
        structure=s.structure,
        text=f"{s.structure} has closed holes of {size}",
        measured=measured,
        limit=limit,
        advice="look whether the holes are real; fill them in postprocess if not",
        unit=unit,
        place=place_of_hole(s.shape, facts.mask(s.structure), facts.affine),
    )
    return Outcome("Q202", s.structure, flag)


def check_slices(s: StructureMeasures, facts: ResultFacts, options: FlagOptions) -> Outcome:
    """Q203: do neighbouring slices of it overlap as much as those around them?"""
    if len(facts.measures.image_shape) == 2:
        return Outcome("Q203", s.structure, reason="a picture has no slices")
    if s.shape is None:
        return Outcome("Q203", s.structure, reason="absent")
    axis = slice_axis(facts.measures.spacing_mm, 3)
    step = largest_step(s.shape.box, facts.mask(s.structure), axis)
    if step is None:
        return Outcome("Q203", s.structure, reason="it has too few slices")
    known = (facts.ranges or {}).get(f"step {s.structure}")
    limit = options.slice_step
    if known is not None:
        limit = max(limit, at_percentile(known, options.percentiles[1]))
    if step.value <= limit:
        return Outcome("Q203", s.structure, measured=step.value, limit=limit, unit="1")
    return Outcome("Q203", s.structure, _step_flag(s, s.shape, facts, step, limit))


def _step_flag(
    s: StructureMeasures, shape: ObjectShape, facts: ResultFacts, step: SliceStep, limit: float
) -> Flag:
    letter = "ijk"[step.axis]
    if step.missing:
        what = f"is missing in {step.missing} slices after {letter} = {step.index} and goes on behind them"
    else:
        what = f"changes abruptly from slice {letter} = {step.index} to {step.index + 1}"
    voxel = [*shape.centroid]
    voxel[step.axis] = step.index + 0.5
    box = [*shape.box]
    box[step.axis] = (step.index, step.index + 1 + step.missing)
    return Flag(
        code="Q203",
        level="review",
        structure=s.structure,
        text=f"{s.structure} {what}",
        measured=step.value,
        limit=limit,
        advice="look at these slices; the mask or the image may have lost or moved some",
        unit="1",
        place=place_at(voxel, tuple(box), facts.affine),
    )


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
        return Outcome("Q303", pair, _side_flag(facts, pair, one, "fail", text, (1.0, 0.0)))
    limits = {left: (-sign, -centres[right]), right: (sign, centres[left])}
    astray = {name: _beyond(facts, name, lateral.axis, *limits[name]) for name in (left, right)}
    name, share = max(astray.items(), key=lambda item: item[1])
    limit = options.wrong_side_share
    if share <= limit:
        return Outcome("Q303", pair, measured=share, limit=limit, unit="1")
    text = f"{share:.1%} of {name} lies beyond the centre of the other side"
    shape = one if name == left else two
    return Outcome("Q303", pair, _side_flag(facts, pair, shape, "review", text, (share, limit)))


def _beyond(facts: ResultFacts, name: str, axis: int, sign: float, limit: float) -> float:
    """Share of a label whose index times `sign` along `axis` is larger than `limit`, a slab at a time."""
    shape = facts.measures.structures[name].shape
    if shape is None:
        return 0.0
    beyond = 0
    mask = facts.mask(name)
    first, last = shape.box[axis]
    for index in range(first, last + 1):
        if sign * index > limit:
            part = tuple(
                slice(index, index + 1) if a == axis else slice(s, e + 1)
                for a, (s, e) in enumerate(shape.box)
            )
            beyond += int(np.count_nonzero(mask(part)))
    return beyond / shape.voxels


def _side_flag(
    facts: ResultFacts,
    pair: str,
    shape: ObjectShape,
    level: FlagLevel,
    text: str,
    numbers: tuple[float, float],
) -> Flag:
    return Flag(
        code="Q303",
        level=level,
        structure=pair,
        text=text,
        measured=numbers[0],
        limit=numbers[1],
        advice="check the side marker and the orientation of the image; do not use the sides before",
        unit="1",
        place=place_of_shape(shape, facts.affine),
    )
