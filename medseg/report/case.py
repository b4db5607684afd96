"""The picture of a case: grey image as WebP, contours as SVG paths, directions and scale of display.

Arrays are (I, J), i the column. Display: patient's right on the left of the picture, head up.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import TypeVar

import contourpy
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from medseg.polyline import simplify
from medseg.report.page import Contour, Picture

_T = TypeVar("_T", bound=np.generic)

QUALITY = 60
STEPS = 4
"""Steps of a contour per pixel of the picture."""
MAX_POINTS = 1500
_TOLERANCE = 0.3
_OPPOSITE = {"L": "R", "R": "L", "A": "P", "P": "A", "H": "F", "F": "H"}
_BARS_MM = (200, 100, 50, 20, 10, 5, 2, 1)


def draw_picture(
    gray: NDArray[np.uint8],
    *,
    predicted: Mapping[str, NDArray[np.bool_]],
    reference: Mapping[str, NDArray[np.bool_]],
    spacing_mm: Sequence[float] | None,
    orientation: Sequence[str] | None,
    max_side: int = 420,
    magnify: int = 2,
    title: str = "",
) -> Picture:
    """Picture of one image with the contours of its masks.

    Parameters
    ----------
    gray : (I, J) uint8 array
        0..255, as displayed.
    predicted, reference : mapping of str to (I, J) bool array
        Structure -> mask; "" for a reference that does not tell between structures.
    spacing_mm : (float, float) or None
        Along i and j; gives the aspect and the scale bar.
    orientation : (str, str) or None
        Patient direction in which i and j grow; the picture is turned for display where it is known.
    max_side : int
        Longer side, pixels.
    magnify : int
        A small image is drawn with no more than so many pixels for each of its own.
    title : str
        What it shows.
    """
    turned = _Display.of(orientation)
    shape = turned.apply(gray).shape
    step = turned.pair(spacing_mm or (1.0, 1.0))
    lengths = [n * s for n, s in zip(shape, step, strict=True)]
    side = min(max_side, max(shape) * magnify)
    width, height = (max(round(side * length / max(lengths)), 1) for length in lengths)
    picture = Image.fromarray(np.ascontiguousarray(turned.apply(gray).T))
    stream = io.BytesIO()
    picture.resize((width, height), Image.Resampling.LANCZOS).save(stream, "WEBP", quality=QUALITY, method=6)
    contours, notes = [], []
    for masks, is_reference in ((predicted, False), (reference, True)):
        for name, mask in masks.items():
            if mask.any():
                path, left_out = contour_path(turned.apply(mask), (width, height))
                contours.append(Contour(structure=name, reference=is_reference, path=path))
                notes += [_left_out(name, left_out)] if left_out else []
    bar, text = scale_bar(width, lengths[0], known=spacing_mm is not None)
    return Picture(
        width=width,
        height=height,
        webp=stream.getvalue(),
        contours=tuple(contours),
        letters=turned.letters,
        bar_px=bar,
        bar_text=text,
        notes=(*notes, *turned.notes),
        title=title,
    )


def oriented(array: NDArray[_T], orientation: Sequence[str] | None) -> NDArray[_T]:
    """(I, J) array turned as `draw_picture` turns it."""
    return _Display.of(orientation).apply(array)


def _left_out(name: str, count: int) -> str:
    return f"{name or 'reference'}: {count} of its smallest outlines are left out of the picture, not of the numbers"


class _Display:
    """How an array is turned so that it shows as radiologists expect it."""

    def __init__(
        self, *, transpose: bool, flip_i: bool, flip_j: bool, directions: tuple[str, str] | None
    ) -> None:
        self.transpose, self.flip_i, self.flip_j = transpose, flip_i, flip_j
        self.directions = directions

    @classmethod
    def of(cls, orientation: Sequence[str] | None) -> _Display:
        letters = [o[:1] for o in orientation or ()]
        if len(letters) != 2 or not all(letter in _OPPOSITE for letter in letters):
            return cls(transpose=False, flip_i=False, flip_j=False, directions=None)
        transpose = letters[0] in "HF" or (letters[0] in "AP" and letters[1] in "LR")
        right, down = letters[::-1] if transpose else letters
        flip_i, flip_j = right == "R", down in ("H", "A")
        shown = (_OPPOSITE[right] if flip_i else right, _OPPOSITE[down] if flip_j else down)
        return cls(transpose=transpose, flip_i=flip_i, flip_j=flip_j, directions=shown)

    def apply(self, array: NDArray[_T]) -> NDArray[_T]:
        array = array.T if self.transpose else array
        return array[:: -1 if self.flip_i else 1, :: -1 if self.flip_j else 1]

    def pair(self, values: Sequence[float]) -> tuple[float, float]:
        first, second = (float(v) for v in values)
        return (second, first) if self.transpose else (first, second)

    @property
    def letters(self) -> tuple[tuple[str, str], ...]:
        if self.directions is None:
            return ()
        right, bottom = self.directions
        return (
            ("left", _OPPOSITE[right]),
            ("right", right),
            ("top", _OPPOSITE[bottom]),
            ("bottom", bottom),
        )

    @property
    def notes(self) -> tuple[str, ...]:
        if self.directions is None:
            return ("the file does not say how the patient lies; shown as stored, sides not marked",)
        return ("turned for display: patient's right is on the left",) if self.moved else ()

    @property
    def moved(self) -> bool:
        return self.transpose or self.flip_i or self.flip_j


def scale_bar(width: int, length_mm: float, *, known: bool, part: int | None = None) -> tuple[float, str]:
    """Length in pixels and legend of a scale bar, a quarter of a picture (or of a `part` of it) at most.

    Parameters
    ----------
    width : int
        Pixels of the picture.
    length_mm : float
        What it shows along its width.
    known : bool
        Whether lengths are known; there is no bar otherwise.
    part : int, optional
        Pixels of the part that the bar stands in.
    """
    if not known:
        return 0.0, ""
    room = length_mm * (part or width) / width
    bar = next((b for b in _BARS_MM if b <= room / 4), _BARS_MM[-1])
    return round(width * bar / length_mm, 1), f"{bar // 10} cm" if bar >= 10 else f"{bar} mm"


def contour_path(mask: NDArray[np.bool_], size: tuple[int, int]) -> tuple[str, int]:
    """SVG path of the outlines of a mask, and how many outlines are left out.

    Parameters
    ----------
    mask : (I, J) bool array
        In display orientation.
    size : (int, int)
        Width and height of the picture.

    Returns
    -------
    path : str
        Whole steps, `STEPS` of them per pixel, origin at the picture's top left corner.
    left_out : int
        The smallest outlines beyond `MAX_POINTS` points; 0 but for masks that are noise.
    """
    soft = Image.fromarray(np.ascontiguousarray(mask.T).astype(np.uint8) * np.uint8(255))
    shrinks = soft.width >= size[0] and soft.height >= size[1]
    soft = soft.resize(size, Image.Resampling.BOX if shrinks else Image.Resampling.BILINEAR)
    return svg_path(contour_lines((np.asarray(soft) / 255).astype(np.float32)))


def contour_lines(share: NDArray[np.float32]) -> list[NDArray[np.float64]]:
    """Outlines of an (H, W) mask with soft edges, where it is one half; (N, 2) points x, y in pixels."""
    # Padded by one, and contours count pixel centres: half a pixel back to the corner.
    lines = contourpy.contour_generator(z=np.pad(share, 1)).lines(0.5)
    return [simplify(np.asarray(line) - 0.5, _TOLERANCE) for line in lines]


def svg_path(lines: Sequence[NDArray[np.float64]], *, max_points: int = MAX_POINTS) -> tuple[str, int]:
    """SVG path of outlines in whole steps, and how many of the smallest are left out beyond so many points."""
    ordered = sorted(lines, key=lambda line: -float(np.ptp(line, axis=0).sum()))
    kept: list[NDArray[np.float64]] = []
    points = 0
    for line in ordered:
        points += len(line)
        if points > max_points and kept:
            break
        kept.append(line)
    return "".join(_path(line) for line in kept), len(ordered) - len(kept)


def _path(line: NDArray[np.float64]) -> str:
    points = np.round(line * STEPS).astype(int)
    moves = np.diff(points, axis=0)
    moves = moves[(moves != 0).any(axis=1)]
    start = f"M{points[0, 0]} {points[0, 1]}"
    return start + "l" + " ".join(f"{x} {y}" for x, y in moves) + "z" if len(moves) else ""
