"""What an image looks like at a glance, as a feature vector without any network. NumPy only.

A network trained on one kind of image may see two unlike images as alike in what it was trained to
find. A coarse thumbnail, local contrast and the distribution of grey values tell them apart.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

_BLOCKS = {2: (16, 8), 3: (6, 4)}
_QUANTILES = (0.05, 0.10, 0.25, 0.50, 0.75, 0.90, 0.95)


def appearance(image: NDArray[Any]) -> NDArray[np.float32]:
    """Feature vector of a prepared image; its length depends on the number of axes only.

    Parameters
    ----------
    image : (C, I, J) or (C, I, J, K) array
        As the network sees it: oriented, framed and normalised. Channels are averaged.

    Returns
    -------
    (A,) float32 array
        Block means (16 x 16, or 6 x 6 x 6), block standard deviations (8 x 8, or 4 x 4 x 4), mean
        absolute difference of neighbours along each axis, grey quantiles. A is 329 or 290.
    """
    grey = np.asarray(image, dtype=np.float64).mean(axis=0)
    fine, coarse = _BLOCKS[grey.ndim]
    means = _block_means(grey, fine)
    variance = _block_means(grey**2, coarse) - _block_means(grey, coarse) ** 2
    steps = [
        np.abs(np.diff(grey, axis=axis)).mean() if size > 1 else 0.0 for axis, size in enumerate(grey.shape)
    ]
    parts = [means.ravel(), np.sqrt(np.maximum(variance, 0.0)).ravel(), steps, np.quantile(grey, _QUANTILES)]
    return np.concatenate([np.asarray(part, dtype=np.float32) for part in parts])


def _block_means(array: NDArray[np.float64], blocks: int) -> NDArray[np.float64]:
    """Means over `blocks` nearly equal parts along every axis; short axes repeat voxels."""
    for axis, size in enumerate(array.shape):
        edges = np.floor(np.linspace(0, size, blocks + 1)).astype(np.intp)
        lengths = np.maximum(np.diff(edges), 1)
        sums = np.add.reduceat(array, edges[:-1], axis=axis)
        array = sums / np.expand_dims(lengths, [a for a in range(array.ndim) if a != axis])
    return array


def gate_features(image: NDArray[Any], network: NDArray[Any] | None = None) -> NDArray[np.float32]:
    """Feature vector of the input gate: the network's features, then the appearance.

    Parameters
    ----------
    image : (C, *sp) array
        The prepared image.
    network : (F,) array, optional
        Features of the network for the same image; leave it out for a network that has none.
    """
    own = appearance(image)
    return own if network is None else np.concatenate([np.asarray(network, dtype=np.float32), own])
