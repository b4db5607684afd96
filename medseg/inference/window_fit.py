"""Windows that are larger than those of the training where fewer of them then cover an image with less work.

An image of 256 voxels takes three windows of 128 as soon as any overlap is asked for, each voxel seen almost twice. Two
windows of 160 do the same with an overlap of 64, two thirds of the work. Windows never get smaller than set, so that
no voxel is judged with less around it than in training.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

from medseg.inference.window_blend import AxisPlan

MOST_LENGTH = 1.5
"""A fitted window is at most so many times as long as the set one, along each axis."""

MOST_VOXELS = 2.0
"""And holds at most so many times its voxels, by which the memory of a run grows."""

# Another size of windows has a price: an engine that is compiled for a size starts anew.
_LEAST_GAIN = 0.1
# Finer steps would hardly save work and give every image a size of its own.
_STEPS = 8


def fitted_window(
    size: Sequence[int], window: Sequence[int], *, overlap: float, stride: Sequence[int]
) -> tuple[int, ...]:
    """The window with which an image is covered with the least work.

    Parameters
    ----------
    size : sequence of int
        Voxels of the image.
    window : sequence of int
        As set; the smallest that is considered.
    overlap : float
        Share of a window that its neighbour sees again at least.
    stride : sequence of int
        Of the network, which fills up other sizes to multiples of it.

    Returns
    -------
    tuple of int
        `window` itself where nothing saves a tenth of the work.
    """
    axes = [
        _lengths(n, w, step=s * max(1, math.ceil(w / _STEPS / s)))
        for n, w, s in zip(size, window, stride, strict=True)
    ]
    most = MOST_VOXELS * _work(size, window, overlap=overlap, stride=stride)[1]
    best, least = tuple(window), (1 - _LEAST_GAIN) * _work(size, window, overlap=overlap, stride=stride)[0]
    for lengths in itertools.product(*axes):
        work, voxels = _work(size, lengths, overlap=overlap, stride=stride)
        if voxels <= most and work < least:
            best, least = lengths, work
    return best


def _lengths(n: int, w: int, *, step: int) -> list[int]:
    """Lengths of a window along one axis: as set, and multiples of a step up to what covers the image."""
    longest = min(MOST_LENGTH * w, math.ceil(n / step) * step)
    return [w, *range((w // step + 1) * step, int(longest) + 1, step)]


def _work(
    size: Sequence[int], window: Sequence[int], *, overlap: float, stride: Sequence[int]
) -> tuple[float, float]:
    """Voxels that the network computes for the image, and for one window."""
    voxels = math.prod(math.ceil(w / s) * s for w, s in zip(window, stride, strict=True))
    count = math.prod(
        len(AxisPlan.of(max(n, w), w, overlap).starts) for n, w in zip(size, window, strict=True)
    )
    return float(voxels * count), float(voxels)
