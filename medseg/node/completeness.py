"""Whether a series has all its slices, as far as their positions tell."""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from medseg.io.dicom_header import DicomHeader

_GAP = 1.5
"""A step of so many usual steps has a slice missing in it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SliceGeometry:
    """How the slices of a series lie.

    Parameters
    ----------
    slices : int
        Instances, or frames of a multi-frame one.
    spacing_mm : float or None
        Usual step between neighbours; None where positions do not tell.
    gap : str
        Sentence about missing slices; "" where none is missed.
    """

    slices: int
    spacing_mm: float | None = None
    gap: str = ""


def slice_geometry(headers: Iterable[DicomHeader]) -> SliceGeometry:
    """Geometry of the instances of a series.

    Slices of one place, such as those of several phases, count once; series whose slices do not share an
    orientation tell nothing about gaps.
    """
    count, places, orientations = 0, [], []
    for header in headers:
        frames = header.numbers("NumberOfFrames")
        count += int(frames[0]) if frames and frames[0] >= 1 else 1
        position, orientation = (
            header.numbers("ImagePositionPatient"),
            header.numbers("ImageOrientationPatient"),
        )
        if (
            len(position) == 3
            and len(orientation) == 6
            and all(map(math.isfinite, (*position, *orientation)))
        ):
            places.append(position)
            orientations.append(orientation)
    if len(places) != count or count < 3 or not _parallel(orientations):
        return SliceGeometry(slices=count)
    return _geometry(count, places, orientations[0])


def _geometry(count: int, places: Sequence[Sequence[float]], orientation: Sequence[float]) -> SliceGeometry:
    row, column = orientation[:3], orientation[3:]
    normal = _cross(row, column)
    heights = sorted({round(sum(a * b for a, b in zip(normal, place, strict=True)), 3) for place in places})
    steps = [after - before for before, after in itertools.pairwise(heights)]
    if len(steps) < 2:
        return SliceGeometry(slices=count)
    usual = statistics.median(steps)
    missing = [
        (round(step / usual) - 1, heights[index] + usual)
        for index, step in enumerate(steps)
        if step > _GAP * usual
    ]
    lacking = sum(number for number, _ in missing)
    gap = ""
    if lacking:
        # z where the slices are stacked along the body, else the distance along their normal.
        name = "z" if abs(normal[2]) > 0.9 else "the slice axis"
        at = missing[0][1] * (math.copysign(1, normal[2]) if name == "z" else 1)
        gap = f"{len(heights)} of {len(heights) + lacking} slices by geometry; missing near {name} = {at:.0f} mm"
    return SliceGeometry(slices=count, spacing_mm=usual, gap=gap)


def _parallel(orientations: Sequence[Sequence[float]]) -> bool:
    first = orientations[0]
    return all(abs(a - b) < 1e-3 for other in orientations for a, b in zip(first, other, strict=True))


def _cross(a: Sequence[float], b: Sequence[float]) -> tuple[float, float, float]:
    return (a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0])
