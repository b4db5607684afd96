"""Which segment and which plane each frame of a segmentation shows, from the per-frame functional groups."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medseg.errors import ImageReadError
from medseg.io.dicom_items import EncodedElements

_SEGMENT, _SEGMENT_NUMBER = 0x0062000A, 0x0062000B
_PLANE_POSITION, _POSITION = 0x00209113, 0x00200032
_PLANE_ORIENTATION, _ORIENTATION = 0x00209116, 0x00200037
_MEASURES = 0x00289110
_SPACING, _THICKNESS, _BETWEEN = 0x00280030, 0x00180050, 0x00180088
_DERIVATION, _SOURCE_IMAGE = 0x00089124, 0x00082112
_INSTANCE, _FRAME = 0x00081155, 0x00081160


@dataclass(frozen=True, slots=True, kw_only=True)
class FrameTable:
    """What the functional groups say, one entry per frame.

    Parameters
    ----------
    segments : (N,) int array
        Segment number, -1 where the frame names none.
    planes : (N,) int array
        Index into `positions`, -1 where the frame has no position.
    positions : (P, 3) float array
        Distinct Image Positions (Patient), LPS+ mm.
    orientations, spacings, thicknesses, between : dict of tuple of float to int
        Distinct values that frames have of their own, and the first frame (from 0) with each.
    groups : EncodedElements
    derivations : tuple of (int, int)
        Bytes of each frame's Derivation Image Sequence in `groups`.
    """

    segments: NDArray[np.int64]
    planes: NDArray[np.int64]
    positions: NDArray[np.float64]
    orientations: dict[tuple[float, ...], int]
    spacings: dict[tuple[float, ...], int]
    thicknesses: dict[tuple[float, ...], int]
    between: dict[tuple[float, ...], int]
    groups: EncodedElements
    derivations: tuple[tuple[int, int], ...]

    def __len__(self) -> int:
        return len(self.segments)

    def first_frame(self, plane: int) -> int:
        """Number, from 1, of the first frame in a plane."""
        return int(np.flatnonzero(self.planes == plane)[0]) + 1

    def references(self, frame: int) -> tuple[tuple[str, int], ...]:
        """(SOP Instance UID, frame number or 0) of the source images of a frame (counted from 0)."""
        groups, (start, stop) = self.groups, self.derivations[frame]
        found = []
        for derivation in groups.items(start, stop):
            for element in groups.elements(*derivation):
                if element.tag != _SOURCE_IMAGE:
                    continue
                for source in groups.items(element.start, element.stop):
                    found += _references(groups, *source)
        return tuple(found)


def _references(groups: EncodedElements, start: int, stop: int) -> list[tuple[str, int]]:
    uid, frames = "", [0]
    for element in groups.elements(start, stop):
        text = groups.value(element).decode("ascii", "replace").strip("\0 ")
        if element.tag == _INSTANCE:
            uid = text
        elif element.tag == _FRAME and text:
            frames = [int(number) if number.strip().isdigit() else 0 for number in text.split("\\")]
    return [(uid, frame) for frame in frames] if uid else []


class _Table:
    """Distinct values by their bytes: a thousand frames have few of them."""

    def __init__(self, groups: EncodedElements, where: str) -> None:
        self.groups, self.where = groups, where
        self.position_of: dict[bytes, int] = {}
        self.positions: list[tuple[float, ...]] = []
        self.segments: list[int] = []
        self.planes: list[int] = []
        self.derivations: list[tuple[int, int]] = []
        self.own: dict[int, dict[bytes, int]] = {
            tag: {} for tag in (_ORIENTATION, _SPACING, _THICKNESS, _BETWEEN)
        }

    def add(self, start: int, stop: int) -> None:
        """Take the item of one frame."""
        groups, number = self.groups, len(self.segments)
        segment, plane, derivation = -1, -1, (0, 0)
        for element in groups.elements(start, stop):
            tag = element.tag
            if tag == _SEGMENT:
                inner = groups.inner(element, _SEGMENT_NUMBER)
                if inner is not None and inner.stop - inner.start == 2:
                    (segment,) = groups.short.unpack_from(groups.data, inner.start)
            elif tag == _PLANE_POSITION:
                inner = groups.inner(element, _POSITION)
                plane = -1 if inner is None else self._plane(groups.value(inner), number)
            elif tag == _DERIVATION:
                derivation = (element.start, element.stop)
            elif tag in (_PLANE_ORIENTATION, _MEASURES):
                self._keep(element.start, element.stop, number)
        self.segments.append(segment)
        self.planes.append(plane)
        self.derivations.append(derivation)

    def _plane(self, text: bytes, frame: int) -> int:
        found = self.position_of.get(text)
        if found is None:
            values = self.numbers(text, frame, "Image Position (Patient)", 3)
            found = self.position_of[text] = len(self.positions)
            self.positions.append(values)
        return found

    def _keep(self, start: int, stop: int, frame: int) -> None:
        for item in self.groups.items(start, stop):
            for element in self.groups.elements(*item):
                if element.tag in self.own:
                    self.own[element.tag].setdefault(self.groups.value(element), frame)

    def numbers(self, text: bytes, frame: int, what: str, count: int) -> tuple[float, ...]:
        """Values of VR DS, finite and as many as there must be."""
        try:
            values = tuple(float(part) for part in text.decode("ascii").strip("\0 ").split("\\"))
        except ValueError:
            values = ()
        if len(values) != count or not all(map(math.isfinite, values)):
            raise ImageReadError(f"{self.where}: {what} of frame {frame + 1} is not {count} numbers")
        return values

    def distinct(self, tag: int, what: str, count: int) -> dict[tuple[float, ...], int]:
        """Distinct values of an element that frames have of their own."""
        found: dict[tuple[float, ...], int] = {}
        for text, frame in self.own[tag].items():
            if text.strip(b"\0 "):
                found.setdefault(self.numbers(text, frame, what, count), frame)
        return found


def frame_table(groups: EncodedElements, start: int, stop: int, *, frames: int, where: str) -> FrameTable:
    """Read the value of a Per-Frame Functional Groups Sequence.

    Parameters
    ----------
    groups : EncodedElements
    start, stop : int
        Bytes of the sequence's value.
    frames : int
        Number of Frames of the header.
    where : str
        The file, for messages.

    Raises
    ------
    ImageReadError
        Damaged, or another number of items than of frames.
    """
    table = _Table(groups, where)
    for item in groups.items(start, stop):
        table.add(*item)
    if len(table.segments) != frames:
        raise ImageReadError(
            f"{where}: the header says {frames} frames, {len(table.segments)} have functional groups; "
            "the file is damaged"
        )
    return FrameTable(
        segments=np.array(table.segments, dtype=np.int64),
        planes=np.array(table.planes, dtype=np.int64),
        positions=np.array(table.positions, dtype=np.float64).reshape(-1, 3),
        orientations=table.distinct(_ORIENTATION, "Image Orientation (Patient)", 6),
        spacings=table.distinct(_SPACING, "Pixel Spacing", 2),
        thicknesses=table.distinct(_THICKNESS, "Slice Thickness", 1),
        between=table.distinct(_BETWEEN, "Spacing Between Slices", 1),
        groups=groups,
        derivations=tuple(table.derivations),
    )
