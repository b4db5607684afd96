"""Lines of points with fewer points; outlines of DICOM objects and of the report use it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

# Spans of so many points or fewer are walked through: a call of NumPy takes longer than the points.
_FEW = 40


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
    points: list[list[float]] = line.tolist()
    spans = [(0, len(line) - 1)]
    while spans:
        first, last = spans.pop()
        if last - first < 2:
            continue
        if last - first <= _FEW:
            gap, middle = _furthest_of_few(points, first, last)
        else:
            gap, middle = _furthest(line, first, last)
        if gap > tolerance:
            keep[middle] = True
            spans += [(first, middle), (middle, last)]
    return line[keep]


def _furthest(line: NDArray[np.float64], first: int, last: int) -> tuple[float, int]:
    """Greatest distance of a point between two from the chord that joins these, and which point."""
    gaps = _distance(line[first + 1 : last] - line[first], line[last] - line[first])
    middle = int(gaps.argmax())
    return float(gaps[middle]), first + 1 + middle


def _furthest_of_few(points: list[list[float]], first: int, last: int) -> tuple[float, int]:
    """The same, bit for bit, point by point."""
    (x0, y0), (x1, y1) = points[first], points[last]
    dx, dy = x1 - x0, y1 - y0
    length = float(np.hypot(dx, dy))
    most, middle = -1.0, first + 1
    for index in range(first + 1, last):
        x, y = points[index]
        x, y = x - x0, y - y0
        gap = abs(x * dy - y * dx) / length if length else float(np.hypot(x, y))
        if gap > most:
            most, middle = gap, index
    return most, middle


def _distance(points: NDArray[np.float64], chord: NDArray[np.float64]) -> NDArray[np.float64]:
    length = float(np.hypot(*chord))
    if not length:
        return np.asarray(np.hypot(points[:, 0], points[:, 1]), dtype=np.float64)
    return np.asarray(np.abs(points[:, 0] * chord[1] - points[:, 1] * chord[0]) / length, dtype=np.float64)
