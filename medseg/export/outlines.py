"""Mask of a picture -> closed outlines in pixel coordinates, as presentation states and SCOORD count them."""

from __future__ import annotations

import contourpy
import numpy as np
from numpy.typing import NDArray

from medseg.polyline import simplify


def outlines(mask: NDArray[np.bool_], *, tolerance: float = 0.25) -> list[NDArray[np.float64]]:
    """Outlines of a mask, the longest first, inner ones (of holes) included.

    Parameters
    ----------
    mask : (I, J) bool array
    tolerance : float
        Largest distance in pixels by which an outline may be off its unsimplified self.

    Returns
    -------
    list of (N, 2) float64 array
        Column and row, 0 at the top left corner of the first pixel, so that pixel centres lie at
        n + 0.5; the last point is the first. Lines run between the centres of pixels inside and
        outside, and so cut corners by half a pixel.

    References
    ----------
    DICOM PS3.3 C.10.5.1.2 (PIXEL units). Ramer 1972, doi:10.1016/S0146-664X(72)80017-0.
    """
    # A rim of background closes the outlines of masks that touch the border.
    padded = np.pad(mask.T.astype(np.float32), 1)
    lines = contourpy.contour_generator(z=padded).lines(0.5)
    # Contours count centres and are padded by one: minus one, plus half a pixel.
    found = [simplify(np.asarray(line, dtype=np.float64) - 0.5, tolerance) for line in lines]
    return sorted(found, key=lambda line: -float(np.ptp(line, axis=0).sum()))


def pieces(line: NDArray[np.float64], largest: int) -> list[NDArray[np.float64]]:
    """A line in pieces of at most `largest` points, each beginning where the one before ended."""
    return [line[first : first + largest] for first in range(0, max(len(line) - 1, 1), largest - 1)]
