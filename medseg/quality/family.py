"""Limits for many numbers together: each leaves its range in a few right results, and the few add up.

A right result is flagged where any number lies outside. What must be rare is that, so the room beyond the ends of all
ranges is chosen for the number of a result that needs most of it, over results whose ranges were made without them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from medseg.quality.gate import folds_of
from medseg.quality.ranges import FAR, Range, excess, fit_ranges, judge_ranges
from medseg.quality.tail import tail_limit
from medseg.quality.verdict import implausible

FLAGGED_SHARE = 0.025
"""Share of right results that the numbers of a cohort may flag, all together."""

RESULT_SHARE = 0.01
"""Share of right results that the gate may call unlike those of training images."""

LEAST_MARGIN = 0.1
"""The ends of a cohort are not known exactly, however few of its numbers lie beyond those of the others."""

Record = Mapping[str, float]


def left_out_scores(
    records: Sequence[Record],
    groups: Sequence[str] | None,
    score: Callable[[Record, Mapping[str, Range]], float],
) -> list[float]:
    """Score of each record against ranges that its fold, a fifth of the groups, took no part in."""
    fold = folds_of(len(records), groups)
    found = []
    for index in np.unique(fold):
        ranges = fit_ranges([r for r, f in zip(records, fold, strict=True) if f != index])
        found += [score(r, ranges) for r, f in zip(records, fold, strict=True) if f == index]
    return found


def needed_margin(record: Record, ranges: Mapping[str, Range]) -> float:
    """How far beyond the ends of a cohort its farthest number lies, as a share of the way from there to the median.

    Looks at what the flags Q301, Q302 and Q304 look at: sizes, left-right ratios, positions.
    """
    known = {name.partition(" ")[2] for name in record if name.startswith(("volume_ml ", "area_cm2 "))}
    worst = 0.0
    for name, value in record.items():
        what, _, structure = name.partition(" ")
        size = what in ("volume_ml", "area_cm2") or (what == "fraction" and structure not in known)
        if name not in ranges or not (size or what in ("offset", "ratio")):
            continue
        low, median, high = (ranges[name][key] for key in ("low", "median", "high"))
        for beyond, width in ((low - value, median - low), (value - high, high - median)):
            # Where one side has no width no margin helps, and none is asked for.
            if beyond > 0 and width > 0:
                worst = max(worst, beyond / width)
    return worst


def cohort_margin(records: Sequence[Record], groups: Sequence[str] | None = None) -> float:
    """Room beyond the ends of a cohort that lets all but a few left-out results pass all of its flags.

    Parameters
    ----------
    records : sequence of mapping
        From `cohort_record` and `plausibility_record`, at least one.
    groups : sequence of str, optional
        Patient of each record; those of one patient are left out together.

    Returns
    -------
    float
        For `flags.cohort_margin`; at least 0.1.
    """
    needed = left_out_scores(records, groups, needed_margin)
    return max(LEAST_MARGIN, tail_limit(needed, FLAGGED_SHARE))


def needed_room(record: Record, ranges: Mapping[str, Range]) -> float:
    """Least factor, from 1, by which ranges must be wider for a result not to count as implausible."""
    far = [excess(record[name], limits) for name, limits in ranges.items() if name in record]
    # Findings come and go, and change their level, at no factors but these.
    steps = sorted({1.0, *(value / share for value in far for share in (1.0, FAR) if value > share)})
    return next(
        (room for room in steps if not implausible(judge_ranges(record, ranges, room=room))), steps[-1]
    )


def result_room(records: Sequence[Record], groups: Sequence[str] | None = None) -> float:
    """Factor that lets all but a few left-out results count as plausible, for `judge_input`; at least 1.

    Parameters
    ----------
    records : sequence of mapping
        From `plausibility_record`, at least one.
    groups : sequence of str, optional
        Patient of each record.
    """
    return tail_limit(left_out_scores(records, groups, needed_room), RESULT_SHARE)
