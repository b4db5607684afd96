"""Checks of sizes and positions against the training cohort: Q301, Q302, Q304."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from medseg.evaluation.quantities import StructureMeasures
from medseg.quality.cohort import at_percentile, offsets, percentile_of, size_of
from medseg.quality.flag import Flag, Outcome, ResultFacts
from medseg.quality.options import FlagOptions
from medseg.quality.place import Place, place_of_shape
from medseg.quality.ranges import Range

_UNKNOWN = "no training range is known"


def _bounds(limits: Range, facts: ResultFacts, options: FlagOptions) -> tuple[float, float]:
    """Values between which a number is likely: two percentiles of the cohort, widened away from its median."""
    low, high = (at_percentile(limits, p) for p in options.percentiles)
    margin = facts.cohort_margin if options.cohort_margin is None else options.cohort_margin
    return low - margin * (limits["median"] - low), high + margin * (high - limits["median"])


def _place(facts: ResultFacts, structure: str) -> Place | None:
    shape = facts.measures.structures[structure].shape
    return None if shape is None else place_of_shape(shape, facts.affine)


def check_size(s: StructureMeasures, facts: ResultFacts, options: FlagOptions) -> Outcome:
    """Q301: does it have a size that training results have? In ml or cm2; without spacing as a share of the image."""
    if s.shape is None:
        return Outcome("Q301", s.structure, reason="absent")
    ranges, flat = facts.ranges or {}, len(facts.measures.image_shape) == 2
    value = size_of(s, facts.measures, facts.affine)
    limits = ranges.get(f"{'area_cm2' if flat else 'volume_ml'} {s.structure}")
    unit = "cm2" if flat else "ml"
    if value is None or limits is None:
        value, limits, unit = s.fraction, ranges.get(f"fraction {s.structure}"), "1"
    if limits is None:
        return Outcome("Q301", s.structure, reason=_UNKNOWN)
    low, high = _bounds(limits, facts, options)
    if low <= value <= high:
        return Outcome(
            "Q301", s.structure, measured=value, limit=low if value < limits["median"] else high, unit=unit
        )
    if s.cut_off and value < low:
        return Outcome("Q301", s.structure, reason="cut off: its size is a lower bound")
    flag = Flag(
        code="Q301",
        level="review",
        structure=s.structure,
        text=_size_text(s.structure, value, (low, high), limits, unit),
        measured=value,
        limit=low if value < low else high,
        advice="check the contour against the image",
        unit=unit,
        place=place_of_shape(s.shape, facts.affine),
    )
    return Outcome("Q301", s.structure, flag)


def _size_text(name: str, value: float, bounds: tuple[float, float], limits: Range, unit: str) -> str:
    if unit == "1":
        return f"{name} fills {value:.1%} of the image (in training {bounds[0]:.1%} to {bounds[1]:.1%})"
    words = {"ml": "ml", "cm2": "cm²"}[unit]
    return (
        f"{name} has {value:.3g} {words}; {limits['count']:.0f} training results lie in {bounds[0]:.3g} to "
        f"{bounds[1]:.3g} {words} (percentile {percentile_of(value, limits):.0f})"
    )


def check_ratio(left: str, right: str, facts: ResultFacts, options: FlagOptions) -> Outcome:
    """Q302: do both sides have the sizes that training results have?"""
    pair = f"{left}/{right}"
    one, two = facts.measures.structures[left], facts.measures.structures[right]
    limits = (facts.ranges or {}).get(f"ratio {pair}")
    if one.shape is None or two.shape is None:
        return Outcome("Q302", pair, reason="absent")
    if one.cut_off or two.cut_off:
        return Outcome("Q302", pair, reason="cut off")
    if limits is None:
        return Outcome("Q302", pair, reason=_UNKNOWN)
    ratio = one.shape.voxels / two.shape.voxels
    low, high = (float(np.exp(bound)) for bound in _bounds(limits, facts, options))
    if low <= ratio <= high:
        limit = low if ratio < np.exp(limits["median"]) else high
        return Outcome("Q302", pair, measured=ratio, limit=limit, unit="1")
    flag = Flag(
        code="Q302",
        level="review",
        structure=pair,
        text=f"{pair} is {ratio:.2f}; training results lie in {low:.2f} to {high:.2f}",
        measured=ratio,
        limit=low if ratio < low else high,
        advice="check whether one side was missed in part, or the disease explains it",
        unit="1",
        place=_place(facts, left if ratio < low else right),
    )
    return Outcome("Q302", pair, flag)


def check_positions(facts: ResultFacts, options: FlagOptions) -> Iterator[Outcome]:
    """Q304: do the structures lie to each other as in training results? The worst axis of each pair."""
    known = {n: r for n, r in (facts.ranges or {}).items() if n.startswith("offset ")}
    if not known:
        yield Outcome("Q304", "", reason=_UNKNOWN)
        return
    found = offsets(
        facts.measures, facts.table, affine=facts.affine, patient_orientation=facts.patient_orientation
    )
    for pair in dict.fromkeys(name.split(" ", 2)[2] for name in known):
        judged = {n: v for n, v in found.items() if n.endswith(f" {pair}") and n in known}
        if not judged:
            yield Outcome("Q304", pair, reason="absent, cut off, or the axes of the image are not known")
            continue
        yield _position(pair, judged, known, facts, options)


def _position(
    pair: str, judged: dict[str, float], known: dict[str, Range], facts: ResultFacts, options: FlagOptions
) -> Outcome:
    worst, far = "", -np.inf
    for name, value in judged.items():
        low, high = _bounds(known[name], facts, options)
        beyond = max(low - value, value - high)
        if beyond > far:
            worst, far = name, beyond
    low, high = _bounds(known[worst], facts, options)
    value, one = judged[worst], pair.split("/")[0]
    limit = low if value < known[worst]["median"] else high
    if far <= 0:
        return Outcome("Q304", pair, measured=value, limit=limit, unit="1")
    flag = Flag(
        code="Q304",
        level="review",
        structure=pair,
        text=(
            f"{one} lies {value:+.2f} of their size towards {worst.split(' ')[1]} from {pair.split('/')[1]}; "
            f"in training {low:+.2f} to {high:+.2f}"
        ),
        measured=value,
        limit=limit,
        advice="check whether the two structures are exchanged, or the image is turned",
        unit="1",
        place=_place(facts, one),
    )
    return Outcome("Q304", pair, flag)
