"""What is kept of a prediction."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medseg.geometry import GridMap
from medseg.inference.certainty import CertaintyMap
from medseg.transforms.preprocess import Prepared
from medseg.transforms.straighten import Shear


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What is kept of a prediction once its probabilities are gone.

    Parameters
    ----------
    label_map : (*source) integer array
        Class indices on the grid of the volume that was given; not yet postprocessed.
    confidence : mapping of str to mapping of str to float
        See `ConfidenceTally.labels`; labels that were not found are left out.
    entropy : mapping of str to float
        See `ConfidenceTally.image`.
    disagreement : mapping of str to float
        See `ConfidenceTally.disagreement`; empty where there is one network.
    maps : mapping of str to (*source) uint8 array
        Maps that were asked for, in steps of 1 / 255; those of probabilities as ``probability_<label>``.
    features : (F,) float32 array or None
        The network's feature vector of the first pass, for the input gate; None where the
        network has none. Of an ensemble that of its first member.
    passes : int
        2 where the result is that of the second pass.
    notes : tuple of str
        What a reader of the result must know, one sentence each.
    windows : mapping of str to int
        How many were shown to the network, took an answer it gave before, were left out; see `WindowTally`.
    certainty : CertaintyMap or None
        Probability of the winning class by voxel, where the predictor keeps it.
    """

    label_map: NDArray[Any]
    confidence: Mapping[str, Mapping[str, float]]
    entropy: Mapping[str, float]
    features: NDArray[np.float32] | None
    disagreement: Mapping[str, float] = field(default_factory=dict)
    maps: Mapping[str, NDArray[np.uint8]] = field(default_factory=dict)
    passes: int = 1
    notes: tuple[str, ...] = ()
    windows: Mapping[str, int] = field(default_factory=dict)
    certainty: CertaintyMap | None = None

    def bare(self, label_map: NDArray[Any]) -> Answer:
        """The same for another label map, without what a subclass keeps beside it."""
        return Answer(
            label_map=label_map,
            confidence=self.confidence,
            entropy=self.entropy,
            features=self.features,
            disagreement=self.disagreement,
            maps=self.maps,
            passes=self.passes,
            notes=self.notes,
            windows=self.windows,
            certainty=self.certainty,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction(Answer):
    """What a network makes of one image.

    Parameters
    ----------
    prepared : Prepared
        Image as the network saw it, in the pass that counts.
    whole : Prepared
        The same before a part of it was chosen, of the first pass; what features are made of.
    grid : GridMap
        From the source grid to that of `prepared`; for a tilted volume from its straight grid.
    shear : Shear or None
        The straight grid of a tilted volume, and the way back from it; None where it was not tilted.
    watch : object or None
        What watched the pass that counts, where one was asked to.
    """

    prepared: Prepared
    whole: Prepared
    grid: GridMap
    shear: Shear | None = None
    watch: Any = None
