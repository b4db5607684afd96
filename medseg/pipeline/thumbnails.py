"""Small pictures of the worst cases for the cohort page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from medseg.export.display import axis_directions, window_of
from medseg.export.picture import display_gray
from medseg.report.case import draw_picture
from medseg.report.cohort_series import lowest
from medseg.report.page import VERDICTS, CaseReport, Picture
from medseg.report.planes import largest_section
from medseg.volume import Volume

SIDE = 200
_MAGNIFY = 6
Masks = Mapping[str, NDArray[np.bool_]]


def focus_of(case: CaseReport) -> str:
    """Structure that a thumbnail should show: that of the worst flag, or the one with the lowest Dice; "" for all."""
    flags = sorted(case.record["flags"], key=lambda flag: VERDICTS.index(flag["level"]))
    named = next((str(flag["structure"]) for flag in flags if flag["structure"]), "")
    least = lowest(case)
    return named or ("" if least is None else least[0])


def draw_thumbnail(
    volume: Volume, *, predicted: Masks, reference: Masks, focus: str = "", side: int = SIDE
) -> Picture:
    """One small picture of a case with its contours.

    Parameters
    ----------
    volume : Volume
        A picture, or a volume, of which the axial slice (the last axis where directions are not known) with the
        largest section of `focus` is shown.
    predicted, reference : mapping of str to bool array on the grid of the volume
    focus : str
        Structure; all together where it is in neither mask.
    side : int
        Longer side, pixels.
    """
    if volume.spatial_dims == 2:
        return draw_picture(
            display_gray(volume),
            predicted=predicted,
            reference=reference,
            spacing_mm=volume.spacing_mm,
            orientation=volume.patient_orientation,
            max_side=side,
        )
    directions = None if volume.affine is None else axis_directions(volume.affine)
    axis = axial_axis(directions)
    index = largest_section(_focused(predicted, reference, focus), axis, volume.spatial_shape[axis])
    rest = [a for a in range(3) if a != axis]
    plane = volume.array.take(index, axis + 1).mean(axis=0, dtype=np.float32)
    return draw_picture(
        window_of(volume).gray(plane),
        predicted=_plane(predicted, index, axis),
        reference=_plane(reference, index, axis),
        spacing_mm=None if volume.spacing_mm is None else [volume.spacing_mm[a] for a in rest],
        orientation=None if directions is None else [directions[a] for a in rest],
        max_side=side,
        magnify=_MAGNIFY,
    )


def _plane(masks: Masks, index: int, axis: int) -> dict[str, NDArray[np.bool_]]:
    return {name: np.asarray(np.moveaxis(mask, axis, 0)[index]) for name, mask in masks.items()}


def axial_axis(directions: Sequence[str] | None) -> int:
    """Axis that runs along the body; the last one where that is not known."""
    found = [a for a, name in enumerate(directions or ()) if name[:1] in ("H", "F")]
    return found[0] if found else 2


def _focused(predicted: Masks, reference: Masks, focus: str) -> Masks:
    """Masks that choose the slice: those of the focus where it has any voxel, else all."""
    for masks in (predicted, reference):
        if focus in masks and masks[focus].any():
            return {focus: masks[focus]}
    return predicted if any(mask.any() for mask in predicted.values()) else reference
