"""Strips of slices in the three planes of the patient: one grey picture each, contours as paths over it."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from medseg.report.case import contour_lines, scale_bar, svg_path
from medseg.report.page import Contour
from medseg.report.space import PLANES, Cut, Neighbours, Plane, Space

QUALITY = 58
TILE = 200
"""Longer side of a slice, pixels."""
_STRIP = 1200
"""Width of a strip, at most."""
_MOST = 6
_MARGIN_MM = 12.0
_MAX_POINTS = 3000
_SAMPLES = 2_000_000
_LETTERS: dict[Plane, tuple[str, str, str, str]] = {
    "axial": ("R", "L", "A", "P"),
    "coronal": ("R", "L", "S", "I"),
    "sagittal": ("A", "P", "S", "I"),
}
_SIGNS: dict[Plane, tuple[str, str]] = {"axial": ("S", "I"), "coronal": ("A", "P"), "sagittal": ("R", "L")}


@dataclass(frozen=True, slots=True, kw_only=True)
class Masks:
    """Masks as one array of numbers, and the structure of each number.

    Parameters
    ----------
    array : (I, J, K) integer array
    names : mapping of int to str
        0 is background; "" for a reference that does not tell between structures.
    """

    array: NDArray[Any]
    names: Mapping[int, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Strip:
    """Slices of one plane side by side.

    Parameters
    ----------
    plane : Plane
    width, height : int
        Pixels of the whole picture.
    tile : int
        Width of one slice, pixels.
    webp : bytes
    contours : tuple of Contour
        Paths in quarters of a pixel.
    places : tuple of str
        Where each slice lies, such as "S 134 mm".
    letters : tuple of (str, str)
        Place (left, right, top, bottom) and direction of the patient there; empty where unknown.
    bar_px, bar_text : float, str
        Scale bar; 0 where lengths are unknown.
    left_out : mapping of str to int
        Structure -> outlines that are left out because there are too many.
    """

    plane: Plane
    width: int
    height: int
    tile: int
    webp: bytes
    contours: tuple[Contour, ...]
    places: tuple[str, ...]
    letters: tuple[tuple[str, str], ...] = ()
    bar_px: float = 0.0
    bar_text: str = ""
    left_out: Mapping[str, int] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """A volume with its masks, ready to be cut.

    Parameters
    ----------
    space : Space
    image : (C, I, J, K) array
    gray : callable
        Values -> 0..255.
    predicted : Masks
    reference : Masks or None
    measured : bool
        Whether lengths are known.
    """

    space: Space
    image: NDArray[Any]
    gray: Callable[[NDArray[Any]], NDArray[np.uint8]]
    predicted: Masks
    reference: Masks | None = None
    measured: bool = True

    def strips(self, *, tile: int = TILE) -> tuple[Strip, ...]:
        """One strip for each plane."""
        view = self.view()
        made = []
        for plane in PLANES:
            cut = _first_cut(plane, view, tile)
            count = min(_MOST, max(_STRIP // cut.size[0], 3))
            made.append(self.strip([_moved(cut, place) for place in self.places(plane, view, count)]))
        return tuple(made)

    def strip(
        self, cuts: Sequence[Cut], *, only: str | None = None, paint: NDArray[Any] | None = None
    ) -> Strip:
        """Cuts of one plane side by side, with contours; with `paint`, values from 0 to 1 in colour instead."""
        width, height = cuts[0].size
        cells = []
        contours: dict[tuple[str, bool], list[NDArray[np.float64]]] = {}
        for number, cut in enumerate(cuts):
            cells.append(self._painted(cut, paint) if paint is not None else self._grey(cut))
            if paint is None:
                self._outline(cut, number * width, contours, only=only)
        found, left_out = _paths(contours)
        total = (width * len(cuts), height)
        bar, said = scale_bar(total[0], total[0] * cuts[0].step_mm, known=self.measured, part=width)
        letters = _LETTERS[cuts[0].plane] if self.space.known else ()
        return Strip(
            plane=cuts[0].plane,
            width=total[0],
            height=height,
            tile=width,
            webp=_webp(np.concatenate(cells, axis=1)),
            contours=found,
            places=tuple(self.place_text(cut) for cut in cuts),
            letters=tuple(zip(("left", "right", "top", "bottom"), letters, strict=False)),
            bar_px=bar,
            bar_text=said,
            left_out=left_out,
        )

    def painted(self, values: NDArray[Any], *, count: int = 4, tile: int = TILE) -> Strip:
        """Axial slices on which a map of (I, J, K) values from 0 to 1 has its largest sums, in colour."""
        view = self.view()
        cut = _first_cut("axial", view, tile)
        step = max(round((values.size / _SAMPLES) ** (1 / 3)), 1)
        part = np.asarray(values[::step, ::step, ::step], dtype=np.float32)
        index = np.argwhere(part > 0.05)
        weights = part[tuple(index.T)]
        heights = self.space.world(index * step)[:, 2]
        places = _heaviest(heights, weights, view[2], count)
        return self.strip([_moved(cut, place) for place in places], paint=values)

    def thumbnail(
        self, structure: str, plane: Plane, *, at_mm: Sequence[float] | None = None
    ) -> Strip | None:
        """A small picture of a structure at a place, or of its largest section; None where there is neither.

        Parameters
        ----------
        structure : str
            "" is the whole image.
        plane : Plane
        at_mm : (float, float, float), optional
            Place in the patient.
        """
        found = [index for index, name in self.predicted.names.items() if name == structure]
        index, world = self._voxels(self.predicted, found)
        if not len(index) and at_mm is None:
            return None
        box = np.stack([world.min(axis=0), world.max(axis=0)], axis=1) if len(index) else self.space.box
        view = _with_shape(_padded(box, self.space.box, least=0.25), plane, 1.5)
        across = {"axial": 2, "coronal": 1, "sagittal": 0}[plane]
        place = _largest_section(world[:, across]) if at_mm is None else float(at_mm[across])
        return self.strip([_moved(_first_cut(plane, view, 138), place)], only=structure or None)

    def view(self) -> NDArray[np.float64]:
        """(3, 2) box around all masks with a margin, at least half of what the image shows."""
        boxes = []
        for masks in (self.predicted, self.reference):
            if masks is not None:
                _, world = self._voxels(masks, None)
                if len(world):
                    boxes.append(np.stack([world.min(axis=0), world.max(axis=0)], axis=1))
        if not boxes:
            return self.space.box
        low, high = np.min([b[:, 0] for b in boxes], axis=0), np.max([b[:, 1] for b in boxes], axis=0)
        return _padded(np.stack([low, high], axis=1), self.space.box, least=0.5)

    def places(self, plane: Plane, view: NDArray[np.float64], count: int) -> list[float]:
        """Where the slices of a plane lie, mm: on the largest section of each structure, then spread out."""
        across = {"axial": 2, "coronal": 1, "sagittal": 0}[plane]
        masks = self.predicted
        index, world = self._voxels(masks, None)
        if not len(index) and self.reference is not None:
            masks = self.reference
            index, world = self._voxels(masks, None)
        low, high = view[across]
        if not len(index):
            return [float(low + (high - low) * (k + 1) / (count + 1)) for k in range(count)]
        values = masks.array[tuple(index.T)]
        chosen = _spread(world[:, across], values, count)
        return sorted(chosen, reverse=plane == "axial" and self.space.known)

    def place_text(self, cut: Cut) -> str:
        """Where a slice lies, in letters and millimetres."""
        value = round(cut.position_mm)
        if not self.space.known:
            return f"{value} mm" if self.measured else ""
        positive, negative = _SIGNS[cut.plane]
        return f"{positive if value >= 0 else negative} {abs(value)} mm"

    def _voxels(
        self, masks: Masks, only: Sequence[int] | None
    ) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
        """(N, 3) indices of labelled voxels of a grid of the array, and their places."""
        step = max(round((masks.array.size / _SAMPLES) ** (1 / 3)), 1)
        part = masks.array[::step, ::step, ::step]
        index = np.argwhere((part > 0) if only is None else np.isin(part, only)) * step
        return index, self.space.world(index)

    def _grey(self, cut: Cut) -> NDArray[np.uint8]:
        # Several points to a pixel where voxels are finer, or the picture is speckled.
        finer = int(np.clip(round(cut.step_mm / self.space.finest_mm), 1, 3))
        near = Neighbours.of(cut.points(self.space, finer=finer), self.space.shape)
        gray = self.gray(near.values(self.image)).astype(np.float32) * (near.weights.sum(axis=0) > 0)
        height, width = gray.shape[0] // finer, gray.shape[1] // finer
        return np.asarray(gray.reshape(height, finer, width, finer).mean(axis=(1, 3)).round(), dtype=np.uint8)

    def _painted(self, cut: Cut, values: NDArray[Any]) -> NDArray[np.uint8]:
        near = Neighbours.of(cut.points(self.space), self.space.shape)
        return blend(self._grey(cut), near.values(values))

    def _outline(
        self,
        cut: Cut,
        offset: int,
        contours: dict[tuple[str, bool], list[NDArray[np.float64]]],
        *,
        only: str | None,
    ) -> None:
        near = Neighbours.of(cut.points(self.space), self.space.shape)
        for masks, is_reference in ((self.predicted, False), (self.reference, True)):
            if masks is None or (only is not None and is_reference):
                continue
            for index, share in near.shares(masks.array).items():
                name = masks.names.get(index)
                if name is None or (only is not None and name != only):
                    continue
                lines = [line + np.array([offset, 0]) for line in contour_lines(share)]
                contours.setdefault((name, is_reference), []).extend(lines)


def blend(gray: NDArray[np.uint8], values: NDArray[Any]) -> NDArray[np.uint8]:
    """(H, W, 3) grey picture under values from 0 (clear) over orange to 1 (yellow)."""
    amount = np.clip(np.asarray(values, dtype=np.float32), 0, 1)[..., None]
    colour = np.concatenate([np.full_like(amount, 255), 90 + 160 * amount, 20 + 60 * amount], axis=-1)
    alpha = np.clip(amount * 1.6, 0, 0.9)
    return np.asarray(np.round(gray[..., None] * 0.8 * (1 - alpha) + colour * alpha), dtype=np.uint8)


def _largest_section(places: NDArray[np.float64]) -> float:
    bins, edges = np.histogram(places, bins=40)
    return float((edges[bins.argmax()] + edges[bins.argmax() + 1]) / 2)


def _first_cut(plane: Plane, view: NDArray[np.float64], tile: int) -> Cut:
    across = {"axial": 2, "coronal": 1, "sagittal": 0}[plane]
    spans = np.delete(view[:, 1] - view[:, 0], across)
    return Cut(plane, float(view[across].mean()), view, float(spans.max()) / tile)


def _moved(cut: Cut, place: float) -> Cut:
    return Cut(cut.plane, place, cut.view, cut.step_mm)


def _padded(box: NDArray[np.float64], whole: NDArray[np.float64], *, least: float) -> NDArray[np.float64]:
    """A box with a margin, not smaller than a share of the whole along each axis, inside it."""
    spans, all_of = box[:, 1] - box[:, 0], whole[:, 1] - whole[:, 0]
    wanted = np.minimum(np.maximum(spans * 1.2 + _MARGIN_MM, least * all_of), all_of)
    low = np.clip(box.mean(axis=1) - wanted / 2, whole[:, 0], whole[:, 1] - wanted)
    return np.stack([low, low + wanted], axis=1)


def _with_shape(view: NDArray[np.float64], plane: Plane, aspect: float) -> NDArray[np.float64]:
    """The box made larger so that a plane is `aspect` times as wide as it is high."""
    right, down = {"axial": (0, 1), "coronal": (0, 2), "sagittal": (1, 2)}[plane]
    spans, made = view[:, 1] - view[:, 0], view.copy()
    wider = max(float(spans[right]), float(spans[down]) * aspect)
    for axis, span in ((right, wider), (down, wider / aspect)):
        middle = view[axis].mean()
        made[axis] = (middle - span / 2, middle + span / 2)
    return made


def _spread(places: NDArray[np.float64], values: NDArray[Any], count: int) -> list[float]:
    """Places that show every class near its largest section, then those farthest from the others."""
    bins = 96
    edges = np.linspace(places.min(), places.max() + 1e-6, bins + 1)
    column = np.clip(np.searchsorted(edges, places, side="right") - 1, 0, bins - 1)
    kinds, row = np.unique(values, return_inverse=True)
    areas = np.bincount(row.ravel() * bins + column, minlength=bins * len(kinds)).reshape(len(kinds), bins)
    good = areas >= 0.9 * areas.max(axis=1, keepdims=True)
    left, chosen = np.ones(len(kinds), dtype=np.bool_), list[int]()
    share = areas / areas.max(axis=1, keepdims=True)
    while left.any() and len(chosen) < count:
        score = (good & left[:, None]).sum(axis=0) + (share * left[:, None]).sum(axis=0) / (len(kinds) + 1)
        chosen.append(int(score.argmax()))
        left &= ~good[:, chosen[-1]]
    # Sections of next to nothing show little.
    total = areas.sum(axis=0)
    occupied = np.flatnonzero(total > 0.02 * total.max())
    while len(chosen) < min(count, len(occupied)):
        apart = np.abs(occupied[:, None] - np.array(chosen)).min(axis=1)
        chosen.append(int(occupied[apart.argmax()]))
    middle = (edges[:-1] + edges[1:]) / 2
    return [float(middle[k]) for k in sorted(chosen)]


def _heaviest(
    places: NDArray[np.float64], weights: NDArray[np.float32], span: NDArray[np.float64], count: int
) -> list[float]:
    """Places with the largest sums, an eighth of the span apart at least; from the head down."""
    if not len(places):
        return [float(span[1] - (span[1] - span[0]) * (k + 1) / (count + 1)) for k in range(count)]
    sums, edges = np.histogram(places, bins=64, range=(float(span[0]), float(span[1])), weights=weights)
    middle, chosen = (edges[:-1] + edges[1:]) / 2, list[float]()
    for k in np.argsort(-sums):
        if len(chosen) < count and all(abs(middle[k] - c) > (span[1] - span[0]) / 8 for c in chosen):
            chosen.append(float(middle[k]))
    return sorted(chosen, reverse=True)


def _paths(
    contours: Mapping[tuple[str, bool], list[NDArray[np.float64]]],
) -> tuple[tuple[Contour, ...], dict[str, int]]:
    """Contours of each structure in one path, and how many outlines were left out."""
    found: list[Contour] = []
    left_out: dict[str, int] = {}
    for (name, is_reference), lines in sorted(contours.items(), key=lambda item: item[0][1]):
        path, missing = svg_path(lines, max_points=_MAX_POINTS)
        if path:
            found.append(Contour(structure=name, reference=is_reference, path=path))
        if missing:
            left_out[name] = left_out.get(name, 0) + missing
    return tuple(found), left_out


def _webp(picture: NDArray[np.uint8]) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(picture)).save(stream, "WEBP", quality=QUALITY, method=6)
    return stream.getvalue()
