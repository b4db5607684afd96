"""What the values of an image are, and their statistics inside a structure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medseg.evaluation.quantities import Bound, Quantity
from medseg.volume import Volume

ARBITRARY = "in arbitrary units of the scanner, not comparable between scans"
UNIT_UNKNOWN = "the file does not say what its values are"
_PART_VOXELS = 1 << 21
STATISTICS = ("mean_intensity", "sd_intensity", "min_intensity", "max_intensity")
# Type of the values as the reader names it (Units of PET, SUV with its type) -> unit as it is shown.
_PET = {
    "SUVBW": "g/ml{SUVbw}",
    "SUVLBM": "g/ml{SUVlbm}",
    "SUVLBMJANMA": "g/ml{SUVlbm(Janma)}",
    "SUVLBMJAMES128": "g/ml{SUVlbm(James128)}",
    "SUVIBW": "g/ml{SUVibw}",
    "SUVBSA": "cm2/ml{SUVbsa}",
    "BQML": "Bq/ml",
    "CNTS": "{counts}",
    "CPS": "{counts}/s",
    "PROPCNTS": "{propcounts}",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Intensities:
    """Values of an image and what they mean.

    Parameters
    ----------
    values : (I, J) or (I, J, K) array
    unit : str
        HU, a UCUM code for PET, or 1.
    note : str
        What to mind when reading the numbers.
    reason : str
        Why no statistics are given of them; "" where they are.
    """

    values: NDArray[Any]
    unit: str = "1"
    note: str = ""
    reason: str = ""


def intensities_of(volume: Volume) -> Intensities:
    """Values of a volume with their unit, from its modality and `value_type` of its header."""
    values, kind = volume.array[0], volume.header.get("value_type", "")
    if volume.array.shape[0] != 1:
        return Intensities(values=values, reason=f"the image has {volume.array.shape[0]} channels")
    if volume.spatial_dims == 2 and volume.affine is None:
        return Intensities(values=values, reason="the values of a radiograph or picture have no unit")
    # PS3.3 C.8.2.1: a CT that does not say otherwise has Hounsfield units.
    if volume.modality == "CT" and kind in ("", "HU"):
        return Intensities(values=values, unit="HU")
    if volume.modality == "MR":
        return Intensities(values=values, note=ARBITRARY)
    if volume.modality in ("PT", "NM") and kind in _PET:
        return Intensities(values=values, unit=_PET[kind])
    return Intensities(values=values, note=UNIT_UNKNOWN)


def intensity_quantities(
    mask: NDArray[np.bool_] | None, values: NDArray[Any], intensities: Intensities, *, bound: Bound
) -> dict[str, Quantity]:
    """Mean, standard deviation (of the population, divisor n), least and largest value inside a mask.

    Parameters
    ----------
    mask : bool array or None
        None: the structure is absent.
    values : array of the mask's shape
    intensities : Intensities
        Unit, note and reason.
    bound : str
        "unknown" where the structure is cut off.
    """
    unit, reason = intensities.unit, intensities.reason or ("absent" if mask is None else "")
    if mask is None or reason:
        return {"mean_intensity": Quantity(value=None, unit=unit, reason=reason)}
    return {
        name: Quantity(value=number, unit=unit, bound=bound, note=intensities.note)
        for name, number in zip(STATISTICS, _statistics(mask, values), strict=True)
    }


def _statistics(mask: NDArray[np.bool_], values: NDArray[Any]) -> tuple[float, float, float, float]:
    """Mean, standard deviation, least and largest value inside a mask with at least one voxel."""
    found = [(part.size, part.sum(dtype=np.float64), part.min(), part.max()) for part in _parts(mask, values)]
    counts, sums, least, largest = (np.asarray(column) for column in zip(*found, strict=True))
    mean = sums.sum() / counts.sum()
    squares = sum(float(np.square(part - mean, dtype=np.float64).sum()) for part in _parts(mask, values))
    return float(mean), float(np.sqrt(squares / counts.sum())), float(least.min()), float(largest.max())


def _parts(mask: NDArray[np.bool_], values: NDArray[Any]) -> Iterator[NDArray[Any]]:
    """Values inside a mask, a few slices at a time: those of a structure as large as the scan would fill a memory."""
    axis = int(np.argmax(np.abs(values.strides)))
    rows = max(1, _PART_VOXELS // max(1, values.size // values.shape[axis]))
    for start in range(0, values.shape[axis], rows):
        place = (slice(None),) * axis + (slice(start, start + rows),)
        part = values[place][mask[place]]
        if part.size:
            yield part
