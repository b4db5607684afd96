"""An array seen in one order of axes, whatever order its file has: RAS for volumes, left and foot for pictures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medseg.geometry import axis_codes

TARGETS = {2: ("L", "I"), 3: ("R", "A", "S")}
"""Directions in which the axes grow, by their number; a chest film on display grows towards left and foot."""

_OPPOSITE = {"L": "R", "R": "L", "A": "P", "P": "A", "S": "I", "I": "S"}
_HEAD_AND_FOOT = {"H": "S", "F": "I"}


def directions_of(
    *,
    spatial_dims: int,
    patient_orientation: tuple[str, str] | None = None,
    affine: NDArray[np.float64] | None = None,
) -> tuple[str, ...] | None:
    """Direction of the patient, one of L R A P S I, in which each axis grows; None where unknown.

    Parameters
    ----------
    spatial_dims : int
    patient_orientation, affine
        As in `Volume`.
    """
    if patient_orientation is not None and spatial_dims == 2:
        letters = tuple(_HEAD_AND_FOOT.get(text[:1], text[:1]) for text in patient_orientation)
        return letters if all(letter in _OPPOSITE for letter in letters) else None
    if affine is None:
        return None
    return tuple(axis_codes(np.asarray(affine, dtype=np.float64)))[:spatial_dims]


def axis_order(directions: Sequence[str] | None, spatial_dims: int) -> tuple[tuple[int, bool], ...] | None:
    """For each canonical axis the axis of the array and whether it is flipped; None where a direction is not there.

    Parameters
    ----------
    directions : sequence of str, or None
        From `directions_of`; None: taken as canonical already.
    spatial_dims : int
    """
    if directions is None:
        return tuple((axis, False) for axis in range(spatial_dims))
    order = []
    for target in TARGETS[spatial_dims]:
        found = [axis for axis, letter in enumerate(directions) if letter in (target, _OPPOSITE[target])]
        if len(found) != 1:
            return None
        order.append((found[0], directions[found[0]] != target))
    return tuple(order)


def canonical(array: NDArray[Any], order: Sequence[tuple[int, bool]] | None) -> NDArray[Any]:
    """A view of (..., I, J) or (..., I, J, K) with its last axes in canonical order; no voxel is copied.

    Parameters
    ----------
    array : (..., *sp) array
    order : sequence of (int, bool), or None
        From `axis_order`; None leaves the array as it is.
    """
    if order is None:
        return array
    leading = array.ndim - len(order)
    turned = array.transpose((*range(leading), *(leading + axis for axis, _ in order)))
    flips = tuple(slice(None, None, -1) if flipped else slice(None) for _, flipped in order)
    return turned[(..., *flips)]
