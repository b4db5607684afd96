"""What the stages after a training will show the network, and how long that takes: part of the plan's facts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from medseg.config.schema import RunConfig
from medseg.data.manifest import Case
from medseg.errors import MedsegError
from medseg.pipeline.looks import MOST_CASES, hands_over
from medseg.pipeline.predict import which
from medseg.pipeline.prepared_grids import prepared_grid, unseen_case
from medseg.planning.cost import ProbeResult
from medseg.planning.fingerprint import CaseFingerprint
from medseg.planning.grids import Grid

if TYPE_CHECKING:
    from medseg.pipeline.context import Context

FACT = "after_training"


def foresee_stages(
    context: Context,
    config: RunConfig,
    *,
    like: CaseFingerprint,
    probe: ProbeResult | None,
    shown: Callable[[Sequence[Grid]], float],
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Images that are predicted after the training, those that are predicted once more, and the time of the network.

    An evaluated image is predicted once for its result, and its probabilities are held against references on the way.
    Below a ceiling of memory they are not: then up to a number of images are predicted once more.

    Parameters
    ----------
    context : Context
    config : RunConfig
        With everything decided.
    like : CaseFingerprint
        Whose orientation stands for that of images which were only checked.
    probe : ProbeResult or None
        Tells the time of a shown voxel; None: no time is told.
    shown : callable
        Voxels that the network is shown of some prepared images.

    Returns
    -------
    dict
        `predicted`, `calibrating`, `again` (numbers of images) and `seconds` or None.
    tuple of str
        One note; none where nothing was measured.
    """
    most = MOST_CASES[len(like.shape)]
    parts = {"predicted": context.chosen(which(context)), **_looked_at(context, config, most)}
    counts: dict[str, Any] = {name: len(cases) for name, cases in parts.items()}
    if probe is None or not probe.validation_voxels:
        return counts | {"seconds": None}, ()
    voxels = sum(shown(_grids(context, config, cases, like)) for cases in parts.values())
    seconds = voxels * probe.validation_s / probe.validation_voxels
    more = "" if not counts["again"] else f", {counts['again']} of them once more to calibrate"
    first = (
        "" if not counts["calibrating"] else f"{counts['calibrating']} validation images to calibrate, then "
    )
    note = (
        f"after the training the network predicts {first}{counts['predicted']} images{more}: about "
        f"{seconds / 60:.1f} min, without test-time augmentation, reading and writing"
    )
    return counts | {"seconds": round(seconds, 1)}, (note,)


def _looked_at(context: Context, config: RunConfig, most: int) -> dict[str, Sequence[Case]]:
    """Cases that are predicted for their probabilities alone: before the results, and once more for the evaluation."""
    if not config.evaluation.calibration:
        return {"calibrating": (), "again": ()}
    first = () if context.every_fold else context.labelled(context.in_split("validation"))
    again = () if hands_over(config) else context.labelled(context.chosen(config.evaluation.cases))
    return {"calibrating": first[:most], "again": again[:most]}


def _grids(context: Context, config: RunConfig, cases: Sequence[Case], like: CaseFingerprint) -> list[Grid]:
    found = []
    for case in cases:
        fact = context.facts.get(case.case_id)
        if not fact or not fact.get("shape"):
            continue
        try:
            found.append(prepared_grid(unseen_case(case.case_id, fact, like=like), config.preprocess))
        except MedsegError:
            # A step that this case cannot take: it fails by itself, with its own reason.
            continue
    return found
