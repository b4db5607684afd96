"""How unlike its training data an image looks to a model: a distance between feature vectors.

Features are numbers that describe an image; the pipeline takes the network's averaged feature maps.
`profile` uses the same distance for what an image looks like at a glance. The distance
is Mahalanobis' with a covariance shrunk towards a multiple of the identity, so that it is well behaved
with fewer images than features. The limits come from images that were left out of the fit, since
images of the fit always look nearer than new ones.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medseg.errors import BundleError
from medseg.quality.tail import tail_limit

_FOLDS = 5
_QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.9, 0.95, 0.975, 0.99, 1.0)
# Well above the smallest float32, in which scales are stored.
_LEAST_SCALE = 1e-12
_ARRAYS = ("mean", "scale", "whitening")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class GateStatistics:
    """What the training images look like to a model.

    Parameters
    ----------
    mean, scale : (F,) float32 array
        Of the training features, one by one.
    whitening : (F, F) float32 array
        Maps a standardised feature vector to one whose squared length over F is the squared distance.
    review, doubt, refuse : float
        Distances above which an image is flagged; is refused if its result is implausible, too;
        is refused whatever its result.
    quantiles : mapping of float to float
        Quantile (0..1) of the distances of images that were left out of the fit -> distance.
    training, validation : int
        Numbers of images.
    """

    mean: NDArray[np.float32]
    scale: NDArray[np.float32]
    whitening: NDArray[np.float32]
    review: float
    doubt: float
    refuse: float
    quantiles: Mapping[float, float]
    training: int
    validation: int

    @property
    def feature_count(self) -> int:
        """F."""
        return len(self.mean)

    def distances(self, features: NDArray[Any]) -> NDArray[np.float64]:
        """Distance of each row of an (N, F) array, of the order of 1 for images like the training images.

        Raises
        ------
        BundleError
            Another number of features than the statistics have.
        """
        rows = np.atleast_2d(np.asarray(features, dtype=np.float64))
        if rows.shape[1] != self.feature_count:
            raise BundleError(
                f"the input gate expects {self.feature_count} features, found {rows.shape[1]}; "
                "the statistics belong to another network"
            )
        return whitened_distances(rows, self.mean, self.scale, self.whitening)

    def distance(self, features: NDArray[Any]) -> float:
        """Distance of one (F,) feature vector; infinite where a feature is not finite."""
        if not np.isfinite(features).all():
            return float("inf")
        return float(self.distances(features)[0])

    def percentile(self, distance: float) -> float:
        """Share of left-out images that lie nearer, in percent, interpolated; 0..100."""
        levels = sorted(self.quantiles)
        return float(100 * np.interp(distance, [self.quantiles[q] for q in levels], levels))

    def arrays(self) -> dict[str, NDArray[np.float32]]:
        """The arrays, for a tensor file."""
        return {name: getattr(self, name) for name in _ARRAYS}

    def to_json(self) -> dict[str, Any]:
        """The rest, as plain JSON values."""
        return {
            "review": self.review,
            "doubt": self.doubt,
            "refuse": self.refuse,
            "quantiles": {f"{q:g}": d for q, d in self.quantiles.items()},
            "training": self.training,
            "validation": self.validation,
        }

    @classmethod
    def from_parts(cls, arrays: Mapping[str, NDArray[Any]], value: Mapping[str, Any]) -> GateStatistics:
        """The statistics that `arrays` and `to_json` wrote.

        Raises
        ------
        BundleError
            An array is missing, not finite, or has the wrong shape.
        """
        missing = [name for name in _ARRAYS if name not in arrays]
        if missing:
            raise BundleError(f"the input gate of the bundle lacks {', '.join(missing)}")
        parts = {name: np.asarray(arrays[name], dtype=np.float32) for name in _ARRAYS}
        size = parts["mean"].size
        shapes = {"mean": (size,), "scale": (size,), "whitening": (size, size)}
        for name, part in parts.items():
            if part.shape != shapes[name] or not np.isfinite(part).all():
                raise BundleError(
                    f"the input gate's {name} must be finite with shape {shapes[name]}, found {part.shape}"
                )
        return cls(
            **parts,
            review=float(value["review"]),
            doubt=float(value["doubt"]),
            refuse=float(value["refuse"]),
            quantiles={float(q): float(d) for q, d in value["quantiles"].items()},
            training=int(value["training"]),
            validation=int(value["validation"]),
        )


def fit_gate(
    training: NDArray[Any],
    validation: NDArray[Any] | None = None,
    *,
    groups: Sequence[str] | None = None,
    review_quantile: float = 0.99,
    flag_share: float | None = None,
    usual_quantile: float = 0.95,
    doubt_factor: float = 1.7,
    refuse_factor: float = 2.25,
) -> GateStatistics:
    """Learn what the training images look like.

    Parameters
    ----------
    training : (N, F) array
        Features of the training images, N >= 10. Add one augmented copy of each: a new hospital
        frames and exposes its images in another way, and must not be refused for that.
    validation : (M, F) array, optional
        Features of images that the network was not trained on.
    groups : sequence of str, optional
        Patient of each training image; images of one patient are left out together.
    review_quantile : float
        Share of left-out images that pass without a flag; other checks flag some more.
    flag_share : float, optional
        Instead of it: the share of new images that may be flagged, see `tail_limit`.
    usual_quantile : float
        Share of left-out images whose distance counts as usual.
    doubt_factor, refuse_factor : float
        The other two limits, in units of the largest usual distance; never below the first, and never below each
        other.

    Returns
    -------
    GateStatistics

    Raises
    ------
    ValueError
        Too few rows, values that are not finite, or arrays that do not fit each other.

    References
    ----------
    Lee et al., A simple unified framework for detecting out-of-distribution samples, NeurIPS 2018,
    arXiv 1807.03888. Ledoit and Wolf, A well-conditioned estimator for large-dimensional covariance
    matrices, J Multivariate Analysis 2004, doi:10.1016/S0047-259X(03)00096-4.
    """
    rows = np.asarray(training, dtype=np.float64)
    others = np.empty((0, rows.shape[-1])) if validation is None else np.asarray(validation, dtype=np.float64)
    _check_features(rows, others, groups)
    mean, scale, whitening = fit_whitening(rows)
    held_out = np.concatenate([_left_out(rows, groups), whitened_distances(others, mean, scale, whitening)])
    review = float(np.quantile(held_out, review_quantile))
    if flag_share is not None:
        review = tail_limit(held_out.tolist(), flag_share)
    usual = float(np.quantile(held_out, usual_quantile))
    doubt = max(doubt_factor * usual, review)
    return GateStatistics(
        mean=mean.astype(np.float32),
        scale=scale.astype(np.float32),
        whitening=whitening.astype(np.float32),
        review=review,
        doubt=doubt,
        refuse=max(refuse_factor * usual, doubt),
        quantiles={q: float(np.quantile(held_out, q)) for q in _QUANTILES},
        training=len(rows),
        validation=len(others),
    )


def _check_features(
    rows: NDArray[np.float64], others: NDArray[np.float64], groups: Sequence[str] | None
) -> None:
    if rows.ndim != 2 or len(rows) < 2 * _FOLDS or rows.shape[1] == 0:
        raise ValueError(f"a gate needs (N, F) features of at least {2 * _FOLDS} images, found {rows.shape}")
    if others.ndim != 2 or others.shape[1] != rows.shape[1]:
        raise ValueError(f"validation features must be (M, {rows.shape[1]}), found {others.shape}")
    if not np.isfinite(rows).all() or not np.isfinite(others).all():
        raise ValueError("features hold values that are not finite")
    if groups is not None and len(groups) != len(rows):
        raise ValueError(f"{len(rows)} images need {len(rows)} groups, found {len(groups)}")


def fit_whitening(
    rows: NDArray[np.float64],
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Mean, scale and whitening of (N, F) features."""
    mean, scale = rows.mean(axis=0), rows.std(axis=0)
    # A feature that never varies in training must not make every new image infinitely far.
    floor = max(0.05 * float(np.median(scale)), _LEAST_SCALE)
    scale = np.maximum(scale, floor)
    covariance = shrunk_covariance((rows - mean) / scale)
    values, vectors = np.linalg.eigh(covariance)
    values = np.maximum(values, 1e-6 * max(float(values[-1]), 1e-6))
    return mean, scale, (vectors / np.sqrt(values)).T


