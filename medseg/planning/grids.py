"""The grids of prepared images, and the spacing that they are brought to."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

# Isensee et al., Nature Methods 2021, doi:10.1038/s41592-020-01008-z: an axis counts as coarse where its
# spacing is more than three times that of the others, and gets the 10th percentile of its spacings.
ANISOTROPY = 3.0
COARSE_PERCENTILE = 10.0
# Spacings that differ by less are rounding of the same protocol.
_SAME_SPACING = 0.01
# On a CPU an image of more patches than this is seen too seldom; it is shown coarser.
_MOST_PATCHES = 64
_LEAST_STRUCTURE_VOXELS = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
    """Voxels along each axis of an image, and their distances; None where unknown."""

    case_id: str
    shape: tuple[int, ...]
    spacing_mm: tuple[float, ...] | None

    @property
    def voxels(self) -> int:
        """Number of voxels."""
        return math.prod(self.shape)


def median_shape(grids: Sequence[Grid]) -> tuple[int, ...]:
    """Median number of voxels along each axis, rounded up."""
    return tuple(math.ceil(v) for v in np.median([grid.shape for grid in grids], axis=0))


def median_spacing(grids: Sequence[Grid]) -> tuple[float, ...] | None:
    """Median spacing along each axis; None where no image says it."""
    known = [grid.spacing_mm for grid in grids if grid.spacing_mm is not None]
    return tuple(float(v) for v in np.median(known, axis=0)) if known else None


def coarse_axis(spacing_mm: Sequence[float]) -> int | None:
    """The axis whose spacing is more than three times the next, None where there is none."""
    axis = int(np.argmax(spacing_mm))
    others = [value for index, value in enumerate(spacing_mm) if index != axis]
    return axis if spacing_mm[axis] > ANISOTROPY * max(others) else None


def target_spacing(
    grids: Sequence[Grid], *, patch_voxels: int | None, structure_mm3: float | None
) -> tuple[tuple[float, ...] | None, str]:
    """Spacing that all images are resampled to, or None where they are left as they are, and why.

    Parameters
    ----------
    grids : sequence of Grid
        Of the images in their common orientation.
    patch_voxels : int or None
        Voxels of a sample where time is short (on a CPU); images that are many times larger are
        brought to a coarser grid. None: never.
    structure_mm3 : float or None
        Median volume of the smallest structure, which a coarser grid must still show.
    """
    known = [grid.spacing_mm for grid in grids if grid.spacing_mm is not None]
    if len(known) < len(grids):
        return None, f"{len(grids) - len(known)} of {len(grids)} images do not say their spacing"
    values = np.asarray(known, dtype=np.float64)
    target = np.median(values, axis=0)
    axis = coarse_axis(tuple(target))
    reason = "median of the training images"
    if axis is not None:
        # Most images have it finer than some; the coarsest would blur them.
        target[axis] = np.percentile(values[:, axis], COARSE_PERCENTILE)
        reason += f", on the coarse axis {axis} their 10th percentile"
    agree = bool((np.abs(values - target) <= _SAME_SPACING * target).all())
    shape = np.median([np.multiply(g.shape, g.spacing_mm or 1.0) for g in grids], axis=0) / target
    factor = _coarsening(float(np.prod(shape)), patch_voxels, structure_mm3, float(np.prod(target)))
    if factor > 1.05:
        target = target * factor
        text = f"images of {np.prod(shape) / 1e6:.0f} M voxels are many times what a CPU is shown at once"
        return _rounded(target), f"{reason}, {factor:.2f} times coarser: {text}"
    if agree:
        return None, f"all images have {_text(target)} mm"
    return _rounded(target), reason


def _coarsening(
    voxels: float, patch_voxels: int | None, structure_mm3: float | None, voxel_mm3: float
) -> float:
    if patch_voxels is None:
        return 1.0
    wanted = float((voxels / (_MOST_PATCHES * patch_voxels)) ** (1 / 3))
    allowed = (
        wanted if structure_mm3 is None else (structure_mm3 / voxel_mm3 / _LEAST_STRUCTURE_VOXELS) ** (1 / 3)
    )
    return max(1.0, min(wanted, allowed))


def _rounded(spacing: np.ndarray[tuple[int, ...], np.dtype[np.float64]]) -> tuple[float, ...]:
    return tuple(float(f"{v:.4g}") for v in spacing)


def _text(spacing: Sequence[float] | np.ndarray[tuple[int, ...], np.dtype[np.float64]]) -> str:
    return " x ".join(f"{v:.3g}" for v in spacing)
