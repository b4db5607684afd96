"""Lines of points with fewer points; outlines of DICOM objects and of the report use it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def simplify(line: NDArray[np.float64], tolerance: float) -> NDArray[np.float64]:
    """Leave out points nearer than the tolerance to the line without them; first and last stay.

    Parameters
    ----------
    line : (N, 2) float64 array
    tolerance : float
        In the unit of the points.

    References
    ----------
    Ramer 1972, doi:10.1016/S0146-664X(72)80017-0; Douglas and Peucker 1973.
    """
    keep = np.zeros(len(line), dtype=np.bool_)
    keep[[0, -1]] = True
    spans = [(0, len(line) - 1)]
    while spans:
        first, last = spans.pop()
        if last - first < 2:
            continue
        gap = _distance(line[first + 1 : last] - line[first], line[last] - line[first])
        middle = int(gap.argmax())
        if gap[middle] > tolerance:
            keep[first + 1 + middle] = True
            spans += [(first, first + 1 + middle), (first + 1 + middle, last)]
    return line[keep]


def _distance(points: NDArray[np.float64], chord: NDArray[np.float64]) -> NDArray[np.float64]:
    length = float(np.hypot(*chord))
    if not length:
        return np.asarray(np.hypot(points[:, 0], points[:, 1]), dtype=np.float64)
    return np.asarray(np.abs(points[:, 0] * chord[1] - points[:, 1] * chord[0]) / length, dtype=np.float64)
