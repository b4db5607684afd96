"""What the training images of a model were like: kind, field of view, values, histogram, look, orientation.

Made from `InputFacts` of the training images, carried as plain numbers in the bundle, compared by `profile_checks`.
Limits come from images that were left out of the fit: a fold of the training patients at a time, and the validation
images.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medseg.quality.appearance import turns
from medseg.quality.family import left_out_scores
from medseg.quality.gate import GateStatistics, fit_gate, fit_whitening, folds_of, whitened_distances
from medseg.quality.input_facts import InputFacts
from medseg.quality.mirror import MirrorTest, fit_mirror
from medseg.quality.ranges import Range, excess, fit_ranges
from medseg.quality.tail import tail_limit

LEAST_IMAGES = 20
"""Fewer images tell nothing of what is unusual."""

FLAGGED_SHARE = 0.005
"""Share of new images that one check may flag: five of them, 2.5 % together. A mirror test has a share of its own."""

OUTSIDE = 1.25
"""So many times as far from the median as the end of the training range, at least, before a number is flagged."""

_USUAL = 0.995

REFUSE_FACTOR = 3.0
"""An image is refused this many times as far away as one that is flagged."""

_COMMON_UNIT = 4.0
_SD_FLOOR = 0.02


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnStatistics:
    """How much more like the training images a correct image looks when it is turned.

    Parameters
    ----------
    gains : mapping of str to (float, float)
        Turn -> mean and standard deviation of the gain: distance as it is minus distance turned.
    limit : float
        Standard deviations above which a positive gain means that the image is turned.
    """

    gains: Mapping[str, tuple[float, float]]
    limit: float


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class InputProfile:
    """What the training images were like; parts that are empty or None are not judged.

    Parameters
    ----------
    modalities : mapping of str to float
        DICOM modality -> number of images; a number of 0 stands for one that is declared and was not in a header.
    oriented : float
        Share of images whose files say where the axes lead.
    frontal : float
        Share of images that are not lateral films; 1 in bundles that do not tell.
    ranges : mapping of str to Range
        Of `InputFacts.measures` and, where the unit of the values matters, of `value <low, middle, high> <channel>`.
    histogram : (5,) float64 array or None
        Mean of the inner quantiles of the scaled values.
    histogram_limit : float
        Mean absolute distance of quantiles (Wasserstein-1) that few left-out images reach.
    look : GateStatistics or None
        Of the looks.
    turned : TurnStatistics or None
    negatives : bool
        Whether training showed the network negatives, too; an image then counts as the one of the two that is nearer.
    mirrors : tuple of MirrorTest
        Of the axes along which an image and its mirror image can be told apart.
    room : float
        So many times as far from the median as the end of its range a number of `ranges` may lie.
    """

    modalities: Mapping[str, float] = field(default_factory=dict)
    oriented: float = 0.0
    frontal: float = 1.0
    ranges: Mapping[str, Range] = field(default_factory=dict)
    histogram: NDArray[np.float64] | None = None
    histogram_limit: float = 0.0
    look: GateStatistics | None = None
    turned: TurnStatistics | None = None
    negatives: bool = False
    mirrors: tuple[MirrorTest, ...] = ()
    room: float = OUTSIDE


def fit_profile(
    training: Sequence[InputFacts],
    validation: Sequence[InputFacts] = (),
    *,
    groups: Sequence[str] | None = None,
    modalities: Sequence[str] = (),
    unit_matters: bool = False,
    negatives: bool = False,
) -> InputProfile | None:
    """Learn what training images are like; None where there are fewer than 20.

    Parameters
    ----------
    training, validation : sequence of InputFacts
        Of images with the same number of axes; validation images set limits only.
    groups : sequence of str, optional
        Patient of each training image.
    modalities : sequence of str, optional
        Declared by the settings, beside those of the headers.
    unit_matters : bool, optional
        Whether preprocessing hands values on in their unit (a window in HU) and does not scale each image by itself.
    negatives : bool, optional
        Whether augmentation inverts images.
    """
    if len(training) < LEAST_IMAGES:
        return None
    rows = np.array([facts.look.vector() for facts in training])
    others = np.array([facts.look.vector() for facts in validation]).reshape(len(validation), rows.shape[1])
    counts = Counter(facts.modality for facts in training if facts.modality)
    levels = np.array([facts.look.levels for facts in training])
    centre, limit = _histogram(levels, [facts.look.levels for facts in validation])
    unit_matters = unit_matters and _common_unit(training)
    measures = [measures_of(facts, unit_matters=unit_matters) for facts in training]
    return InputProfile(
        modalities={name: 0.0 for name in modalities if name} | {m: float(n) for m, n in counts.items()},
        oriented=float(np.mean([facts.oriented for facts in training])),
        frontal=float(np.mean([facts.frontal for facts in training])),
        ranges=fit_ranges(measures),
        histogram=centre,
        histogram_limit=limit,
        look=fit_gate(
            rows,
            others,
            groups=groups,
            flag_share=FLAGGED_SHARE,
            usual_quantile=_USUAL,
            doubt_factor=1.0,
            refuse_factor=REFUSE_FACTOR,
        ),
        turned=_fit_turns(training, validation, groups),
        negatives=negatives,
        mirrors=_fit_mirrors(training, validation, groups),
        room=max(OUTSIDE, tail_limit(left_out_scores(measures, groups, _farthest), FLAGGED_SHARE)),
    )


def _farthest(measures: Mapping[str, float], ranges: Mapping[str, Range]) -> float:
    """Excess of the number that lies farthest outside; lengths have a limit of their own."""
    judged = [name for name in measures if name in ranges and not name.startswith("side ")]
    return max((excess(measures[name], ranges[name]) for name in judged), default=0.0)


def _fit_mirrors(
    training: Sequence[InputFacts], validation: Sequence[InputFacts], groups: Sequence[str] | None
) -> tuple[MirrorTest, ...]:
    looks, others = [facts.look for facts in training], [facts.look for facts in validation]
    axes = range(training[0].spatial_dims)
    found = [fit_mirror(looks, others, axis, groups=groups) for axis in axes]
    return tuple(test for test in found if test is not None)


def measures_of(facts: InputFacts, *, unit_matters: bool) -> dict[str, float]:
    """Numbers of the grid and, where their unit matters, of the values."""
    found = facts.measures()
    if unit_matters:
        for channel, values in enumerate(facts.values):
            for name, value in zip(("low", "middle", "high"), values[[0, 3, -1]], strict=True):
                found[f"value {name} {channel}"] = float(value)
    return found


def _common_unit(training: Sequence[InputFacts]) -> bool:
    """Whether the values of the images span about as much, so that they can be of one unit."""
    widths = np.array([facts.values[:, -1] - facts.values[:, 0] for facts in training])
    low, high = np.quantile(widths, [0.05, 0.95], axis=0)
    return bool((high <= _COMMON_UNIT * np.maximum(low, np.finfo(float).tiny)).all())


def _histogram(
    levels: NDArray[np.float64], others: Sequence[NDArray[np.float64]]
) -> tuple[NDArray[np.float64], float]:
    """Mean quantiles, which are the Wasserstein barycentre of the histograms, and how far images lie from it."""
    centre = levels.mean(axis=0)
    rows = np.concatenate([levels, np.array(others).reshape(-1, levels.shape[1])])
    return centre, tail_limit(np.abs(rows - centre).mean(axis=1).tolist(), FLAGGED_SHARE)


def _fit_turns(
    training: Sequence[InputFacts], validation: Sequence[InputFacts], groups: Sequence[str] | None
) -> TurnStatistics:
    names = turns(training[0].spatial_dims)
    rows = np.stack([turn_vectors(facts) for facts in training])
    fold = folds_of(len(rows), groups)
    held_out = [
        _gains(rows[fold == index], *fit_whitening(rows[fold != index, 0])) for index in np.unique(fold)
    ]
    if validation:
        held_out.append(_gains(np.stack([turn_vectors(f) for f in validation]), *fit_whitening(rows[:, 0])))
    gains = np.concatenate(held_out)
    mean, spread = gains.mean(axis=0), np.maximum(gains.std(axis=0), _SD_FLOOR)
    scores = np.where(gains > 0, (gains - mean) / spread, 0.0).max(axis=1)
    return TurnStatistics(
        gains={name: (float(m), float(s)) for name, m, s in zip(names, mean, spread, strict=True)},
        limit=max(2.0, tail_limit(scores.tolist(), FLAGGED_SHARE)),
    )


def turn_vectors(facts: InputFacts) -> NDArray[np.float64]:
    """(1 + turns, A) features of the image as it is, then turned in every way."""
    look = facts.look
    return np.stack([look.vector(), *(look.turned(t).vector() for t in turns(facts.spatial_dims).values())])


def _gains(rows: NDArray[np.float64], *fit: NDArray[np.float64]) -> NDArray[np.float64]:
    """(N, turns) how much nearer turned images lie than they do as they are."""
    count, kinds, size = rows.shape
    distances = whitened_distances(rows.reshape(-1, size), *fit).reshape(count, kinds)
    return np.asarray(distances[:, :1] - distances[:, 1:], dtype=np.float64)


def profile_from_json(limits: Mapping[str, Any], prefix: str = "") -> InputProfile | None:
    """The profile that `profile_to_json` wrote among the numbers of a gate; None where there is none."""
    own = {
        k.removeprefix(prefix): v
        for k, v in limits.items()
        if k.startswith(prefix) and isinstance(v, Mapping)
    }
    if "kind" not in own:
        return None
    turn = {k.removeprefix("turn "): (v["mean"], v["sd"]) for k, v in own.items() if k.startswith("turn ")}
    return InputProfile(
        modalities=dict(own.get("modality", {})),
        oriented=own["kind"]["oriented"],
        frontal=own["kind"].get("frontal", 1.0),
        ranges={k.removeprefix("range "): dict(v) for k, v in own.items() if k.startswith("range ")},
        histogram=_column(own["histogram"]) if "histogram" in own else None,
        histogram_limit=own["kind"]["histogram_limit"],
        look=_look_from(own),
        turned=TurnStatistics(gains=turn, limit=own["kind"]["turn_limit"]) if turn else None,
        negatives=bool(own["kind"].get("negatives", 0.0)),
        room=own["kind"].get("room", OUTSIDE),
        mirrors=tuple(
            MirrorTest(axis=int(k[-1]), weights=_column(v), limit=own["mirror limits"][k[-1]])
            for k, v in own.items()
            if k.startswith("mirror axis ")
        ),
    )


def profile_to_json(profile: InputProfile, prefix: str = "") -> dict[str, dict[str, float]]:
    """The profile as named groups of plain numbers, to six digits."""
    look, turned = profile.look, profile.turned
    own: dict[str, Mapping[str, float]] = {
        "kind": {
            "oriented": profile.oriented,
            "frontal": profile.frontal,
            "histogram_limit": profile.histogram_limit,
            "negatives": float(profile.negatives),
            "turn_limit": 0.0 if turned is None else turned.limit,
            "room": profile.room,
        }
    }
    if profile.modalities:
        own["modality"] = profile.modalities
    own |= {f"range {name}": limits for name, limits in profile.ranges.items()}
    if profile.histogram is not None:
        own["histogram"] = _numbered(profile.histogram)
    if look is not None:
        own |= _look_to(look)
    if turned is not None:
        own |= {f"turn {n}": {"mean": mean, "sd": sd} for n, (mean, sd) in turned.gains.items()}
    if profile.mirrors:
        own["mirror limits"] = {str(test.axis): test.limit for test in profile.mirrors}
        own |= {f"mirror axis {test.axis}": _numbered(test.weights) for test in profile.mirrors}
    return {prefix + n: {k: float(f"{v:.6g}") for k, v in group.items()} for n, group in own.items()}


def _look_to(look: GateStatistics) -> dict[str, Mapping[str, float]]:
    white = look.whitening.astype(np.float64)
    # Any root of the precision gives the same distances; the triangular one has half as many numbers.
    root = np.linalg.cholesky(white.T @ white)
    counts = {"training": look.training, "validation": look.validation}
    found: dict[str, Mapping[str, float]] = {
        "look": {"review": look.review, "doubt": look.doubt, "refuse": look.refuse, **counts},
        "look quantiles": {f"{q:g}": d for q, d in look.quantiles.items()},
        "look mean": _numbered(look.mean),
        "look scale": _numbered(look.scale),
    }
    return found | {f"look row {i}": _numbered(row[: i + 1]) for i, row in enumerate(root)}


def _look_from(own: Mapping[str, Mapping[str, float]]) -> GateStatistics | None:
    if "look" not in own:
        return None
    size = len(own["look mean"])
    root = np.zeros((size, size))
    for i in range(size):
        root[i, : i + 1] = _column(own[f"look row {i}"])
    arrays = {"mean": _column(own["look mean"]), "scale": _column(own["look scale"]), "whitening": root.T}
    return GateStatistics.from_parts(arrays, {**own["look"], "quantiles": own["look quantiles"]})


def _numbered(values: NDArray[Any]) -> dict[str, float]:
    return {str(index): float(value) for index, value in enumerate(values)}


def _column(values: Mapping[str, float]) -> NDArray[np.float64]:
    return np.array([values[str(index)] for index in range(len(values))], dtype=np.float64)
