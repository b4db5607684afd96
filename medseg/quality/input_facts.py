"""What an image is like before any network sees it: kind, grid, values, and a small look. NumPy only.

Everything is told in one order of axes (see `canonical`), so that a stored order makes no difference and a wrong
one does. Nothing is made as large as the image: values and look come from voxels at even steps.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medseg.quality.appearance import VALUE_LEVELS, Look, look_of
from medseg.quality.canonical import axis_order, canonical, directions_of
from medseg.volume import Volume

AXES = {2: ("left", "foot"), 3: ("right", "anterior", "superior")}
"""Names of the canonical axes, by their number."""

SIDEWAYS = frozenset({"LL", "RL", "LLO", "RLO", "LATERAL", "OBLIQUE"})
"""Views from the side, and oblique ones, as `view_position` of a header names them.

Lying on a side (LLD, RLD) is none: the beam goes from front to back.
"""

_MOST_ALONG = {2: 512, 3: 96}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class InputFacts:
    """What is kept of one image.

    Parameters
    ----------
    modality : str
        DICOM modality, "" where the file does not say.
    sides : tuple of float
        Length along each canonical axis, mm; voxels where the spacing is unknown.
    spacing_mm : tuple of float, or None
        Along each canonical axis.
    values : (C, Q) float64 array
        Values of each channel at `VALUE_LEVELS`.
    look : Look
        The image at a glance, in canonical order and free of the unit of its values.
    oriented : bool
        Whether the file says where the axes lead.
    frontal : bool
        Whether the canonical axes are there and the view, where the file says it, is not from the side: False for a
        lateral film.
    view : str
        View Position of a radiograph, "" where the file does not say.
    """

    modality: str
    sides: tuple[float, ...]
    spacing_mm: tuple[float, ...] | None
    values: NDArray[np.float64]
    look: Look
    oriented: bool
    frontal: bool
    view: str = ""

    @property
    def spatial_dims(self) -> int:
        """2 or 3."""
        return len(self.sides)

    def measures(self) -> dict[str, float]:
        """Numbers of the grid: `side <axis>` in mm, where known, and `proportion <axis>/<axis>`, log of the ratio."""
        names = AXES[self.spatial_dims]
        found: dict[str, float] = {}
        if self.spacing_mm is not None:
            found = {f"side {name}": side for name, side in zip(names, self.sides, strict=True)}
        for one in range(len(names)):
            for two in range(one + 1, len(names)):
                ratio = np.log(self.sides[one] / self.sides[two])
                found[f"proportion {names[one]}/{names[two]}"] = float(ratio)
        return found


def input_facts(volume: Volume) -> InputFacts:
    """Look at an image as it was read.

    Parameters
    ----------
    volume : Volume
        Of at least one voxel; values that are not finite count as 0.
    """
    dims = volume.spatial_dims
    directions = directions_of(
        spatial_dims=dims, patient_orientation=volume.patient_orientation, affine=volume.affine
    )
    order = axis_order(directions, dims)
    kept = order or axis_order(None, dims) or ()
    steps = None if volume.spacing_mm is None else tuple(volume.spacing_mm[axis] for axis, _ in kept)
    counts = [volume.spatial_shape[axis] for axis, _ in kept]
    sides = tuple(float(n * step) for n, step in zip(counts, steps or (1.0,) * dims, strict=True))
    array, view = canonical(volume.array, order), volume.header.get("view_position", "")
    sample = _sampled(array)
    return InputFacts(
        modality=volume.modality,
        sides=sides,
        spacing_mm=steps,
        values=np.quantile(sample.reshape(len(sample), -1), VALUE_LEVELS, axis=1).T,
        look=look_of(sample, _steps(array)),
        oriented=directions is not None,
        frontal=order is not None and view not in SIDEWAYS,
        view=view,
    )


def _sampled(array: NDArray[Any]) -> NDArray[np.float64]:
    """(C, ...) voxels at even steps, float64."""
    dims = array.ndim - 1
    steps = tuple(slice(None, None, max(1, -(-n // _MOST_ALONG[dims]))) for n in array.shape[1:])
    return np.nan_to_num(array[(slice(None), *steps)].astype(np.float64), posinf=0.0, neginf=0.0)


def _steps(array: NDArray[Any]) -> NDArray[np.float64]:
    """(D,) root mean square step to the next voxel along each axis, at the full resolution."""
    dims = array.ndim - 1
    coarse = [max(1, -(-n // _MOST_ALONG[dims])) for n in array.shape[1:]]
    found = np.zeros(dims)
    for axis in range(dims):
        here = [slice(None, None, step) for step in coarse]
        here[axis] = slice(0, -1, coarse[axis])
        there = list(here)
        there[axis] = slice(1, None, coarse[axis])
        one = array[(slice(None), *here)].astype(np.float64)
        if one.size:
            two = array[(slice(None), *there)].astype(np.float64)
            found[axis] = np.sqrt(np.nan_to_num((two - one) ** 2, posinf=0.0).mean())
    return found
