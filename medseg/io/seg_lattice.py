"""Planes of frames -> the evenly spaced stack they are part of, or the frame that does not belong to one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medseg.errors import GeometryError

TOLERANCE_MM = 0.01
_MOST_PARTS = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Stack:
    """Where planes stand in a stack.

    Parameters
    ----------
    origin, step : (3,) float array
        First voxel of the first slice, and the way to the next one; mm in the frame of the positions.
    index : (P,) int array
        Slice of each plane, from 0.
    """

    origin: NDArray[np.float64]
    step: NDArray[np.float64]
    index: NDArray[np.int64]

    @property
    def slices(self) -> int:
        """Slices from the first to the last plane."""
        return int(self.index.max()) + 1


class OffLattice(GeometryError):
    """A plane that is not on the lattice of the others; `plane` is its index."""

    def __init__(self, plane: int, text: str) -> None:
        super().__init__(text)
        self.plane = plane


def stack_of(
    positions: NDArray[np.float64],
    normal: NDArray[np.float64],
    *,
    known_steps: Sequence[NDArray[np.float64]] = (),
    spacing_mm: float | None = None,
    depth_mm: float = 1.0,
) -> Stack:
    """The stack with the widest step on which all planes lie.

    Planes may be missing, so the step is not always the smallest gap: a step that is known is tried
    first, then the stated spacing, the smallest gap and its parts. Where more than half of the gaps are
    alike, planes at other places are not taken for a finer stack, but refused.

    Parameters
    ----------
    positions : (P, 3) float array
        First voxel of each plane, mm; repeated ones may differ by rounding.
    normal : (3,) float array
        Unit normal of the planes. Slices are counted along it, unless a known step runs against it.
    known_steps : sequence of (3,) float array
        Of images that the planes may belong to.
    spacing_mm : float, optional
        Distance of slices along the normal, as a header states it.
    depth_mm : float
        Step of a single plane.

    Raises
    ------
    OffLattice
        A plane beside the line of the others, or between two slices.
    """
    for step in known_steps:
        found = _on_known(positions, step)
        if found is not None:
            return found
    order = np.argsort(positions @ normal, kind="stable")
    line, along = _line(positions, order, normal)
    groups = np.concatenate([[0], np.cumsum(np.diff(along[order]) > TOLERANCE_MM)])
    place = np.empty(len(order), dtype=np.int64)
    place[order] = groups
    marks = np.array([along[place == n].mean() for n in range(groups[-1] + 1)])
    if len(marks) == 1:
        return Stack(origin=positions[order[0]], step=normal * depth_mm, index=place)
    counts = _slice_numbers(marks, place, None if spacing_mm is None else spacing_mm / float(line @ normal))
    step = line * (marks[-1] - marks[0]) / counts[-1]
    return Stack(origin=positions[order[0]], step=step, index=counts[place])


def _on_known(positions: NDArray[np.float64], step: NDArray[np.float64]) -> Stack | None:
    offsets = positions - positions[0]
    index = np.rint(offsets @ step / (step @ step))
    if np.linalg.norm(offsets - np.outer(index, step), axis=1).max() > TOLERANCE_MM:
        return None
    first = float(index.min())
    return Stack(origin=positions[0] + first * step, step=step, index=(index - first).astype(np.int64))


def _line(
    positions: NDArray[np.float64], order: NDArray[np.int64], normal: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Direction of the stack, and the place of each plane along it; planes beside it are refused."""
    offsets = positions - positions[order[0]]
    whole = offsets[order[-1]]
    line = normal if float(whole @ normal) <= TOLERANCE_MM else whole / np.linalg.norm(whole)
    along = np.asarray(offsets @ line, dtype=np.float64)
    beside = np.linalg.norm(offsets - np.outer(along, line), axis=1)
    # Two planes define a line; of more, the one that most are not in line with is looked for.
    if beside.max() > TOLERANCE_MM:
        worst = int(beside.argmax())
        raise OffLattice(worst, f"lies {beside[worst]:.3f} mm beside the line of the other planes")
    return line, along


def _slice_numbers(
    marks: NDArray[np.float64], place: NDArray[np.int64], stated: float | None
) -> NDArray[np.int64]:
    """Slice number of each distinct place along the stack."""
    gaps = np.diff(marks)
    smallest = float(gaps.min())
    usual = float(np.median(gaps[np.abs(gaps - np.median(gaps)) <= TOLERANCE_MM]))
    regular = bool((np.abs(gaps - usual) <= TOLERANCE_MM).sum() * 2 > len(gaps)) and len(gaps) > 2
    candidates = [] if stated is None or stated <= TOLERANCE_MM else [stated]
    candidates += [usual] if regular else [smallest / parts for parts in range(1, _MOST_PARTS + 1)]
    for step in candidates:
        numbers = np.concatenate([[0], np.cumsum(np.rint(gaps / step))]).astype(np.int64)
        if np.diff(numbers).min() < 1:
            continue
        even = marks[0] + numbers * (marks[-1] - marks[0]) / numbers[-1]
        if np.abs(marks - even).max() <= TOLERANCE_MM:
            return numbers
    phase = (marks - marks[0] + usual / 2) % usual
    odd = int(np.abs(phase - np.median(phase)).argmax())
    off = abs(float(phase[odd] - np.median(phase)))
    plane = int(np.flatnonzero(place == odd)[0])
    raise OffLattice(
        plane, f"lies {min(off, usual - off):.3f} mm off the even steps of {usual:.3f} mm of the other planes"
    )
