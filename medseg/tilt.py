"""Tilted stacks of slices: the straight grid that covers one, and the shift of each slice between both.

A CT with a tilted gantry has slices that are shifted against each other in their plane, a sheared
affine. Nothing here resamples across slices; NumPy only.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from medseg.errors import GeometryError

_LEAST_DEGREES = 0.01
# Another axis than the last is taken for the slices only where its spacing is clearly the largest.
_CLEARLY = 1.5
_DECIMALS = 9


@dataclass(frozen=True, slots=True, kw_only=True)
class Shear:
    """How a sheared grid and the straight grid around it lie to each other.

    Parameters
    ----------
    source_shape, straight_shape : (int, int, int)
        Voxels of both grids; the straight one is larger within the slices, so that it covers all.
    source_affine, straight_affine : (4, 4) float64 array
        Voxel to RAS+ mm.
    slice_axis : int
        Voxel axis along which the slices follow each other, in both grids.
    in_plane : (int, int)
        The other two voxel axes.
    drift : (float, float)
        Voxels along `in_plane` by which each slice of the source lies further than the one before.
    start : (int, int)
        First voxel of the straight grid along `in_plane`, in voxels of the source's slice 0.
    degrees : float
        Angle between the slice axis of the source and the normal of its slices.
    """

    source_shape: tuple[int, int, int]
    straight_shape: tuple[int, int, int]
    source_affine: NDArray[np.float64]
    straight_affine: NDArray[np.float64]
    slice_axis: int
    in_plane: tuple[int, int]
    drift: tuple[float, float]
    start: tuple[int, int]
    degrees: float

    def offsets(self) -> NDArray[np.float64]:
        """(K, 2) float array: position in the straight grid of voxel 0 of each slice, along `in_plane`."""
        steps = np.arange(self.source_shape[self.slice_axis])[:, None]
        return np.asarray(np.round(steps * np.array(self.drift) - np.array(self.start), _DECIMALS))


def shear_of(
    affine: NDArray[np.float64] | None, shape: tuple[int, ...], *, least_degrees: float = _LEAST_DEGREES
) -> Shear | None:
    """The shear of a grid, or None where its axes are at right angles to within `least_degrees`.

    Parameters
    ----------
    affine : (4, 4) float64 array or None
        Voxel to RAS+ mm.
    shape : (I, J, K)
    least_degrees : float, optional
        Smaller deviations from the right angle count as none.

    Returns
    -------
    Shear or None
        None also without an affine, and for pictures.

    Raises
    ------
    GeometryError
        No two axes are at right angles, as after a registration with shears: that is no tilted stack.
    """
    if affine is None or len(shape) != 3:
        return None
    columns = np.asarray(affine, dtype=np.float64)[:3, :3]
    off = _off_right_angle(columns)
    if off.max() <= least_degrees:
        return None
    axis = _slice_axis(columns, off, least_degrees)
    first, second = (a for a in range(3) if a != axis)
    normal = np.cross(columns[:, first], columns[:, second])
    normal /= np.linalg.norm(normal)
    step = columns[:, axis]
    straight = normal * (normal @ step)
    drift = np.linalg.lstsq(columns[:, [first, second]], step - straight, rcond=None)[0]
    reach = drift * (shape[axis] - 1)
    start = np.floor(np.minimum(reach, 0) + 1e-6).astype(int)
    more = np.ceil(np.maximum(reach, 0) - 1e-6).astype(int) - start
    size = list(shape)
    size[first], size[second] = size[first] + int(more[0]), size[second] + int(more[1])
    moved = np.array(affine, dtype=np.float64)
    moved[:3, axis] = straight
    moved[:3, 3] += columns[:, [first, second]] @ start
    cosine = float(normal @ step / np.linalg.norm(step))
    return Shear(
        source_shape=(shape[0], shape[1], shape[2]),
        straight_shape=(size[0], size[1], size[2]),
        source_affine=np.array(affine, dtype=np.float64),
        straight_affine=moved,
        slice_axis=axis,
        in_plane=(first, second),
        drift=(float(drift[0]), float(drift[1])),
        start=(int(start[0]), int(start[1])),
        degrees=float(np.degrees(np.arccos(min(abs(cosine), 1.0)))),
    )


def _off_right_angle(columns: NDArray[np.float64]) -> NDArray[np.float64]:
    """(3,) degrees by which the two axes other than 0, 1 and 2 miss the right angle."""
    directions = columns / np.linalg.norm(columns, axis=0)
    pairs = ((1, 2), (0, 2), (0, 1))
    sines = [abs(float(directions[:, a] @ directions[:, b])) for a, b in pairs]
    return np.degrees(np.arcsin(np.minimum(sines, 1.0)))


def _slice_axis(columns: NDArray[np.float64], off: NDArray[np.float64], least_degrees: float) -> int:
    """The axis whose slices are box-shaped; of two candidates the last, or the one with thick slices."""
    candidates = [axis for axis in range(3) if off[axis] <= least_degrees]
    if not candidates:
        raise GeometryError(
            f"no two axes of the image are at right angles (they miss it by {off[2]:.2f}, {off[1]:.2f} and "
            f"{off[0]:.2f} degrees); this is no tilted stack of slices: resample it to a straight grid first"
        )
    lengths = np.linalg.norm(columns, axis=0)
    best = candidates[-1]
    for axis in candidates[:-1]:
        if lengths[axis] > _CLEARLY * lengths[best]:
            best = axis
    return best


def unstraighten_labels(label_map: NDArray[Any], shear: Shear) -> NDArray[Any]:
    """A label map on the straight grid, back on the sheared grid of the source, nearest voxel.

    Parameters
    ----------
    label_map : (*straight) integer or boolean array
    shear : Shear

    Returns
    -------
    (*source) array of the same type
    """
    _expect(label_map.shape, shear.straight_shape)
    result = np.zeros(shear.source_shape, dtype=label_map.dtype, order=_order(shear))
    return _shift_labels(label_map, result, shear, to_straight=False)


def straighten_labels(label_map: NDArray[Any], shear: Shear) -> NDArray[Any]:
    """A label map on the sheared grid, on the straight grid, nearest voxel, 0 where there was none.

    `unstraighten_labels` of the result is the same label map again.
    """
    _expect(label_map.shape, shear.source_shape)
    result = np.zeros(shear.straight_shape, dtype=label_map.dtype, order=_order(shear))
    return _shift_labels(label_map, result, shear, to_straight=True)


def _order(shear: Shear) -> Literal["C", "F"]:
    """Order in memory in which a slice is contiguous."""
    return "F" if shear.slice_axis == 2 else "C"


def _expect(found: tuple[int, ...], wanted: tuple[int, ...]) -> None:
    if tuple(found) != wanted:
        raise GeometryError(f"expected an array on the grid {wanted}, found {tuple(found)}")


def _shift_labels(
    source: NDArray[Any], result: NDArray[Any], shear: Shear, *, to_straight: bool
) -> NDArray[Any]:
    taken, given = np.moveaxis(source, shear.slice_axis, 0), np.moveaxis(result, shear.slice_axis, 0)
    # One rounding for both directions, so that going there and back moves nothing.
    whole = np.floor(shear.offsets() + 0.5).astype(int)
    for k, (i, j) in enumerate(whole):
        if to_straight:
            given[k, i : i + taken.shape[1], j : j + taken.shape[2]] = taken[k]
        else:
            given[k] = taken[k, i : i + given.shape[1], j : j + given.shape[2]]
    return result


def straighten_slices(channel: NDArray[Any], shear: Shear, *, outside: float) -> NDArray[np.float32]:
    """One channel on the straight grid, each slice shifted by linear interpolation within its plane.

    Parameters
    ----------
    channel : (*source) array
    shear : Shear
    outside : float
        Value where there was no voxel.

    Returns
    -------
    (*straight) float32 array
    """
    _expect(channel.shape, shear.source_shape)
    result = np.full(shear.straight_shape, outside, dtype=np.float32, order=_order(shear))
    _shift_linear(channel, result, -shear.offsets(), shear)
    return result


def unstraighten_slices(channel: NDArray[Any], shear: Shear, *, outside: float = 0.0) -> NDArray[np.float32]:
    """One channel of the straight grid, such as a probability, back on the sheared grid of the source.

    Parameters
    ----------
    channel : (*straight) array
    shear : Shear
    outside : float, optional
        Value where there was no voxel.

    Returns
    -------
    (*source) float32 array
    """
    _expect(channel.shape, shear.straight_shape)
    result = np.full(shear.source_shape, outside, dtype=np.float32, order=_order(shear))
    _shift_linear(channel, result, shear.offsets(), shear)
    return result


def _shift_linear(
    source: NDArray[Any], result: NDArray[np.float32], shifts: NDArray[np.float64], shear: Shear
) -> None:
    """Slice k of the result at voxel v is slice k of the source at v + shifts[k]."""
    taken, given = np.moveaxis(source, shear.slice_axis, 0), np.moveaxis(result, shear.slice_axis, 0)
    for k, (i, j) in enumerate(shifts):
        plane = taken[k].astype(np.float32)
        rows, (a, b) = _shift_axis(plane, float(i), given.shape[1])
        both, (c, d) = _shift_axis(rows.T, float(j), given.shape[2])
        given[k, a:b, c:d] = both.T


def _shift_axis(
    plane: NDArray[np.float32], shift: float, length: int
) -> tuple[NDArray[np.float32], tuple[int, int]]:
    """First axis interpolated at v + shift, for those v below `length` where there is a voxel."""
    count = plane.shape[0]
    first = max(0, int(np.ceil(-0.5 - shift)))
    stop = min(length, int(np.floor(count - 0.5 - shift)) + 1)
    lower = np.floor(np.arange(first, stop) + shift).astype(int)
    weight = np.float32(shift - np.floor(shift))
    below = plane[np.clip(lower, 0, count - 1)]
    if weight == 0:
        return below, (first, stop)
    above = plane[np.clip(lower + 1, 0, count - 1)]
    return below + weight * (above - below), (first, stop)
