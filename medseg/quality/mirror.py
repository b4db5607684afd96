"""Is an image mirrored? A linear discriminant between training images and their mirror images, for each axis.

The picture of an image minus that of its mirror image changes sign when the image is mirrored, so that one weight
vector and one limit tell the two apart: the heart lies on the left, the feet below. An axis along which training images
look alike either way (a left and a right hippocampus) cannot be told and is not judged.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from medseg.quality.appearance import Look, block_means
from medseg.quality.gate import folds_of, shrunk_covariance
from medseg.quality.tail import tail_limit

FLAGGED_SHARE = 0.01
"""Share of new images that one axis may flag; the mirror image of a film is hard to tell."""

_BLOCKS = {2: 8, 3: 6}
_SHIFT = 5
_LEAST_RIGHT = 0.9
"""An axis is judged where this share of left-out images lies on the right side of the discriminant."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class MirrorTest:
    """How images and their mirror images along one axis are told apart.

    Parameters
    ----------
    axis : int
        Canonical axis.
    weights : (M,) float64 array
        Of `mirror_vector`; scores of right images have a standard deviation of about 1 and are above 0.
    limit : float
        Score, at most 0, below which an image counts as mirrored.
    """

    axis: int
    weights: NDArray[np.float64]
    limit: float

    def score(self, look: Look) -> float:
        """Above 0 for an image that lies as those of the training do; its mirror image has the opposite sign."""
        return float(mirror_vector(look, self.axis) @ self.weights)


def mirror_vector(look: Look, axis: int) -> NDArray[np.float64]:
    """(M,) one half of a small picture minus the mirrored other half; changes sign when the image is mirrored.

    The picture is first cut to lie evenly about the place that it is most symmetric about, which is at most a fifth of
    its length from the middle: a patient who stands beside the middle must not look one-sided.
    """
    blocks = _BLOCKS[look.small.ndim]
    small = np.moveaxis(look.small, axis, 0)
    small = block_means(small[_symmetric_part(small)], blocks)
    return np.asarray((small - small[::-1])[: blocks // 2].ravel(), dtype=np.float64)


def _symmetric_part(small: NDArray[np.float64]) -> slice:
    """Rows of the first axis about whose middle the picture is most symmetric."""
    count = len(small)
    smooth = ndimage.gaussian_filter(small, 1.5)
    parts = [slice(max(0, k), min(count, count + k)) for k in range(-(count // _SHIFT), count // _SHIFT + 1)]

    def asymmetry(part: slice) -> float:
        rows = smooth[part]
        return float(np.abs(rows - rows[::-1]).mean() / max(float(rows.std()), 1e-6))

    # A picture and its mirror image must be cut alike, so the middle goes first where two are as good.
    return min(sorted(parts, key=lambda part: abs(part.start + part.stop - count)), key=asymmetry)


def fit_mirror(
    training: Sequence[Look],
    validation: Sequence[Look],
    axis: int,
    *,
    groups: Sequence[str] | None = None,
) -> MirrorTest | None:
    """Learn to tell images from their mirror images along an axis; None where they cannot be told.

    Parameters
    ----------
    training, validation : sequence of Look
        Validation images set the limit only.
    axis : int
    groups : sequence of str, optional
        Patient of each training image.

    References
    ----------
    Fisher, The use of multiple measurements in taxonomic problems, Annals of Eugenics 1936,
    doi:10.1111/j.1469-1809.1936.tb02137.x.
    """
    rows, others = (
        np.array([mirror_vector(look, axis) for look in looks]) for looks in (training, validation)
    )
    found = fit_discriminant(rows, others.reshape(-1, rows.shape[1]), groups, share=FLAGGED_SHARE)
    return None if found is None else MirrorTest(axis=axis, weights=found[0], limit=found[1])


def fit_discriminant(
    rows: NDArray[np.float64], others: NDArray[np.float64], groups: Sequence[str] | None, *, share: float
) -> tuple[NDArray[np.float64], float] | None:
    """Weights and limit that tell vectors from their negatives; None where they cannot be told.

    Parameters
    ----------
    rows, others : (N, M) and (K, M) float64 array
        Of training images, and of images that set the limit only.
    groups : sequence of str, optional
        Patient of each row.
    share : float
        Of new images that may score below the limit, which is at most 0.
    """
    fold = folds_of(len(rows), groups)
    scores = [rows[fold == index] @ _discriminant(rows[fold != index]) for index in np.unique(fold)]
    weights = _discriminant(rows)
    found = np.concatenate([*scores, others @ weights])
    if np.mean(found > 0) < _LEAST_RIGHT:
        return None
    return weights, min(0.0, -tail_limit((-found).tolist(), share))


def _discriminant(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    """Weights whose scores have the largest mean for their spread, scaled to a spread of 1."""
    mean = rows.mean(axis=0)
    covariance = shrunk_covariance(rows - mean)
    covariance += 1e-6 * max(float(np.trace(covariance)) / len(mean), 1e-12) * np.eye(len(mean))
    weights = np.linalg.solve(covariance, mean)
    return np.asarray(weights / np.sqrt(max(float(weights @ covariance @ weights), 1e-12)), dtype=np.float64)
