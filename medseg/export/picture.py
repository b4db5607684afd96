"""Label map -> PNG: the mask itself, and its contours on the image for people to look at.

Pictures have rows and columns in NumPy's order, so arrays (I, J) are transposed at this border:
i runs along a row, j down a column.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import contourpy
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from medseg.errors import GeometryError, LabelError, MissingPackageError
from medseg.export.display import window_of
from medseg.labels import LabelTable
from medseg.provenance import whole_file
from medseg.volume import Volume

FILL = 0.16
"""Opacity of a label's area; its contour is opaque."""

DARK = (16, 18, 22)
PALE = (236, 238, 242)
# A patient direction -> the letter of the side that lies the other way.
_OPPOSITE = {"L": "R", "R": "L", "A": "P", "P": "A", "H": "F", "F": "H"}


def write_mask_png(path: Path, label_map: NDArray[Any], table: LabelTable) -> None:
    """Write a label map as a gray PNG whose pixels are the table's values, on the source's grid.

    Parameters
    ----------
    path : Path
        Written whole or not at all.
    label_map : (I, J) integer array
        Class indices.
    table : LabelTable
        Its values give the pixels: 8 bits, or 16 where a value exceeds 255.

    Raises
    ------
    GeometryError
        A label map of a volume.
    LabelError
        A value that 16 bits cannot hold.
    """
    _check_flat(label_map)
    largest = int(table.values.max())
    if largest > np.iinfo(np.uint16).max:
        raise LabelError(f"a mask PNG holds values up to 65535, the label table has {largest}; export nifti")
    kind = np.uint8 if largest <= np.iinfo(np.uint8).max else np.uint16
    # Not table.decode: its int64 would be eight times the picture.
    _save(path, Image.fromarray(table.values.astype(kind)[label_map.T]))


def write_overlay_png(
    path: Path, volume: Volume, label_map: NDArray[Any], table: LabelTable, *, max_side: int = 1024
) -> None:
    """Write the image with the labels' contours, the sides of the patient where known, and a legend.

    Parameters
    ----------
    path : Path
        Written whole or not at all.
    volume : Volume
        (C, I, J); colour is shown as gray, in the header's window or else from the 0.5th to the
        99.5th percentile.
    label_map : (I, J) integer array
        Class indices on the volume's grid.
    table : LabelTable
        Names and colours.
    max_side : int
        Longer side of the image in the picture; pixels that are not square are shown as they are
        in the patient. Small images are enlarged.

    Raises
    ------
    GeometryError
        A volume of three axes, or a label map of another grid.
    """
    _check_flat(label_map)
    if volume.spatial_dims != 2 or label_map.shape != volume.spatial_shape:
        raise GeometryError(
            f"expected an image and a label map of one 2-D grid, "
            f"found {volume.spatial_shape} and {label_map.shape}"
        )
    size = display_size(volume, max_side=max_side)
    picture = draw_overlay(
        display_gray(volume), label_map, table, size=size, orientation=volume.patient_orientation
    )
    _save(path, with_legend(picture, legend(table, found=frozenset(np.unique(label_map).tolist()))))


def draw_overlay(
    gray: NDArray[np.uint8],
    label_map: NDArray[Any],
    table: LabelTable,
    *,
    size: tuple[int, int],
    orientation: tuple[str, str] | None,
    line: int = 1,
) -> Image.Image:
    """An image of `size` (width, height) with the contours of its labels and the sides of the patient.

    Parameters
    ----------
    gray : (I, J) uint8 array
    label_map : (I, J) integer array
        Class indices.
    table : LabelTable
    size : (int, int)
    orientation : (str, str) or None
        Patient directions in which i and j grow.
    line : int
        Least width of a contour, pixels of the picture.
    """
    picture = Image.fromarray(np.ascontiguousarray(gray.T))
    picture = picture.resize(size, Image.Resampling.LANCZOS, reducing_gap=2.0).convert("RGB")
    for index, label in enumerate(table.labels, start=1):
        if (label_map == index).any():
            _draw_label(picture, label_map == index, rgb(label.colour), line=line)
    _draw_sides(picture, orientation)
    return picture


def legend(
    table: LabelTable, *, found: frozenset[int], captions: Mapping[str, str] | None = None
) -> list[tuple[str, tuple[int, int, int]]]:
    """Text and colour of every label; `found` are the class indices that the picture shows."""
    entries = []
    for index, label in enumerate(table.labels, start=1):
        said = (captions or {}).get(label.name, "") if index in found else "(not found)"
        entries.append((f"{label.name.replace('_', ' ')} {said}".strip(), rgb(label.colour)))
    return entries


def display_gray(volume: Volume) -> NDArray[np.uint8]:
    """(I, J) gray values 0..255 of an image for display.

    The window is the header's (`window_center`, `window_width`, in the values of the array) where
    it has one that shows anything, else the 0.5th to 99.5th percentile.
    """
    return np.ascontiguousarray(window_of(volume).gray(volume.array.mean(axis=0, dtype=np.float32)))


