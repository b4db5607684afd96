"""Cubic spline interpolation of a row as a matrix, so that a volume is resampled by one product per axis.

The numbers are those of SciPy's `ndimage.zoom` of order 3 with ``mode="nearest", grid_mode=True``, which is what
scikit-image's `resize` and with it nnU-Net use; a spline is linear in the values, so the columns of the
matrix are the zoomed unit vectors.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage, sparse

# The spline's memory of far voxels falls by a factor of 3.7 with each; beyond this nothing is left in float32.
_NEGLIGIBLE = 1e-8


@lru_cache(maxsize=32)
def spline_weights(length: int, count: int) -> Any:
    """Weights that turn a row of `length` values into one of `count` over the same field of view.

    Parameters
    ----------
    length, count : int
        Voxels before and after; outer edges coincide, values beyond the row are its last ones.

    Returns
    -------
    (count, length) scipy sparse CSR array, float64
        Each line sums to 1. A row keeps its values where the counts are equal.
    """
    if length == count:
        return sparse.csr_array(sparse.eye_array(length, dtype=np.float64))
    if length == 1:
        return sparse.csr_array(np.ones((count, 1), dtype=np.float64))
    matrix = np.empty((count, length))
    for column in range(length):
        unit = np.zeros(length)
        unit[column] = 1.0
        matrix[:, column] = ndimage.zoom(unit, count / length, order=3, mode="nearest", grid_mode=True)
    matrix[np.abs(matrix) < _NEGLIGIBLE] = 0.0
    return sparse.csr_array(matrix / matrix.sum(axis=1, keepdims=True))


def nearest_places(length: int, count: int) -> NDArray[np.int64]:
    """(count,) voxels of a row of `length` that lie nearest to those of a row of `count` over the same field of view.

    Of two that are equally near the later one, as SciPy's `map_coordinates` of order 0 takes it.
    """
    positions = length / count * (np.arange(count) + 0.5) - 0.5
    return np.asarray(np.floor(np.clip(positions, 0, length - 1) + 0.5), dtype=np.int64)
