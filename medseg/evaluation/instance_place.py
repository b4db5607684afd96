"""Where an instance lies, in words of the patient: side, third of the image, nearest other label."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from medseg.evaluation.instance_map import Box
from medseg.labels import LabelTable

Side = Literal["left", "right", "midline"]
Third = Literal["cranial", "middle", "caudal"]
SideOf = Literal["label", "body", "image"]
_SIDE_WORDS = {"left": "left half of the image", "right": "right half of the image"}
_NEAR_MIDLINE_MM = 5.0
# Of its own width: an instance whose centre is nearer to the midline lies across it.
_ACROSS = 0.25


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where an instance lies, in words; what is not known is None.

    Parameters
    ----------
    side : {"left", "right", "midline"} or None
        Of the patient.
    side_of : {"label", "body", "image"} or None
        How the side is known: the label has one; the midline is half-way between labels of both sides; or it
        is no more than the half of the image, which need not be centred on the patient.
    third : {"cranial", "middle", "caudal"} or None
        Of the image along the patient's head-foot axis.
    nearest : str or None
        Label whose voxels come nearest to the centre.
    nearest_mm : float or None
        Their distance, 0 where the centre lies in it.
    """

    side: Side | None = None
    side_of: SideOf | None = None
    third: Third | None = None
    nearest: str | None = None
    nearest_mm: float | None = None

    @property
    def text(self) -> str:
        """In words, "" where nothing is known."""
        words = []
        if self.side is not None:
            of_image = _SIDE_WORDS.get(self.side, "middle of the image from side to side")
            words.append(of_image if self.side_of == "image" else self.side)
        if self.third is not None:
            words.append(f"{self.third} third of the image")
        if self.nearest is not None and self.nearest_mm is not None:
            words.append(f"nearest to {self.nearest.replace('_', ' ')} ({self.nearest_mm:.1f} mm)")
        return ", ".join(words)


@dataclass(frozen=True, slots=True, kw_only=True)
class Direction:
    """A coordinate of the patient as a linear function of the voxel index."""

    steps: NDArray[np.float64]
    offset: float

    def at(self, index: Sequence[float]) -> float:
        """The coordinate of a voxel index."""
        return float(self.steps @ np.asarray(index, dtype=np.float64)) + self.offset

    def width(self, lengths: Sequence[int]) -> float:
        """How far a box of so many voxels reaches along it."""
        return float(np.abs(self.steps) @ np.asarray(lengths, dtype=np.float64))


@dataclass(frozen=True, slots=True, kw_only=True)
class PatientFrame:
    """Where right and head are, as far as the file tells.

    Parameters
    ----------
    right, head : Direction or None
        Coordinates that grow towards the patient's right and head, in mm, or in pixels where the spacing is
        unknown; None where the image does not run that way or the file does not say.
    in_mm : bool
    """

    right: Direction | None
    head: Direction | None
    in_mm: bool


def patient_frame(
    *,
    shape: Sequence[int],
    affine: NDArray[np.float64] | None,
    patient_orientation: tuple[str, str] | None,
    spacing_mm: Sequence[float] | None,
) -> PatientFrame:
    """The frame of an image, from its affine or else from the directions that a film's header gives.

    A picture whose file says neither has no frame: nothing is taken from how it is usually displayed.
    """
    if affine is not None:
        return PatientFrame(right=_along(affine, 0, shape), head=_along(affine, 2, shape), in_mm=True)
    letters = patient_orientation or ("", "")
    scale = (1.0,) * len(shape) if spacing_mm is None else tuple(spacing_mm)
    return PatientFrame(
        right=_by_letters(letters, "R", "L", scale),
        head=_by_letters(letters, "H", "F", scale),
        in_mm=spacing_mm is not None,
    )


def _along(affine: NDArray[np.float64], row: int, shape: Sequence[int]) -> Direction | None:
    """A world axis as a direction, where an axis of the image runs along it at less than 60 degrees."""
    columns = np.asarray(affine, dtype=np.float64)[:3, : len(shape)]
    cosines = np.abs(columns[row]) / np.linalg.norm(columns, axis=0)
    if not any(cosine > 0.5 and size > 1 for cosine, size in zip(cosines, shape, strict=True)):
        return None
    return Direction(steps=columns[row], offset=float(affine[row, 3]))