def display_size(volume: Volume, *, max_side: int) -> tuple[int, int]:
    """Width and height in pixels that show an image undistorted, the longer one being `max_side`."""
    spacing = volume.spacing_mm or (1.0, 1.0)
    lengths = [n * step for n, step in zip(volume.spatial_shape, spacing, strict=True)]
    width, height = (max(round(max_side * length / max(lengths)), 1) for length in lengths)
    return width, height


def _draw_label(
    picture: Image.Image, mask: NDArray[np.bool_], colour: tuple[int, int, int], *, line: int
) -> None:
    soft = Image.fromarray((mask.T * np.uint8(255)).astype(np.uint8))
    soft = soft.resize(
        picture.size, Image.Resampling.BOX if _shrinks(soft, picture) else Image.Resampling.BILINEAR
    )
    share = np.asarray(soft, dtype=np.float32) / 255
    picture.paste(Image.new("RGB", picture.size, colour), mask=Image.fromarray(np.uint8(share * FILL * 255)))
    # A rim of background closes the contours of labels that touch the border.
    outlines = contourpy.contour_generator(z=np.pad(share, 1)).lines(0.5)
    width = max(round(max(picture.size) / 450), line)
    draw = ImageDraw.Draw(picture)
    for outline in outlines:
        # Contours count pixel centres from 0 and are padded by one; drawing counts from the corner.
        draw.line(
            [(float(x) - 0.5, float(y) - 0.5) for x, y in outline], fill=colour, width=width, joint="curve"
        )


def _shrinks(mask: Image.Image, picture: Image.Image) -> bool:
    return mask.width >= picture.width and mask.height >= picture.height


def _draw_sides(picture: Image.Image, orientation: tuple[str, str] | None) -> None:
    """Letters of the patient's directions at the edges, where they are known."""
    if orientation is None or not all(o and set(o) <= _OPPOSITE.keys() for o in orientation):
        return
    right, bottom = orientation
    left, top = ("".join(_OPPOSITE[letter] for letter in o) for o in orientation)
    font = font_of(picture.width)
    pad = font.size * 0.7
    middle = (picture.width / 2, picture.height / 2)
    places = [
        (left, (pad, middle[1]), "lm"),
        (right, (picture.width - pad, middle[1]), "rm"),
        (top, (middle[0], pad), "mt"),
        (bottom, (middle[0], picture.height - pad), "mb"),
    ]
    draw = ImageDraw.Draw(picture)
    for letter, place, anchor in places:
        draw.text(place, letter, font=font, fill=PALE, anchor=anchor, stroke_width=2, stroke_fill=DARK)


def with_legend(
    picture: Image.Image, entries: Sequence[tuple[str, tuple[int, int, int]]], *, part: int = 42
) -> Image.Image:
    """The picture, and below it rows of texts beside their colours, a `part` of its width high."""
    font = font_of(picture.width, part=part)
    step = font.size * 1.7
    rows = _rows([font.getlength(text) + 2.4 * font.size for text, _ in entries], picture.width - font.size)
    sheet = Image.new(
        "RGB", (picture.width, picture.height + round(step * len(rows) + font.size * 0.6)), DARK
    )
    sheet.paste(picture)
    draw = ImageDraw.Draw(sheet)
    for row, places in enumerate(rows):
        middle = picture.height + font.size * 0.3 + step * (row + 0.5)
        for entry, x in places:
            text, colour = entries[entry]
            left, half = font.size * 0.6 + x, font.size * 0.4
            draw.rectangle((left, middle - half, left + 2 * half, middle + half), fill=colour)
            draw.text((left + font.size * 1.2, middle), text, font=font, fill=PALE, anchor="lm")
    return sheet


def _rows(widths: Sequence[float], room: float) -> list[list[tuple[int, float]]]:
    """Entries of given widths in rows: (entry, x) by row."""
    rows: list[list[tuple[int, float]]] = []
    x = room
    for entry, width in enumerate(widths):
        if not rows or x + width > room:
            rows.append([])
            x = 0.0
        rows[-1].append((entry, x))
        x += width
    return rows


def font_of(width: int, *, part: int = 26) -> ImageFont.FreeTypeFont:
    """Letters that are a `part` of a picture's width high."""
    font = ImageFont.load_default(size=max(width / part, 10.0))
    if not isinstance(font, ImageFont.FreeTypeFont):
        raise MissingPackageError(
            "Pillow was built without FreeType, which the overlay's letters need; reinstall pillow"
        )
    return font


def rgb(colour: str) -> tuple[int, int, int]:
    """Red, green and blue of "#rrggbb"."""
    red, green, blue = (int(colour[k : k + 2], 16) for k in (1, 3, 5))
    return red, green, blue


def _check_flat(label_map: NDArray[Any]) -> None:
    if label_map.ndim != 2:
        raise GeometryError(
            f"a PNG shows an image of two axes, found a label map of shape {label_map.shape}; export nifti"
        )


def _save(path: Path, image: Image.Image) -> None:
    with whole_file(path) as part:
        image.save(part, format="PNG", optimize=False)
