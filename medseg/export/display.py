"""Values of an image -> gray for display: the header's window as DICOM defines it, or else percentiles."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from medseg.volume import Volume

Function = Literal["LINEAR", "LINEAR_EXACT", "SIGMOID"]
_PERCENTILES = (0.5, 99.5)
_SAMPLES = 1 << 18
_SIDES = (("R", "L"), ("A", "P"), ("H", "F"))
_OBLIQUE = 0.35


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """Centre and width in the values of the image, and how they are meant.

    References
    ----------
    DICOM PS3.3 C.11.2.1.2.1 (LINEAR), C.11.2.1.3.1 (SIGMOID), C.11.2.1.3.2 (LINEAR_EXACT).
    """

    centre: float
    width: float
    function: Function = "LINEAR_EXACT"

    def gray(self, values: NDArray[Any]) -> NDArray[np.uint8]:
        """0..255 for values of any shape."""
        x = np.asarray(values, dtype=np.float32)
        if self.function == "SIGMOID":
            with np.errstate(over="ignore"):
                shown = 1 / (1 + np.exp(-4 * (x - self.centre) / self.width))
        else:
            low, high = self.limits
            shown = np.clip((x - low) / max(high - low, float(np.finfo(np.float32).tiny)), 0, 1)
        return np.asarray(np.round(np.nan_to_num(shown) * 255), dtype=np.uint8)

    @property
    def limits(self) -> tuple[float, float]:
        """Values that become black and white."""
        # LINEAR shifts the centre by half a unit and takes one off the width.
        linear = self.function == "LINEAR"
        centre, half = self.centre - 0.5 * linear, max(self.width - linear, 0.0) / 2
        return centre - half, centre + half


def window_of(volume: Volume) -> Window:
    """The header's first window where it shows anything, else the 0.5th to 99.5th percentile."""
    low, high = _usual_range(volume.array)
    try:
        centre, width = (float(volume.header[f"window_{part}"]) for part in ("center", "width"))
    except (KeyError, ValueError):
        return Window(centre=(low + high) / 2, width=high - low)
    said = volume.header.get("voi_lut_function", "")
    function: Function = (
        "SIGMOID" if said == "SIGMOID" else "LINEAR_EXACT" if said == "LINEAR_EXACT" else "LINEAR"
    )
    window = Window(centre=centre, width=width, function=function)
    shows = width > 0 and window.limits[0] < high and window.limits[1] > low
    return window if shows else Window(centre=(low + high) / 2, width=high - low)


def _usual_range(array: NDArray[Any]) -> tuple[float, float]:
    """Percentiles of a sample on an even grid: of a large image all values would take seconds."""
    step = max(math.ceil((array[0].size / _SAMPLES) ** (1 / (array.ndim - 1))), 1)
    sample = array[(slice(None), *[slice(None, None, step)] * (array.ndim - 1))].mean(
        axis=0, dtype=np.float32
    )
    finite = sample[np.isfinite(sample)]
    if not finite.size:
        return 0.0, 1.0
    low, high = (float(v) for v in np.percentile(finite, _PERCENTILES))
    return low, high


def display_directions(volume: Volume) -> tuple[str, str] | None:
    """Patient directions in which i and j grow, as DICOM's Patient Orientation has them; None where unknown."""
    if volume.affine is None:
        return volume.patient_orientation
    first, second, _ = axis_directions(volume.affine)
    return first, second


def axis_directions(affine: NDArray[np.float64]) -> tuple[str, str, str]:
    """Patient directions in which the axes i, j, k of an affine (RAS+) grow, such as ("L", "P", "H")."""
    first, second, third = (_letters(np.asarray(affine)[:3, axis]) for axis in range(3))
    return first, second, third


def _letters(step: NDArray[np.float64]) -> str:
    """Letters of a direction in RAS+, the strongest first; a second one where it is more than 20 degrees off."""
    unit = step / np.linalg.norm(step)
    order = np.argsort(-np.abs(unit))
    letters = [_SIDES[axis][0 if unit[axis] > 0 else 1] for axis in order if abs(unit[axis]) > _OBLIQUE]
    return "".join(letters[:2])
