"""Which slices of a volume show its structures best, and one picture of them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from medseg.errors import GeometryError
from medseg.export.display import display_directions, window_of
from medseg.export.picture import DARK, PALE, draw_overlay, font_of, legend, with_legend
from medseg.labels import LabelTable
from medseg.volume import Volume

MOST = 12
FEWEST = 6
_LARGE = 0.9
_TILE = 512
_FILM = 1400
_GAP = 6
_LETTERS = 15
# With more labels than this, the legend leaves out those that were not found.
_ALL_NAMED = 12
_BANNER = (122, 38, 20)


@dataclass(frozen=True, slots=True, kw_only=True)
class ResultPicture:
    """A picture of a result.

    Parameters
    ----------
    image : PIL image, RGB
    slices : tuple of int
        Indices k of the slices shown, ascending; empty for a radiograph.
    notes : tuple of str
        What it does not show.
    """

    image: Image.Image
    slices: tuple[int, ...] = ()
    notes: tuple[str, ...] = ()


def result_picture(
    volume: Volume,
    label_map: NDArray[Any],
    table: LabelTable,
    *,
    banner: str,
    captions: Mapping[str, str] | None = None,
) -> ResultPicture:
    """Draw a radiograph, or the key slices of a volume, with contours, sides, legend and a banner.

    Parameters
    ----------
    volume : Volume
        Shown as stored, in its window; pixels that are not square as they are in the patient.
    label_map : (I, J) or (I, J, K) integer array
        Class indices on the volume's grid.
    table : LabelTable
    banner : str
        Line over the picture.
    captions : mapping of str to str, optional
        Text after a label's name in the legend, such as its volume.

    Raises
    ------
    GeometryError
        Volume and label map of different grids.
    """
    if label_map.shape != volume.spatial_shape:
        raise GeometryError(
            f"image and label map must share a grid, found {volume.spatial_shape} and {label_map.shape}"
        )
    flat = volume.spatial_dims == 2
    areas = _areas(label_map[:, :, None] if flat else label_map, table)
    slices = (0,) if flat else key_slices(areas)
    tiles = _film(volume, label_map, table) if flat else _slices(volume, label_map, table, slices)
    sheet = _sheet(tiles)
    part = min(46 if len(tiles) == 1 else 64, max(sheet.width // _LETTERS, 1))
    found = frozenset(np.flatnonzero(areas.any(axis=0)).tolist())
    entries = legend(table, found=found, captions=captions)
    if len(entries) > _ALL_NAMED:
        entries = [entry for index, entry in enumerate(entries, 1) if index in found]
    return ResultPicture(
        image=_under_banner(with_legend(sheet, entries, part=part), banner, part=part),
        slices=() if flat else slices,
        notes=() if flat else _not_shown(areas, slices, table),
    )


def _areas(label_map: NDArray[Any], table: LabelTable) -> NDArray[np.int64]:
    """(K, L) pixels of each class in each slice; those of the background are 0."""
    count = table.class_count
    areas = np.array(
        [
            np.bincount(label_map[:, :, k].ravel(order="K"), minlength=count)
            for k in range(label_map.shape[2])
        ],
        dtype=np.int64,
    )
    areas[:, 0] = 0
    return areas


def key_slices(areas: NDArray[np.int64], *, most: int = MOST, fewest: int = FEWEST) -> tuple[int, ...]:
    """Slices that show every structure near its largest area, then ones between, ascending.

    Parameters
    ----------
    areas : (K, L) int array
        Pixels of each class in each slice; column 0 (background) must be 0.
    most, fewest : int
        So many slices at most; where structures need fewer, slices farthest from those chosen are
        added up to `fewest`.
    """
    occupied = np.flatnonzero(areas.any(axis=1))
    largest = areas.max(axis=0)
    good = (areas >= _LARGE * largest) & (largest > 0)
    share = areas / np.maximum(largest, 1)
    left, chosen = largest > 0, list[int]()
    while left.any() and len(chosen) < most:
        # How many structures a slice shows well; their shares, below one in sum, decide between equals.
        score = (good & left).sum(axis=1) + (share * left).sum(axis=1) / (areas.shape[1] + 1)
        chosen.append(int(score.argmax()))
        left &= ~good[chosen[-1]]
    while 0 < len(chosen) < min(fewest, most, len(occupied)):
        apart = np.abs(occupied[:, None] - np.array(chosen)).min(axis=1)
        chosen.append(int(occupied[apart.argmax()]))
    return tuple(sorted(chosen or [areas.shape[0] // 2]))


def _not_shown(areas: NDArray[np.int64], slices: tuple[int, ...], table: LabelTable) -> tuple[str, ...]:
    largest = areas.max(axis=0)
    seen = areas[list(slices)].max(axis=0)
    names = [table.names[c] for c in np.flatnonzero((seen < _LARGE * largest) & (largest > 0))]
    return (f"Not on their largest slice in the picture: {', '.join(names)}.",) if names else ()


def _film(volume: Volume, label_map: NDArray[Any], table: LabelTable) -> list[Image.Image]:
    gray = window_of(volume).gray(volume.array.mean(axis=0, dtype=np.float32))
    size = _size(volume, _FILM)
    return [draw_overlay(gray, label_map, table, size=size, orientation=display_directions(volume))]


def _slices(
    volume: Volume, label_map: NDArray[Any], table: LabelTable, slices: tuple[int, ...]
) -> list[Image.Image]:
    window, directions = window_of(volume), display_directions(volume)
    size = _size(volume, _FILM if len(slices) == 1 else _TILE)
    tiles = []
    for k in slices:
        gray = window.gray(volume.array[:, :, :, k].mean(axis=0, dtype=np.float32))
        tile = draw_overlay(gray, label_map[:, :, k], table, size=size, orientation=directions, line=2)
        font = font_of(tile.width, part=30)
        ImageDraw.Draw(tile).text(
            (font.size * 0.5, tile.height - font.size * 0.5),
            f"slice {k + 1} of {label_map.shape[2]}",
            font=font,
            fill=PALE,
            anchor="lb",
            stroke_width=2,
            stroke_fill=DARK,
        )
        tiles.append(tile)
    return tiles


def _size(volume: Volume, longest: int) -> tuple[int, int]:
    """Width and height that show a slice undistorted."""
    spacing = volume.spacing_mm or (1.0, 1.0)
    lengths = [n * s for n, s in zip(volume.spatial_shape[:2], spacing[:2], strict=True)]
    width, height = (max(round(longest * length / max(lengths)), 1) for length in lengths)
    return width, height


def _sheet(tiles: list[Image.Image]) -> Image.Image:
    width, height = tiles[0].size
    # As many columns as make the sheet about as wide as a screen, four to three.
    columns = min(max(round(math.sqrt(len(tiles) * height / width * 4 / 3)), 1), len(tiles))
    rows = math.ceil(len(tiles) / columns)
    sheet = Image.new("RGB", (columns * (width + _GAP) - _GAP, rows * (height + _GAP) - _GAP), DARK)
    for n, tile in enumerate(tiles):
        sheet.paste(tile, ((n % columns) * (width + _GAP), (n // columns) * (height + _GAP)))
    return sheet


def _under_banner(picture: Image.Image, text: str, *, part: int) -> Image.Image:
    font = font_of(picture.width, part=part)
    while font.getlength(text) > picture.width - font.size and font.size > 8:
        part = round(part * 1.1) + 1
        font = font_of(picture.width, part=part)
    height = round(font.size * 1.9)
    sheet = Image.new("RGB", (picture.width, picture.height + height), _BANNER)
    sheet.paste(picture, (0, height))
    ImageDraw.Draw(sheet).text((picture.width / 2, height / 2), text, font=font, fill=PALE, anchor="mm")
    return sheet