def shrunk_covariance(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    """Ledoit-Wolf covariance of centred (N, F) rows: sample covariance blended with a scaled identity."""
    count, size = rows.shape
    sample = rows.T @ rows / count
    mu = np.trace(sample) / size
    spread = float(((sample - mu * np.eye(size)) ** 2).sum())
    if spread == 0:
        return np.asarray(sample, dtype=np.float64)
    noise = float(((rows**2).sum(axis=1) ** 2).sum() / count**2 - (sample**2).sum() / count)
    weight = min(max(noise / spread, 0.0), 1.0)
    return np.asarray((1 - weight) * sample + weight * mu * np.eye(size), dtype=np.float64)


def whitened_distances(
    rows: NDArray[np.float64], mean: NDArray[Any], scale: NDArray[Any], whitening: NDArray[Any]
) -> NDArray[np.float64]:
    standard = (rows - mean) / scale
    white = standard @ np.asarray(whitening, dtype=np.float64).T
    return np.asarray(np.sqrt((white**2).sum(axis=1) / rows.shape[1]), dtype=np.float64)


def _left_out(rows: NDArray[np.float64], groups: Sequence[str] | None) -> NDArray[np.float64]:
    """Distance of each row from a fit without its fold."""
    fold = folds_of(len(rows), groups)
    found = np.empty(len(rows))
    for index in range(_FOLDS):
        out = fold == index
        if out.any():
            found[out] = whitened_distances(rows[out], *fit_whitening(rows[~out]))
    return found


def folds_of(count: int, groups: Sequence[str] | None) -> NDArray[np.intp]:
    """(count,) fold of each row, 0 to 4: by group, in order of their first rows."""
    names: list[str | int] = list(range(count)) if groups is None else list(groups)
    place = {name: index for index, name in enumerate(dict.fromkeys(names))}
    return np.array([place[name] % _FOLDS for name in names], dtype=np.intp)
