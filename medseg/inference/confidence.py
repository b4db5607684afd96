"""How sure the network was, in numbers that a gate and a report can use."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from medseg.inference.postprocess import bounding_box
from medseg.labels import LabelTable

CORE_DEPTH = 2
"""Voxels of the prepared grid between the border of a mask and its core."""

UNCERTAIN = (0.2, 0.8)
"""Between these probabilities a voxel counts as undecided."""


def label_confidence(probabilities: NDArray[np.float32], table: LabelTable) -> dict[str, dict[str, float]]:
    """How sure the network was of each label that it found.

    Parameters
    ----------
    probabilities : (L, *sp) float32 array
        Sum to one over L.
    table : LabelTable

    Returns
    -------
    dict
        By label name, labels without a voxel left out: `mean_probability` of the label over the
        mask's core (voxels more than two from its border; the whole mask where none is), the
        voxels whose probability lies between 0.2 and 0.8 as `uncertain_share` of the mask, and
        the mean `entropy` of the mask, 0 (one class is certain) to 1 (all are equally likely).
    """
    label_map = probabilities.argmax(axis=0).astype(np.uint8)
    found = {}
    for index, name in enumerate(table.names[1:], start=1):
        box = bounding_box(label_map, (index,))
        if box is None:
            continue
        mask = label_map[box] == index
        core = ndimage.binary_erosion(mask, structure=np.ones((3,) * mask.ndim), iterations=CORE_DEPTH)
        part = probabilities[(slice(None), *box)]
        whole = probabilities[index]
        undecided = np.count_nonzero((whole > UNCERTAIN[0]) & (whole < UNCERTAIN[1]))
        found[name] = {
            "mean_probability": float(part[index][core if core.any() else mask].mean(dtype=np.float64)),
            "uncertain_share": float(undecided / np.count_nonzero(mask)),
            "entropy": float(normalised_entropy(part[:, mask]).mean(dtype=np.float64)),
        }
    return found


def image_entropy(probabilities: NDArray[np.float32]) -> dict[str, float]:
    """Mean entropy of the `image` and, where there is any, of the `foreground`; 0 to 1."""
    entropy = normalised_entropy(probabilities)
    foreground = probabilities.argmax(axis=0) > 0
    summary = {"image": float(entropy.mean(dtype=np.float64))}
    if foreground.any():
        summary["foreground"] = float(entropy[foreground].mean(dtype=np.float64))
    return summary


def normalised_entropy(probabilities: NDArray[np.float32]) -> NDArray[np.float32]:
    """(L, ...) probabilities -> (...) entropy divided by its largest value, log L."""
    surprise = -np.log(np.maximum(probabilities, np.finfo(np.float32).tiny))
    entropy: NDArray[np.float32] = (probabilities * surprise).sum(axis=0, dtype=np.float32)
    return entropy / np.float32(np.log(len(probabilities)))
