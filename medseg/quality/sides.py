"""Is the patient's left on the left? Image and mask on either side of the middle between paired organs.

A whole film is hard to tell from its mirror image, for films are framed in many ways. The organs that were found tell
where its middle is and how far the body reaches, so that the heart, the larger lung and the higher half of the
diaphragm come to lie at the same places in all images. What lies on one side minus what lies on the other changes sign
when the image is mirrored, as in `mirror`, whose discriminant this uses.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medseg.evaluation.measure import lateral_pairs
from medseg.labels import LabelTable
from medseg.quality.canonical import axis_order, canonical, directions_of
from medseg.quality.finding import Finding, GateCheck
from medseg.quality.mirror import fit_discriminant
from medseg.volume import Volume

FLAGGED_SHARE = 0.01
"""Share of new images that the check may flag."""

_BLOCKS = {2: 8, 3: 3}
_SAMPLES = {2: 8, 3: 6}
"""Voxels looked at along each axis of a block."""
_ROOM = 1.05
_NAME = "sides"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SideTest:
    """How images are told from those that show the patient's left on the right.

    Parameters
    ----------
    weights : (M,) float64 array
        Of `side_vector`; scores of right images have a standard deviation of about 1 and are above 0.
    limit : float
        Score, at most 0, below which an image counts as mirrored.
    """

    weights: NDArray[np.float64]
    limit: float


def side_vector(
    volume: Volume, label_map: NDArray[Any], table: LabelTable, *, negatives: bool = False
) -> NDArray[np.float64] | None:
    """(M,) one side minus the other: a small picture, then a small mask, in a box about the paired organs.

    Parameters
    ----------
    volume : Volume
    label_map : (*sp) integer array
        What was found in it, class indices.
    table : LabelTable
    negatives : bool, optional
        Whether the model takes negatives, too: the organs then count as darker than what is around them.

    Returns
    -------
    array or None
        None where no organ has two sides, one of them was not found, or no axis leads from side to side.
    """
    dims = label_map.ndim
    order = axis_order(
        directions_of(
            spatial_dims=dims, patient_orientation=volume.patient_orientation, affine=volume.affine
        ),
        dims,
    )
    pairs = lateral_pairs(table)
    if order is None or not pairs:
        return None
    labels = canonical(label_map, order)
    one, two = (_profiles(labels, [table.class_index(pair[side]) for pair in pairs]) for side in (0, 1))
    if one is None or two is None:
        return None
    places = _places([a + b for a, b in zip(one, two, strict=True)], (_middle(one[0]) + _middle(two[0])) / 2)
    wanted = [table.class_index(name) for pair in pairs for name in pair]
    mask = np.isin(labels[np.ix_(*places)], wanted)
    array = canonical(volume.array, order)
    image = _grey(np.stack([channel[np.ix_(*places)] for channel in array]))
    if negatives and image[mask].mean() > image[~mask].mean():
        image = 1.0 - image
    size = [_SAMPLES[dims]] * dims
    return np.concatenate([_difference(array, size) for array in (image, mask.astype(np.float64))])


def _profiles(labels: NDArray[Any], classes: Sequence[int]) -> list[NDArray[np.intp]] | None:
    """Along each axis, how many voxels of the classes lie at each place; None where there are none."""
    mask = np.isin(labels, classes)
    if not mask.any():
        return None
    axes = range(mask.ndim)
    return [np.count_nonzero(mask, axis=tuple(a for a in axes if a != axis)) for axis in axes]


def _middle(profile: NDArray[np.intp]) -> float:
    return float(np.average(np.arange(len(profile)), weights=profile))


def _places(profiles: Sequence[NDArray[np.intp]], middle: float) -> list[NDArray[np.intp]]:
    """Indices along each axis of a box about the organs, as far to one side of the middle as to the other."""
    dims = len(profiles)
    found = []
    for axis, profile in enumerate(profiles):
        filled = np.flatnonzero(profile)
        first, last = float(filled[0]), float(filled[-1])
        if axis == 0:
            half = _ROOM * max(middle - first, last - middle)
            first, last = middle - half, middle + half
        else:
            last = first + (last - first) * _ROOM**2
        count = _BLOCKS[dims] * _SAMPLES[dims] * (2 if axis == 0 else 1)
        steps = first + (last - first) * (np.arange(count) + 0.5) / count
        found.append(np.clip(np.rint(steps), 0, len(profile) - 1).astype(np.intp))
    return found


def _grey(part: NDArray[Any]) -> NDArray[np.float64]:
    """Mean of the channels, each from 0 at its 0.5th to 1 at its 99.5th percentile."""
    values = np.nan_to_num(part.astype(np.float64), posinf=0.0, neginf=0.0)
    axes = tuple(range(1, values.ndim))
    low, high = np.quantile(values, [0.005, 0.995], axis=axes, keepdims=True)
    width = np.maximum(high - low, 1e-6 * np.maximum(np.abs(high), 1.0))
    return np.asarray(np.clip((values - low) / width, -0.2, 1.2).mean(axis=0), dtype=np.float64)


def _difference(array: NDArray[np.float64], size: Sequence[int]) -> NDArray[np.float64]:
    shape = [n // s for n, s in zip(array.shape, size, strict=True)]
    means = array.reshape([part for n, s in zip(shape, size, strict=True) for part in (n, s)])
    means = means.mean(axis=tuple(range(1, 2 * array.ndim, 2)))
    return np.asarray((means - means[::-1])[: shape[0] // 2].ravel(), dtype=np.float64)


def fit_sides(
    training: Sequence[NDArray[np.float64] | None],
    validation: Sequence[NDArray[np.float64] | None] = (),
    *,
    groups: Sequence[str] | None = None,
) -> SideTest | None:
    """Learn to tell images from mirrored ones; None where they cannot be told, or too few have two sides.

    Parameters
    ----------
    training, validation : sequence of `side_vector`
        Validation images set the limit only.
    groups : sequence of str, optional
        Patient of each training image.
    """
    names = list(groups) if groups is not None else [str(i) for i in range(len(training))]
    known = [(row, name) for row, name in zip(training, names, strict=True) if row is not None]
    others = [row for row in validation if row is not None]
    # Fewer images than numbers cannot weigh the numbers against each other.
    if not known or len(known) < len(known[0][0]):
        return None
    rows, patients = np.array([row for row, _ in known]), [name for _, name in known]
    found = fit_discriminant(rows, np.array(others).reshape(-1, rows.shape[1]), patients, share=FLAGGED_SHARE)
    return None if found is None else SideTest(weights=found[0], limit=found[1])


def check_sides_seen(vector: NDArray[np.float64] | None, test: SideTest | None) -> GateCheck:
    """Compare what lies on either side with the training images; a row of the input gate."""
    if test is None:
        return GateCheck(name=_NAME, reason="the model has not learned to tell left from right")
    if vector is None:
        return GateCheck(
            name=_NAME, reason="no organ was found on both sides, or no axis leads from side to side"
        )
    score = float(vector @ test.weights)
    if score >= test.limit:
        return GateCheck(name=_NAME, measured=score, limit=test.limit)
    text = "the image looks mirrored: the patient's left seems to lie on the right"
    finding = Finding(check=_NAME, level="review", text=text, measured=score, limit=test.limit)
    return GateCheck(name=_NAME, finding=finding, measured=score, limit=test.limit)


def side_test_to_json(test: SideTest) -> dict[str, dict[str, float]]:
    """The test as named groups of plain numbers, to six digits."""
    weights = {str(index): float(f"{w:.6g}") for index, w in enumerate(test.weights)}
    return {"sides": {"limit": float(f"{test.limit:.6g}")}, "sides weights": weights}


def side_test_from_json(limits: dict[str, Any]) -> SideTest | None:
    """The test that `side_test_to_json` wrote among the numbers of a gate; None where there is none."""
    if "sides" not in limits:
        return None
    weights = limits["sides weights"]
    array = np.array([weights[str(index)] for index in range(len(weights))], dtype=np.float64)
    return SideTest(weights=array, limit=float(limits["sides"]["limit"]))
