"""The input gate's decision: image checks, feature distance and plausibility of the result in one verdict."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from medseg.quality.finding import Finding, GateCheck, GateLevel, worst_level
from medseg.quality.gate import GateStatistics
from medseg.quality.options import GateOptions
from medseg.quality.ranges import Range, is_geometry, judge_ranges

MANY_OUTSIDE = 4
"""So many numbers of a result outside their ranges make it implausible; one of its form far outside does, too."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GateVerdict:
    """What the gate decides.

    Parameters
    ----------
    level : str
        "pass", "review" (a person should look) or "refuse" (no result may leave).
    findings : tuple of Finding
        Most severe first.
    distance, percentile : float or None
        Feature distance, and the share of left-out training images that lie nearer, in percent.
    checks : tuple of GateCheck
        All that was looked at, in order; those that passed and those that could not be judged, too.
    """

    level: GateLevel
    findings: tuple[Finding, ...]
    distance: float | None = None
    percentile: float | None = None
    checks: tuple[GateCheck, ...] = ()

    @property
    def sentence(self) -> str:
        """The main reason; empty where the image passed."""
        return self.findings[0].text if self.findings else ""

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values, without NaN."""
        finite = self.distance is not None and np.isfinite(self.distance)
        return {
            "level": self.level,
            "sentence": self.sentence,
            "distance": self.distance if finite else None,
            "percentile": self.percentile,
            "findings": [finding.to_json() for finding in self.findings],
            "checks": [check.to_json() for check in self.checks],
        }


def judge_input(
    *,
    image: Sequence[Finding] = (),
    checks: Sequence[GateCheck] = (),
    distance: float | None = None,
    statistics: GateStatistics | None = None,
    record: Mapping[str, float] | None = None,
    ranges: Mapping[str, Range] | None = None,
    room: float = 1.0,
    options: GateOptions | None = None,
) -> GateVerdict:
    """Decide from all that is known; call it with what there is, before or after the network ran.

    An image is refused when an image check fails, when its features are very far from the training
    images, when nothing was found in it although there always is something, or when its features
    are rather far and its result is implausible. An implausible result alone, or an unusual look
    alone, asks for a person: disease does both.

    Parameters
    ----------
    image : sequence of Finding
        From `check_image`.
    checks : sequence of GateCheck
        From `check_profile` and others that tell what passed, too.
    distance : float, optional
        `GateStatistics.distance` of the features that the statistics were fitted on.
    statistics : GateStatistics, optional
        Needed with `distance`.
    record, ranges : mapping, optional
        From `plausibility_record` of the result, and from `fit_ranges`.
    room : float, optional
        Factor by which those ranges are wider, see `family.result_room`.
    options : GateOptions, optional
        Limits in place of the bundle's.

    Returns
    -------
    GateVerdict

    Raises
    ------
    ValueError
        A distance without statistics.
    """
    if distance is not None and statistics is None:
        raise ValueError("a feature distance can be judged only with the statistics it was made with")
    options = options or GateOptions()
    result = judge_ranges(record, ranges or {}, room=room) if record is not None else ()
    unlikely = implausible(result)
    far = []
    if distance is not None and statistics is not None:
        far = _judge_distance(distance, statistics, options, implausible=bool(unlikely))
    made = [*_image_checks(image), *checks]
    if record is not None or distance is not None:
        made.append(_distance_check(distance, statistics, far))
        made.append(_result_check(record, ranges, unlikely))
    found = [*image, *(check.finding for check in checks if check.finding), *far, *unlikely]
    found.sort(key=lambda finding: finding.level != "refuse")
    return GateVerdict(
        level=worst_level(finding.level for finding in found),
        findings=tuple(found),
        distance=distance,
        percentile=None if distance is None or statistics is None else statistics.percentile(distance),
        checks=tuple(made),
    )


def _image_checks(image: Sequence[Finding]) -> list[GateCheck]:
    """What the checks of the bare image found; one that passed where they found nothing."""
    flagged = [GateCheck(name=f.check, finding=f, measured=f.measured, limit=f.limit) for f in image]
    return flagged or [GateCheck(name="image")]


def _distance_check(
    distance: float | None, statistics: GateStatistics | None, far: Sequence[Finding]
) -> GateCheck:
    name = "feature distance"
    if distance is None or statistics is None:
        return GateCheck(name=name, reason="the model has no statistics of its features")
    return GateCheck(
        name=name,
        finding=far[0] if far else None,
        measured=distance if np.isfinite(distance) else None,
        limit=far[0].limit if far else statistics.review,
    )


def _result_check(
    record: Mapping[str, float] | None, ranges: Mapping[str, Range] | None, unlikely: Sequence[Finding]
) -> GateCheck:
    if record is None or not ranges:
        return GateCheck(name="result", reason="no ranges of training results are known")
    return GateCheck(name="result", finding=unlikely[0] if unlikely else None)


def implausible(result: Sequence[Finding]) -> list[Finding]:
    """One finding for all numbers of a result that lie outside; none while they are few and near."""
    if any(finding.check == "found" and finding.measured == 0 for finding in result):
        return list(result)
    shape = [finding for finding in result if is_geometry(finding.check)]
    # A network is unsure of disease, too: all its doubts together count as one number, and never as far.
    count = len(shape) + (len(shape) < len(result))
    if count < MANY_OUTSIDE and all(finding.level == "review" for finding in shape):
        return []
    more = f", and {len(result) - 1} more" if len(result) > 1 else ""
    text = f"the result is unlike those of training images: {result[0].text}{more}"
    return [
        Finding(
            check="result",
            level="review",
            text=text,
            measured=float(count),
            limit=float(MANY_OUTSIDE),
        )
    ]


def _judge_distance(
    distance: float, statistics: GateStatistics, options: GateOptions, *, implausible: bool
) -> list[Finding]:
    review = statistics.review if options.review_distance is None else options.review_distance
    doubt = statistics.doubt if options.doubt_distance is None else options.doubt_distance
    refuse = statistics.refuse if options.refuse_distance is None else options.refuse_distance
    measured = distance if np.isfinite(distance) else None
    how = f"feature distance {distance:.2f}" if measured is not None else "its features are not finite"
    if distance > refuse:
        text = f"the image does not look like those the model was trained on ({how}, limit {refuse:.2f})"
        return [Finding(check="distance", level="refuse", text=text, measured=measured, limit=refuse)]
    if distance > doubt and implausible:
        text = (
            "the image looks unlike those the model was trained on and the result is implausible "
            f"({how}, limit {doubt:.2f})"
        )
        return [Finding(check="distance", level="refuse", text=text, measured=measured, limit=doubt)]
    if distance > review:
        text = f"the image looks unusual for the model ({how}, limit {review:.2f})"
        return [Finding(check="distance", level="review", text=text, measured=measured, limit=review)]
    return []
