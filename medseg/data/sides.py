"""Left and right by position: masks that only say "lung" told apart where the picture allows it."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from medseg.labels import LabelTable
from medseg.volume import Volume

MIN_SECOND_SHARE = 0.05
MIN_ON_ONE_SIDE = 0.9


def lateral_axis(volume: Volume) -> tuple[int, Literal[1, -1]]:
    """The voxel axis that runs between the patient's sides, and whether left is up (1) or down (-1).

    From the affine where there is one, otherwise from `patient_orientation`; a picture that says
    neither is taken to be on display like a chest film ("L", "F"): the first axis, left is up.
    """
    if volume.affine is not None:
        along_x = np.asarray(volume.affine)[0, : volume.spatial_dims]
        axis = int(np.abs(along_x).argmax())
        return axis, -1 if along_x[axis] > 0 else 1
    for axis, direction in enumerate(volume.patient_orientation or ()):
        if direction[:1] in ("L", "R"):
            return axis, 1 if direction[0] == "L" else -1
    return 0, 1


def sides_by_position(
    sets: NDArray[np.int16], *, table: LabelTable, axis: int = 0, left_is: Literal[1, -1] = 1
) -> NDArray[np.int16]:
    """Give the components of a two-sided set, such as {right lung, left lung}, their side.

    The midline lies halfway between the centroids of the two largest components. A component of
    which at least 90 % lies on one side of it gets that side; any other stays as it is, so that
    touching lungs, and a single lung, stay undecided instead of being guessed.

    Parameters
    ----------
    sets : (1, *spatial) int16 array
        Set indices of `table`.
    table : LabelTable
        Its labels say which side they are.
    axis : int, optional
        Spatial axis between the sides of the body, as `lateral_axis` finds it.
    left_is : 1 or -1, optional
        1 where the index grows towards the patient's left.

    Returns
    -------
    (1, *spatial) int16 array
        A copy; the input is not changed.
    """
    result = np.array(sets, dtype=np.int16, copy=True)
    for union, right, left in _two_sided_sets(table):
        mask = sets[0] == union
        if not mask.any():
            continue
        low, high = (right, left) if left_is == 1 else (left, right)
        _assign(result[0], mask, axis=axis, low=low, high=high)
    return result


def _two_sided_sets(table: LabelTable) -> list[tuple[int, int, int]]:
    """(set, right class, left class) of every set that holds one right and one left label, no more."""
    found = []
    side = {index: table.labels[index - 1].side for index in range(1, table.class_count)}
    for index, members in enumerate(table.sets):
        by_side = {side.get(member): member for member in members}
        if len(members) == 2 and set(by_side) == {"left", "right"}:
            found.append((index, by_side["right"], by_side["left"]))
    return found


def _assign(label: NDArray[np.int16], mask: NDArray[np.bool_], *, axis: int, low: int, high: int) -> None:
    components, count = ndimage.label(mask)
    if count < 2:
        return
    profile = _profiles(components, count, axis)
    sizes = profile.sum(axis=1)
    second, first = np.argsort(sizes, kind="stable")[-2:]
    if sizes[second] < MIN_SECOND_SHARE * sizes[first]:
        return
    positions = np.arange(profile.shape[1])
    centres = profile @ positions / sizes
    middle = 0.5 * (centres[first] + centres[second])
    below = profile[:, positions < middle].sum(axis=1) / sizes
    target = np.zeros(count + 1, dtype=np.int16)
    target[1:][below >= MIN_ON_ONE_SIDE] = low
    target[1:][below <= 1 - MIN_ON_ONE_SIDE] = high
    decided = target[components]
    label[decided > 0] = decided[decided > 0]


def _profiles(components: NDArray[Any], count: int, axis: int) -> NDArray[np.int64]:
    """(count, n) voxels of each component at each position along `axis`."""
    length = components.shape[axis]
    along = np.moveaxis(components, axis, 0).reshape(length, -1)
    keys = along.astype(np.int64) + (count + 1) * np.arange(length)[:, None]
    table = np.bincount(keys.ravel(), minlength=length * (count + 1)).reshape(length, count + 1)
    return np.ascontiguousarray(table[:, 1:].T)
