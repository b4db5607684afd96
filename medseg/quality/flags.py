"""Flags: what a reader of a result must know before using it, with codes that stay the same.

Every check ends in one of three ways: passed, flagged, or not judged with the reason. The worst
flag is the verdict of the case.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from medseg.errors import ConfigError
from medseg.evaluation.definitions import DEFINITIONS
from medseg.evaluation.measure import lateral_pairs
from medseg.evaluation.quantities import StructureMeasures
from medseg.labels import LabelTable
from medseg.quality.cohort_checks import check_positions, check_ratio, check_size
from medseg.quality.confidence_checks import check_confidence, check_disagreement
from medseg.quality.finding import Finding
from medseg.quality.flag import LEVELS, CaseFlags, Flag, Outcome, ResultFacts, Verdict
from medseg.quality.geometry_checks import (
    check_cut_off,
    check_holes,
    check_sides,
    check_slices,
    check_stray_parts,
)
from medseg.quality.options import FlagOptions
from medseg.quality.place import place_at
from medseg.quality.slice_steps import slice_axis


def judge_result(facts: ResultFacts, options: FlagOptions | None = None) -> CaseFlags:
    """Make every check on one result.

    Raises
    ------
    ConfigError
        `expected` names a label that the table does not have.
    """
    options = options or FlagOptions()
    outcomes = [o for o in _all_outcomes(facts, options) if o.code not in options.off]
    flags = [
        replace(o.flag, level=options.levels.get(o.code, o.flag.level))
        for o in outcomes
        if o.flag is not None
    ]
    flags.sort(key=lambda flag: -LEVELS.index(flag.level))
    levels: list[Verdict] = [flag.level for flag in flags]
    return CaseFlags(
        verdict=max(levels, key=LEVELS.index, default="pass"),
        flags=tuple(flags),
        checks=tuple(o.check() for o in outcomes),
    )


def _all_outcomes(facts: ResultFacts, options: FlagOptions) -> Iterable[Outcome]:
    labels = [facts.measures.structures[name] for name in facts.table.names[1:]]
    for structure in labels:
        yield check_cut_off(structure, facts)
        yield check_stray_parts(structure, facts, options)
        yield check_holes(structure, facts, options)
        yield check_slices(structure, facts, options)
        yield check_size(structure, facts, options)
        yield check_confidence(structure, facts, options)
        yield check_disagreement(structure, facts, options)
    for name in facts.table.regions:
        # Of the union of its labels: what is torn between two of them is a doubt about each, not about the region.
        if name in (facts.confidence or {}):
            yield check_confidence(facts.measures.structures[name], facts, options)
    for left, right in lateral_pairs(facts.table):
        yield check_ratio(left, right, facts, options)
        yield check_sides(left, right, facts, options)
    yield from check_positions(facts, options)
    yield _slices(facts)
    yield from _input(facts)
    yield from _absent(labels, facts.table, options)
    yield from _agreement(facts, options)


def _slices(facts: ResultFacts) -> Outcome:
    """Q102: is a slice of the image missing or there twice?"""
    if len(facts.measures.image_shape) == 2:
        return Outcome("Q102", "", reason="a picture has no slices")
    if facts.doubled:
        axis = slice_axis(facts.measures.spacing_mm, 3)
        first = facts.doubled[0]
        box = [(0, n - 1) for n in facts.measures.image_shape]
        box[axis] = (first, first + 1)
        count = len(facts.doubled)
        flag = Flag(
            code="Q102",
            level="review",
            structure="",
            text=f"{count} of the slices {'is' if count == 1 else 'are'} the same as the next one, first at "
            f"{'ijk'[axis]} = {first}",
            measured=float(count),
            limit=0.0,
            advice="check that the series is whole and was not padded or resampled",
            unit="slices",
            place=place_at([(a + b) / 2 for a, b in box], tuple(box), facts.affine),
        )
        return Outcome("Q102", "", flag)
    if facts.even_slices:
        return Outcome("Q102", "", measured=0.0, limit=0.0, unit="slices")
    if facts.doubled is None:
        return Outcome("Q102", "", reason="the image was not given")
    return Outcome("Q102", "", reason="no slice is there twice; the file does not tell the place of each")


def _input(facts: ResultFacts) -> Iterable[Outcome]:
    """Q402: what the input gate looked at, and what it found."""
    if facts.gate_checks is not None:
        for check in facts.gate_checks:
            yield Outcome(
                "Q402",
                "",
                None if check.finding is None else _input_flag(check.finding),
                reason=check.reason,
                part=check.name,
                measured=check.measured,
                limit=check.limit,
            )
        return
    if facts.gate is None:
        yield Outcome("Q402", "", reason="the model has no statistics of its training images")
    elif not facts.gate:
        yield Outcome("Q402", "")
    for finding in facts.gate or ():
        yield Outcome("Q402", "", _input_flag(finding))


def _input_flag(finding: Finding) -> Flag:
    return Flag(
        code="Q402",
        level="fail" if finding.level == "refuse" else "review",
        structure="",
        text=finding.text,
        measured=finding.measured,
        limit=finding.limit,
        advice="check that the model is meant for this kind of image",
    )


def _absent(
    labels: Sequence[StructureMeasures], table: LabelTable, options: FlagOptions
) -> Iterable[Outcome]:
    expected = table.names[1:] if options.expected == "all" else options.expected
    unknown = sorted(set(expected) - set(table.names[1:]))
    if unknown:
        raise ConfigError(
            f"flags.expected names {', '.join(unknown)}; known labels: {', '.join(table.names[1:])}"
        )
    for s in labels:
        if s.structure not in expected:
            continue
        flag = Flag(
            code="Q501",
            level="fail",
            structure=s.structure,
            text=f"{s.structure} was not found",
            measured=0.0,
            limit=None,
            advice="check whether the image shows it; draw it by hand if so",
            unit="voxels",
        )
        yield Outcome("Q501", s.structure, None if s.present else flag)


def _agreement(facts: ResultFacts, options: FlagOptions) -> Iterable[Outcome]:
    if facts.evaluation is None or not options.agreement:
        reason = "no reference" if facts.evaluation is None else "the settings give no limit"
        yield Outcome("Q601", "", reason=reason)
        return
    for s in facts.evaluation.structures:
        for name, limit in options.agreement.items():
            metric, definition = s.metrics.get(name), DEFINITIONS[name]
            if metric is None or metric.value is None:
                why = f"{definition.title}: {'not computed' if metric is None else metric.reason}"
                yield Outcome("Q601", s.structure, reason=why)
                continue
            if metric.unit != definition.unit:
                why = f"{definition.title} is in {metric.unit}, the limit in {definition.unit}"
                yield Outcome("Q601", s.structure, reason=why)
                continue
            size = abs(metric.value) if definition.better == "zero" else metric.value
            bad = size < limit if definition.better == "higher" else size > limit
            unit = "" if definition.unit == "1" else f" {definition.unit}"
            flag = Flag(
                code="Q601",
                level="review",
                structure=s.structure,
                text=f"{definition.title} of {s.structure} is {metric.value:.3g}{unit} (limit {limit:g})",
                measured=metric.value,
                limit=limit,
                advice="compare the two contours",
            )
            yield Outcome("Q601", s.structure, flag if bad else None)