def _by_letters(
    letters: tuple[str, str], towards: str, away: str, scale: Sequence[float]
) -> Direction | None:
    """The direction in which a film's header says that an axis grows; the first letter of each counts."""
    for axis, words in enumerate(letters):
        if words[:1] in (towards, away):
            steps = np.zeros(len(scale))
            steps[axis] = scale[axis] if words[0] == towards else -scale[axis]
            return Direction(steps=steps, offset=0.0)
    return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Midline:
    """Where the middle of the body lies along `PatientFrame.right`, and how that is known."""

    at: float
    side_of: Literal["body", "image"]


def find_midline(
    direction: Direction, *, table: LabelTable, boxes: Sequence[Box | None], shape: Sequence[int]
) -> Midline:
    """Half-way between the boxes of labels of both sides, the mean over such pairs; else the middle of the image."""
    middles = []
    for label in table.labels:
        if label.side != "left" or label.pair is None:
            continue
        pair = [boxes[table.class_index(name) - 1] for name in (label.name, label.pair)]
        found = [direction.at(box_centre(box)[: len(shape)]) for box in pair if box is not None]
        if len(found) == 2:
            middles.append(sum(found) / 2)
    if middles:
        return Midline(at=float(np.mean(middles)), side_of="body")
    return Midline(at=direction.at([(n - 1) / 2 for n in shape]), side_of="image")


def box_centre(box: Box) -> tuple[float, ...]:
    """Voxel index of the middle of a box."""
    return tuple((s.start + s.stop - 1) / 2 for s in box)


def side_of(
    direction: Direction, midline: Midline, *, centroid: Sequence[float], lengths: Sequence[int], in_mm: bool
) -> Side:
    """Side of an instance: on the midline where its centre is nearer to it than a quarter of its own width, or 5 mm."""
    beyond = direction.at(centroid) - midline.at
    band = _ACROSS * direction.width(lengths)
    if abs(beyond) < (max(band, _NEAR_MIDLINE_MM) if in_mm else band):
        return "midline"
    return "right" if beyond > 0 else "left"


def third_of(direction: Direction, *, centroid: Sequence[float], shape: Sequence[int]) -> Third:
    """Third of the image along the patient's head-foot axis; every voxel counts with its whole length."""
    middle = direction.at([(n - 1) / 2 for n in shape])
    share = 0.5 + (direction.at(centroid) - middle) / direction.width(shape)
    return "caudal" if share < 1 / 3 else "middle" if share < 2 / 3 else "cranial"


def nearest_label(
    array: NDArray[Any],
    own: NDArray[np.bool_],
    centroid: Sequence[float],
    steps: NDArray[np.float64],
    *,
    class_count: int,
    within_mm: float,
) -> tuple[int, float] | None:
    """Class whose voxel centres come nearest to a point, and how near.

    Parameters
    ----------
    array : (I, J, K) integer array
        Class or set indices; those from `class_count` on are no single class and are passed over.
    own : (V,) bool array
        Indices that belong to the structure itself.
    centroid : sequence of float
        Voxel index.
    steps : (3, 3) float array
        Columns: steps in mm along each axis.
    class_count : int
    within_mm : float
        Looked at farthest; a small ball first, for there mostly is something in it.

    Returns
    -------
    (class, distance in mm) or None
        Of several at one distance the lowest class.
    """
    wanted = ~own[:class_count]
    wanted[0] = False
    if not wanted.any():
        return None
    for reach in (within_mm / 8, within_mm / 3, within_mm):
        found = _nearest(array, wanted, np.asarray(centroid), steps, reach=reach)
        if found is not None:
            return found
    return None


def _nearest(
    array: NDArray[Any],
    wanted: NDArray[np.bool_],
    centroid: NDArray[np.float64],
    steps: NDArray[np.float64],
    *,
    reach: float,
) -> tuple[int, float] | None:
    # How many voxels a ball reaches along each axis, on sheared grids too.
    half = reach * np.linalg.norm(np.linalg.pinv(steps), axis=1)
    box = tuple(
        slice(max(0, int(np.ceil(c - h))), max(0, min(n, int(np.floor(c + h)) + 1)))
        for c, h, n in zip(centroid, half, array.shape, strict=True)
    )
    part = array[box]
    if not part.size:
        return None
    is_other = np.zeros(int(part.max()) + 1, dtype=np.bool_)
    is_other[: len(wanted)] = wanted[: len(is_other)]
    places = np.nonzero(is_other[part])
    if not len(places[0]):
        return None
    offsets = np.stack([p + s.start for p, s in zip(places, box, strict=True)]) - centroid[:, None]
    squared = ((steps @ offsets) ** 2).sum(axis=0)
    least = float(squared.min())
    if least > reach**2:
        return None
    classes = part[places][squared <= least + 1e-9]
    return int(classes.min()), float(np.sqrt(least))
