"""A gantry-tilted volume on a straight grid and back: what networks that look across slices need."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medseg.geometry import spacing_of
from medseg.tilt import (
    Shear,
    shear_of,
    straighten_labels,
    straighten_slices,
    unstraighten_labels,
    unstraighten_slices,
)
from medseg.volume import Volume

__all__ = ["Shear", "straighten", "unstraighten_labels", "unstraighten_probabilities"]


def straighten(
    volume: Volume,
    *,
    least_degrees: float = 0.01,
    outside: float | None = None,
    labels: bool = False,
) -> tuple[Volume, Shear | None]:
    """The same slices, each shifted within its plane so that they stack along their normal.

    The grid grows within the slices to cover all of them. Nothing is interpolated across slices.

    Parameters
    ----------
    volume : Volume
        Left unchanged.
    least_degrees : float, optional
        A volume whose axes are closer to right angles passes through untouched.
    outside : float, optional
        Value of voxels that no slice covers; by default each channel's minimum, 0 for labels.
    labels : bool, optional
        The values are labels: the nearest voxel is taken, and undoing gives the same labels again.

    Returns
    -------
    (Volume, Shear or None)
        float32 values by linear interpolation, or labels in their type, on the straight grid, and the
        way back; the volume itself and None where there is no shear.

    Raises
    ------
    GeometryError
        No two axes are at right angles.
    """
    shear = shear_of(volume.affine, volume.spatial_shape, least_degrees=least_degrees)
    if shear is None:
        return volume, None
    if labels:
        array = _stacked([straighten_labels(channel, shear) for channel in volume.array])
    else:
        fill = [float(c.min()) if outside is None else outside for c in volume.array]
        channels = zip(volume.array, fill, strict=True)
        array = _stacked([straighten_slices(channel, shear, outside=value) for channel, value in channels])
    affine = shear.straight_affine
    return replace(volume, array=array, affine=affine, spacing_mm=spacing_of(affine)), shear


def unstraighten_probabilities(probabilities: NDArray[np.float32], shear: Shear) -> NDArray[np.float32]:
    """Class probabilities on the straight grid, back on the sheared grid of the source.

    Parameters
    ----------
    probabilities : (L, *straight) float32 array
        Background first.
    shear : Shear

    Returns
    -------
    (L, *source) float32 array
        Linear interpolation within the slices; every source voxel lies inside of the straight grid.
    """
    return _stacked([unstraighten_slices(channel, shear) for channel in probabilities])


def _stacked(channels: list[NDArray[Any]]) -> NDArray[Any]:
    """Channels as one array, a view of the one where there is only one."""
    return channels[0][np.newaxis] if len(channels) == 1 else np.stack(channels)
