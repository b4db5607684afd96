"""A mask as its source writes it -> set indices of the task, on the grid of the file."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from medseg.data.sides import lateral_axis, sides_by_position
from medseg.labels import LabelTable
from medseg.volume import Volume


def encode_mask(
    mask: NDArray[Any], *, scheme: str | None, like: Volume, table: LabelTable
) -> NDArray[np.int16]:
    """Set indices of a mask, with everything applied that its scheme says.

    Parameters
    ----------
    mask : (1, *spatial) array
        Whole numbers, on the grid of `like`.
    scheme : str or None
        Entry of ``table.schemes``; None: the mask uses the values of the table.
    like : Volume
        The image, for its orientation.
    table : LabelTable

    Returns
    -------
    (1, *spatial) int16 array

    Raises
    ------
    LabelError
        A value that neither table nor scheme names.
    """
    sets = table.encode(mask, scheme)
    if scheme is None:
        return sets
    rules = table.schemes[scheme]
    axis, left_is = lateral_axis(like)
    if rules.sides_by_position:
        sets = sides_by_position(sets, table=table, axis=axis, left_is=left_is)
    for name, share in rules.medial_open.items():
        sets = open_medial(sets, name=name, share=share, table=table, axis=axis, left_is=left_is)
    return sets


def open_medial(
    sets: NDArray[np.int16], *, name: str, share: float, table: LabelTable, axis: int, left_is: int
) -> NDArray[np.int16]:
    """Let the voxels of a lateral label that lie next to the midline be background as well.

    Parameters
    ----------
    sets : (1, *spatial) int16 array
        Set indices of `table`.
    name : str
        A label with a side.
    share : float
        Part of the label's extent along `axis`, from its medial end, 0..1.
    axis : int
        Spatial axis between the sides of the body.
    left_is : 1 or -1
        1 where the index grows towards the patient's left.

    Returns
    -------
    (1, *spatial) int16 array
        A copy; other voxels are as they were.
    """
    result = np.array(sets, dtype=np.int16, copy=True)
    label = table.class_index(name)
    mask = result[0] == label
    places = np.flatnonzero(mask.any(axis=tuple(a for a in range(mask.ndim) if a != axis)))
    if places.size == 0:
        return result
    low, high = int(places[0]), int(places[-1])
    # The medial end of a left structure lies at low indices where indices grow towards the left.
    medial_is_low = (table.labels[label - 1].side == "left") == (left_is == 1)
    positions = np.arange(mask.shape[axis])
    away = (positions - low) if medial_is_low else (high - positions)
    near = away < share * (high - low + 1)
    shape = [1] * mask.ndim
    shape[axis] = -1
    result[0][mask & near.reshape(shape)] = table.sets.index(frozenset({0, label}))
    return result
