"""A map over its image for people: the picture, or three slices through the strongest place of a volume."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from medseg.export.display import axis_directions, window_of
from medseg.export.picture import DARK, draw_overlay, legend, with_legend
from medseg.labels import LabelTable
from medseg.provenance import whole_file
from medseg.volume import Volume

_OPACITY = 0.62
_FOR = np.array([[255, 214, 60], [240, 110, 20], [190, 0, 30]], dtype=np.float32)
_AGAINST = np.array([[120, 190, 255], [30, 110, 220], [10, 40, 150]], dtype=np.float32)
# What is displayed grows to the patient's left, back and feet.
_FLIPPED = frozenset("RAH")


def write_heat_png(
    path: Path,
    volume: Volume,
    label_map: NDArray[Any],
    heat: NDArray[np.float32],
    table: LabelTable,
    *,
    captions: Sequence[str],
    max_side: int = 640,
) -> None:
    """Write the image, the contours of its labels and a map over it; yellow to red for, blue against.

    Parameters
    ----------
    path : Path
        PNG, written whole or not at all.
    volume : Volume
        Of two or three axes.
    label_map : (*source) integer array
        Class indices.
    heat : (*source) float32 array
        Shown relative to its largest size.
    table : LabelTable
    captions : sequence of str
        Lines below the picture.
    max_side : int, optional
        Longer side of each view in pixels.
    """
    peak = np.unravel_index(int(np.argmax(np.abs(heat))), heat.shape)
    scale = float(np.abs(heat).max()) or 1.0
    gray = window_of(volume)
    channel = volume.array.mean(axis=0, dtype=np.float32)
    views = []
    for index, directions, spacing in _views(volume, peak):
        parts = [gray.gray(channel[index]), label_map[index], heat[index] / scale]
        letters = None if directions is None else list(directions)
        for axis in range(2):
            if letters is not None and volume.spatial_dims == 3 and letters[axis][:1] in _FLIPPED:
                parts = [np.flip(part, axis) for part in parts]
                letters[axis] = "".join(_OPPOSITE[letter] for letter in letters[axis])
        views.append(
            _view(parts, table, spacing, None if letters is None else (letters[0], letters[1]), max_side)
        )
    sheet = _side_by_side(views)
    found = frozenset(np.unique(label_map).tolist())
    entries = legend(table, found=found) + [(text, (236, 110, 20)) for text in captions]
    with whole_file(path) as part:
        with_legend(sheet, entries, part=60).save(part, format="PNG", optimize=False)


_OPPOSITE = {"L": "R", "R": "L", "A": "P", "P": "A", "H": "F", "F": "H"}
_View = tuple[Any, tuple[str, str] | None, tuple[float, float]]


def _views(volume: Volume, peak: Sequence[Any]) -> list[_View]:
    """Index, directions and spacing of each view."""
    if volume.spatial_dims == 2:
        spacing = volume.spacing_mm or (1.0, 1.0)
        return [((slice(None), slice(None)), volume.patient_orientation, (spacing[0], spacing[1]))]
    steps = volume.spacing_mm or (1.0, 1.0, 1.0)
    directions = None if volume.affine is None else axis_directions(volume.affine)
    views: list[_View] = []
    for axis in (2, 1, 0):
        index: list[Any] = [slice(None)] * 3
        index[axis] = int(peak[axis])
        a, b = (k for k in range(3) if k != axis)
        views.append(
            (
                tuple(index),
                None if directions is None else (directions[a], directions[b]),
                (steps[a], steps[b]),
            )
        )
    return views


def _view(
    parts: Sequence[NDArray[Any]],
    table: LabelTable,
    spacing: tuple[float, float],
    orientation: tuple[str, str] | None,
    max_side: int,
) -> Image.Image:
    gray, label_map, heat = parts
    lengths = [n * step for n, step in zip(gray.shape, spacing, strict=True)]
    width, height = (max(1, round(max_side * length / max(lengths))) for length in lengths)
    picture = draw_overlay(gray, label_map, table, size=(width, height), orientation=orientation)
    opacity = Image.fromarray(np.uint8(np.abs(heat).T * 255 * _OPACITY))
    mask = opacity.resize((width, height), Image.Resampling.BILINEAR)
    colours = Image.fromarray(_colours(heat.T)).resize((width, height), Image.Resampling.NEAREST)
    picture.paste(colours, mask=mask)
    return picture


def _colours(heat: NDArray[np.float32]) -> NDArray[np.uint8]:
    """(..., 3) colour of each value in -1..1."""
    size = np.clip(np.abs(heat), 0, 1)
    stops = np.linspace(0, 1, len(_FOR))
    both = [
        np.stack([np.interp(size, stops, ramp[:, band]) for band in range(3)], axis=-1)
        for ramp in (_FOR, _AGAINST)
    ]
    return np.where((heat >= 0)[..., None], both[0], both[1]).astype(np.uint8)


def _side_by_side(views: Sequence[Image.Image]) -> Image.Image:
    if len(views) == 1:
        return views[0]
    sheet = Image.new(
        "RGB", (sum(v.width for v in views) + 8 * (len(views) - 1), max(v.height for v in views)), DARK
    )
    left = 0
    for view in views:
        sheet.paste(view, (left, (sheet.height - view.height) // 2))
        left += view.width + 8
    return sheet
