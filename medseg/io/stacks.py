"""Slices of one series -> stacks whose slices lie evenly on one line, or the reason why they do not.

Order comes from positions projected on the slice normal, never from names or instance numbers. What
one series mixes (orientations, sizes, echoes, b-values, time points) is taken apart; what no even grid
can represent (a gap, a change of spacing, a slice out of line) is told with the slice and the number.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import takewhile

import numpy as np
from numpy.typing import NDArray

from medseg.errors import GeometryError
from medseg.geometry import affine_from_slices, tilt_degrees
from medseg.io.dicom_slice import PARTS, SliceHeader, part_value

SAME_PLACE_MM = 0.01
"""Images whose positions differ by less lie at one place."""

_TOLERANCE_MM, _TOLERANCE_SHARE = 0.01, 0.01
_SAME_DIRECTION = 1e-4
_ORTHOGONAL = 1e-3
_SMALLEST_MM, _LARGEST_MM = 1e-4, 100.0
_BY_RANK = ("time point", "trigger time", "frame time", "acquisition time", "content time", "instance number")
_NOTED_TILT_DEGREES = 0.01

SamePixels = Callable[[SliceHeader, SliceHeader], bool]


@dataclass(frozen=True, slots=True, kw_only=True)
class Stack:
    """Slices that belong together.

    Parameters
    ----------
    slices : tuple of SliceHeader
        By ascending position along the normal (row cosines x column cosines).
    affine : (4, 4) float64 array or None
        Voxel (column, row, slice) to RAS+ mm; None where there is no place or a problem with it.
        Of a single slice the third column is the normal by its thickness, 1 mm where that is unknown.
    part : str
        What tells this stack from others of its series, such as "b-value 400"; "" where it is the only one.
    problems : tuple of str
        Why it cannot be read as one image; empty where it can.
    notes : tuple of str
        What a reader of the result must know.
    """

    slices: tuple[SliceHeader, ...]
    affine: NDArray[np.float64] | None
    part: str = ""
    problems: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def tilt_degrees(self) -> float:
        """Angle between the line of the slices and their normal; 0 without an affine."""
        return 0.0 if self.affine is None else tilt_degrees(self.affine)


def build_stacks(slices: Sequence[SliceHeader], *, same_pixels: SamePixels) -> tuple[Stack, ...]:
    """Take one series apart into stacks.

    Parameters
    ----------
    slices : sequence of SliceHeader
        Of one series, in any order.
    same_pixels : callable
        Whether two images have equal values; asked only of images that claim to be one, or lie at
        one place with nothing to tell them apart.

    Returns
    -------
    tuple of Stack
        In order of orientation as met, then of `part`.
    """
    kept, problems, notes = _without_copies(sorted(slices, key=_by_file), same_pixels)
    groups = _alike(kept)
    stacks = [stack for group in groups for stack in _split(group, same_pixels)]
    if len(groups) > 1:
        stacks = [replace(stack, part=_joined(_shape_of(stack), stack.part)) for stack in stacks]
    return tuple(
        replace(stack, problems=(*problems, *stack.problems), notes=(*notes, *stack.notes))
        for stack in stacks
    )


def _by_file(header: SliceHeader) -> tuple[str, int]:
    return str(header.path), header.frame


def _joined(*texts: str) -> str:
    return ", ".join(text for text in texts if text)


def _without_copies(
    slices: Iterable[SliceHeader], same_pixels: SamePixels
) -> tuple[list[SliceHeader], tuple[str, ...], tuple[str, ...]]:
    """The first file of each instance; problems and notes about the others."""
    first: dict[tuple[str, int], SliceHeader] = {}
    kept, problems, copies = [], [], 0
    for header in slices:
        key = (header.sop_instance_uid, header.frame)
        known = first.setdefault(key, header) if header.sop_instance_uid else header
        if known is header:
            kept.append(header)
        elif _same_place(known, header) and same_pixels(known, header):
            copies += 1
        else:
            problems.append(
                f"{header.place} and {known.place} have one SOP Instance UID but are different images; "
                "remove the wrong one"
            )
    notes = (f"{copies} files are copies of others and were left out",) if copies else ()
    return kept, tuple(problems), notes


def _same_place(one: SliceHeader, other: SliceHeader) -> bool:
    if one.position_lps is None or other.position_lps is None:
        return one.position_lps == other.position_lps
    return math.dist(one.position_lps, other.position_lps) <= SAME_PLACE_MM


def _alike(slices: Sequence[SliceHeader]) -> list[list[SliceHeader]]:
    """Groups that could be one stack: one size, kind, direction and pixel spacing."""
    groups: list[list[SliceHeader]] = []
    # Slices whose size nobody can read come last: they belong to the stack that has a hole without them.
    for header in sorted(slices, key=lambda header: header.form is None):
        home = next((group for group in groups if _fits(group[0], header)), None)
        if home is None:
            groups.append([header])
        else:
            home.append(header)
    return groups


def _fits(one: SliceHeader, other: SliceHeader) -> bool:
    return (
        (_size(one) == _size(other) or other.form is None)
        and one.is_localizer == other.is_localizer
        and one.frame_of_reference_uid == other.frame_of_reference_uid
        and _close(one.orientation_lps, other.orientation_lps, _SAME_DIRECTION)
        and _close(one.pixel_spacing_mm, other.pixel_spacing_mm, _SAME_DIRECTION * 10)
        and (one.position_lps is None) == (other.position_lps is None)
    )


def _size(header: SliceHeader) -> tuple[int, ...]:
    return () if header.form is None else (header.form.rows, header.form.columns, header.form.samples)


def _close(one: tuple[float, ...] | None, other: tuple[float, ...] | None, tolerance: float) -> bool:
    if one is None or other is None:
        return one is other
    return max(abs(a - b) for a, b in zip(one, other, strict=True)) <= tolerance


def _shape_of(stack: Stack) -> str:
    """What may tell a stack from another of the series that has other directions or another size."""
    header = stack.slices[0]
    size = f"{header.form.columns} x {header.form.rows}" if header.form else "unreadable"
    return f"{plane_of(header)} {size}".strip()


def plane_of(header: SliceHeader) -> str:
    """axial, sagittal or coronal, with "oblique" where more than 10 degrees off; "" where unknown."""
    if header.orientation_lps is None:
        return ""
    normal = np.abs(_normal(header))
    name = ("sagittal", "coronal", "axial")[int(normal.argmax())]
    return name if normal.max() > math.cos(math.radians(10)) else f"oblique {name}"


def _normal(header: SliceHeader) -> NDArray[np.float64]:
    cosines = np.asarray(header.orientation_lps, dtype=np.float64)
    return np.cross(cosines[:3], cosines[3:])


def _split(group: list[SliceHeader], same_pixels: SamePixels) -> list[Stack]:
    """Stacks of one group: a stack for each image that is there at every place."""
    unplaced = _placement_problem(group[0])
    if unplaced:
        return [Stack(slices=tuple(group), affine=None, problems=(unplaced,))]
    places = _places(group)
    twice = max(map(len, places))
    if twice == 1:
        return [_stacked([place[0] for place in places])]
    parts = _parts(places)
    if parts is None:
        places, dropped = _without_twins(places, same_pixels)
        if max(map(len, places)) == 1:
            note = f"{dropped} slices are there twice with equal pixels; one of each was used"
            stack = _stacked([place[0] for place in places])
            return [replace(stack, notes=(*stack.notes, note))]
        return [Stack(slices=tuple(group), affine=None, problems=(_crowded(places),))]
    return [replace(_stacked(slices), part=label) for label, slices in parts]


def _placement_problem(header: SliceHeader) -> str:
    """Why slices cannot be placed in the patient; "" where they can."""
    if header.position_lps is None or header.orientation_lps is None:
        missing = "ImagePositionPatient" if header.position_lps is None else "ImageOrientationPatient"
        return header.problem or f"the slices have no usable {missing}, so nothing says where they lie"
    cosines = np.asarray(header.orientation_lps)
    along_row, along_column = cosines[:3], cosines[3:]
    errors = (np.linalg.norm(along_row) - 1, np.linalg.norm(along_column) - 1, along_row @ along_column)
    if np.max(np.abs(errors)) > _ORTHOGONAL:
        return (
            "ImageOrientationPatient does not hold two unit vectors at a right angle; the header is damaged"
        )
    spacing = header.pixel_spacing_mm
    if spacing is None or not all(_SMALLEST_MM <= v <= _LARGEST_MM for v in spacing):
        return f"PixelSpacing is not two lengths between {_SMALLEST_MM:g} and {_LARGEST_MM:g} mm"
    return ""


def _places(group: list[SliceHeader]) -> list[list[SliceHeader]]:
    """Images by place, by ascending position along the normal."""
    normal = _normal(group[0])
    positions = np.array([header.position_lps for header in group], dtype=np.float64)
    along = positions @ normal
    places: list[list[int]] = []
    for n in np.argsort(along, kind="stable").tolist():
        lowest = along[n] - SAME_PLACE_MM
        near = takewhile(partial(_at_or_above, along, lowest), reversed(places))
        home = next((p for p in near if math.dist(positions[n], positions[p[0]]) <= SAME_PLACE_MM), None)
        if home is None:
            places.append([n])
        else:
            home.append(n)
    return [[group[n] for n in place] for place in places]


def _at_or_above(along: NDArray[np.float64], lowest: float, place: list[int]) -> bool:
    return bool(along[place[0]] >= lowest)


def _parts(places: list[list[SliceHeader]]) -> list[tuple[str, list[SliceHeader]]] | None:
    """(label, one image at each place) for every image that is there everywhere; None where none is."""
    if max(map(len, places)) == 1:
        return [("", [place[0] for place in places])]
    for name in PARTS:
        parts = _parts_by_value(places, name)
        if parts is not None:
            return parts
    return _parts_by_rank(places)


def _parts_by_value(places: list[list[SliceHeader]], name: str) -> list[tuple[str, list[SliceHeader]]] | None:
    """Split by the value of one attribute, where every value is there at every place."""
    values = sorted({_value(header, name) for place in places for header in place}, key=_sortable)
    if len(values) < 2:
        return None
    found: list[tuple[str, list[SliceHeader]]] = []
    for value in values:
        chosen = [[header for header in place if _value(header, name) == value] for place in places]
        inner = None if not all(chosen) else _parts(chosen)
        if inner is None:
            return None
        label = f"{name} {_shown(value)}"
        found += [(_joined(label, deeper), slices) for deeper, slices in inner]
    return found


def _parts_by_rank(places: list[list[SliceHeader]]) -> list[tuple[str, list[SliceHeader]]] | None:
    """Split by the order in time at each place, where every place has as many images, all at other times."""
    count = len(places[0])
    if any(len(place) != count for place in places):
        return None
    for name in _BY_RANK:
        if all(len({_value(header, name) for header in place} - {()}) == count for place in places):
            ordered = [sorted(place, key=lambda header: _sortable(_value(header, name))) for place in places]
            return [(f"number {n + 1} by {name}", [place[n] for place in ordered]) for n in range(count)]
    return None


def _value(header: SliceHeader, name: str) -> tuple[tuple[float, ...] | str, ...]:
    return part_value(header.parts[name]) if name in header.parts else ()


def _sortable(value: tuple[tuple[float, ...] | str, ...]) -> tuple[bool, tuple[float, ...], str]:
    """Numbers before text; text by the numbers in it, so that b50 comes before b400."""
    numbers = next((v for v in value if isinstance(v, tuple)), None)
    if numbers is not None:
        return False, numbers, ""
    text = next((v for v in value if isinstance(v, str)), "")
    return True, tuple(float(n) for n in re.findall(r"\d{1,15}", text)), text


def _shown(value: tuple[tuple[float, ...] | str, ...]) -> str:
    if not value:
        return "not given"
    first = value[0]
    return first if isinstance(first, str) else " ".join(f"{v:g}" for v in first)


def _without_twins(
    places: list[list[SliceHeader]], same_pixels: SamePixels
) -> tuple[list[list[SliceHeader]], int]:
    """At each place the images that differ, and how many were left out."""
    kept, dropped = [], 0
    for place in places:
        different: list[SliceHeader] = []
        for header in place:
            if not any(same_pixels(header, other) for other in different):
                different.append(header)
        dropped += len(place) - len(different)
        kept.append(different)
    return kept, dropped


def _crowded(places: list[list[SliceHeader]]) -> str:
    """Which places hold several images that nothing in the headers tells apart."""
    crowded = [place for place in places if len(place) > 1]
    names = " and ".join(header.place for header in crowded[0][:2])
    more = f", and {len(crowded) - 1} more places" if len(crowded) > 1 else ""
    return (
        f"{len(crowded[0])} different images lie at one place ({names}{more}), and nothing that all slices "
        "have tells them apart; remove what does not belong to the series"
    )


def _stacked(slices: list[SliceHeader]) -> Stack:
    """One stack of slices in order, with its affine or what is wrong with their places."""
    broken = next((header for header in slices if header.problem), None)
    problems = [] if broken is None else [f"{broken.place}: {broken.problem}"]
    if len(slices) == 1:
        affine, notes = _single(slices[0])
        return Stack(slices=tuple(slices), affine=affine, problems=tuple(problems), notes=notes)
    positions = np.array([header.position_lps for header in slices], dtype=np.float64)
    steps = np.diff(positions @ _normal(slices[0]))
    step = float(np.median(steps))
    tolerance = max(_TOLERANCE_MM, _TOLERANCE_SHARE * step)
    uneven = _uneven(slices, steps, step, tolerance)
    if uneven:
        return Stack(slices=tuple(slices), affine=None, problems=(*problems, uneven))
    try:
        affine = affine_from_slices(
            positions,
            np.asarray(slices[0].orientation_lps),
            slices[0].pixel_spacing_mm or (math.nan, math.nan),
            tolerance_mm=tolerance,
        )
    except GeometryError as err:
        return Stack(
            slices=tuple(slices), affine=None, problems=(*problems, f"{err} [{slices[0].place} ...]")
        )
    tilt = tilt_degrees(affine)
    notes = (f"the gantry was tilted by {tilt:.2f} degrees",) if tilt > _NOTED_TILT_DEGREES else ()
    return Stack(slices=tuple(slices), affine=affine, problems=tuple(problems), notes=notes)


def _single(header: SliceHeader) -> tuple[NDArray[np.float64], tuple[str, ...]]:
    """Affine of one slice: the third axis is its thickness, which is no spacing."""
    depth = header.thickness_mm if header.thickness_mm and header.thickness_mm > 0 else None
    step = _normal(header) * (depth or 1.0)
    start = np.asarray(header.position_lps, dtype=np.float64)
    affine = affine_from_slices(
        np.stack([start, start + step]),
        np.asarray(header.orientation_lps),
        header.pixel_spacing_mm or (math.nan, math.nan),
    )
    note = "one slice of unknown thickness; its affine says 1 mm along the normal"
    return affine, () if depth else (note,)


def _uneven(slices: list[SliceHeader], steps: NDArray[np.float64], step: float, tolerance: float) -> str:
    """The first gap or change of spacing in words; "" where the steps are even."""
    wrong = np.flatnonzero(np.abs(steps - step) > tolerance)
    if not wrong.size:
        return ""
    worst = int(wrong[np.abs(steps[wrong] - step).argmax()])
    gap, times = float(steps[worst]), float(steps[worst]) / step if step > 0 else math.inf
    where = (
        f"between slices {worst + 1} and {worst + 2} of {len(slices)} ({slices[worst].place} and "
        f"{slices[worst + 1].place})"
    )
    whole = round(times) if math.isfinite(times) else 0
    regular = np.abs(steps / step - np.rint(steps / step)) * step <= 2 * tolerance if step > 0 else steps < 0
    if whole >= 2 and bool(regular.all()) and bool((np.rint(steps / step) >= 1).all()):
        lost = int(np.rint(steps / step).sum()) - len(steps)
        noun = "slice is" if lost == 1 else "slices are"
        return (
            f"{lost} {noun} missing: {gap:.3f} mm {where}, {step:.3f} mm elsewhere "
            f"(tolerance {tolerance:g} mm); complete the series"
        )
    return (
        f"the slices are not evenly spaced: {gap:.3f} mm {where}, {step:.3f} mm as a rule "
        f"(smallest {steps.min():.3f}, largest {steps.max():.3f}, tolerance {tolerance:g} mm); "
        "export a part with one spacing"
    )
