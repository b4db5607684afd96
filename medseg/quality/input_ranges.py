"""What the grids of the training images were like, for a bundle to tell."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

FINEST, COARSEST = "spacing_finest_mm", "spacing_coarsest_mm"
InputRanges = dict[str, tuple[float, float]]
"""Lowest and highest value over the training images, by measure."""


def grid_measures(shape: Sequence[int], spacing_mm: Sequence[float]) -> dict[str, float]:
    """Numbers of a grid that do not depend on the order of its axes, in mm.

    Parameters
    ----------
    shape : (I, J) or (I, J, K)
        Voxels along each axis.
    spacing_mm : tuple of float
        Distance between voxel centres along each axis.
    """
    sides = [count * step for count, step in zip(shape, spacing_mm, strict=True)]
    return {
        FINEST: float(min(spacing_mm)),
        COARSEST: float(max(spacing_mm)),
        "side_shortest_mm": float(min(sides)),
        "side_longest_mm": float(max(sides)),
    }


def fit_input_ranges(grids: Iterable[tuple[Sequence[int], Sequence[float] | None]]) -> InputRanges:
    """Lowest and highest value of each measure over the training images.

    Parameters
    ----------
    grids : iterable of (shape, spacing)
        Images whose spacing is unknown are left out.

    Returns
    -------
    dict
        As `TrainingRecord.input_ranges` keeps it; empty where no spacing is known.
    """
    known = [grid_measures(shape, spacing) for shape, spacing in grids if spacing is not None]
    if not known:
        return {}
    return {name: (min(m[name] for m in known), max(m[name] for m in known)) for name in known[0]}
