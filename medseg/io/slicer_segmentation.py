"""Segmentations of 3D Slicer (.seg.nrrd): an NRRD label map whose header names the structures.

References
----------
3D Slicer documentation, Segmentations, "Segmentation file format"; NRRD key/value pairs,
https://teem.sourceforge.net/nrrd/format.html.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medseg.errors import LabelError
from medseg.io.itk_image import read_itk
from medseg.io.limits import DEFAULT_LIMITS, ReadLimits
from medseg.io.nrrd_header import parse_nrrd_header
from medseg.io.text_header import read_header_bytes
from medseg.labels import Label, LabelTable
from medseg.volume import Volume

_KEY = re.compile(r"Segment([0-9]{1,5})_(ID|Name|Color|LabelValue|Layer)")
_MOST_SEGMENTS = 65535
_GRAY = "#808080"


@dataclass(frozen=True, slots=True, kw_only=True)
class SlicerSegment:
    """One structure: its number in the header, name, "#rrggbb", and where its voxels are: layer and value."""

    number: int
    name: str
    colour: str
    layer: int
    value: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SlicerSegmentation:
    """A label map of 3D Slicer and its names.

    Parameters
    ----------
    volume : Volume
        (1, I, J, K) or (1, I, J) integers, values of `table`; the grid may be a part of the image's.
    table : LabelTable
        The segments in their order, values from 1.
    """

    volume: Volume
    table: LabelTable


def is_slicer_segmentation(path: Path) -> bool:
    """Whether an NRRD file names segments."""
    return bool(_segments(path))


def read_slicer_segmentation(path: Path, *, limits: ReadLimits = DEFAULT_LIMITS) -> SlicerSegmentation:
    """Read what 3D Slicer saved as a segmentation, all layers brought into one label map.

    Parameters
    ----------
    path : Path
    limits : ReadLimits, optional

    Raises
    ------
    ImageReadError, GeometryError
        As `itk_image.read_itk`.
    LabelError
        No segments, two of one name, segments that overlap, a voxel of no segment, or fractions.
    """
    segments = _segments(path)
    if not segments:
        raise LabelError(
            f"{path}: expected a segmentation of 3D Slicer, found an NRRD image without segments"
        )
    names = [segment.name.casefold() for segment in segments]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise LabelError(f"{path}: two segments are named {twice!r}; rename or join them in 3D Slicer")
    labels = tuple(
        Label(name=segment.name, value=place, colour=segment.colour)
        for place, segment in enumerate(segments, start=1)
    )
    return SlicerSegmentation(volume=_joined(path, segments, limits), table=LabelTable(labels=labels))


def _joined(path: Path, segments: tuple[SlicerSegment, ...], limits: ReadLimits) -> Volume:
    """All layers as one label map; the place of a segment in the list, from 1, is its value."""
    count = math.prod(parse_nrrd_header(path, limits).sizes("list"))
    volume = read_itk(path, volume=0, limits=limits)
    if volume.array.shape[0] != 1:
        raise LabelError(f"{path}: expected one value for each voxel, found {volume.array.shape[0]}")
    kind = np.uint8 if len(segments) < 256 else np.uint16
    result = np.zeros(volume.array.shape, dtype=kind, order="F")
    for layer in range(count):
        stored = volume.array if layer == 0 else read_itk(path, volume=layer, limits=limits).array
        _add_layer(result, stored, layer, segments, path)
    return replace(volume, array=result)


def _add_layer(
    result: NDArray[Any],
    stored: NDArray[Any],
    layer: int,
    segments: tuple[SlicerSegment, ...],
    path: Path,
) -> None:
    if stored.dtype.kind not in "iub" and (stored != np.rint(stored)).any():
        raise LabelError(f"{path}: expected whole numbers, found fractions; save a binary labelmap")
    left = stored != 0
    for place, segment in enumerate(segments, start=1):
        if segment.layer != layer:
            continue
        inside = stored == segment.value
        overlap = int(np.count_nonzero(inside & (result != 0)))
        if overlap:
            other = segments[int(result[inside & (result != 0)][0]) - 1].name
            raise LabelError(
                f"{path}: {segment.name} and {other} overlap in {overlap} voxels; a label map holds one structure "
                "per voxel: mask one by the other in 3D Slicer"
            )
        result[inside] = place
        left &= ~inside
    lost = int(np.count_nonzero(left))
    if lost:
        raise LabelError(f"{path}: {lost} voxels have the value {stored[left][0]:g}, which no segment names")


def _segments(path: Path) -> tuple[SlicerSegment, ...]:
    """What the header says of its segments, by their number."""
    fields: dict[int, dict[str, str]] = {}
    for number, key, value in _pairs(path):
        fields.setdefault(number, {})[key] = value
    flat = not any("Layer" in item for item in fields.values())
    found = [_segment(number, item, flat=flat, path=path) for number, item in sorted(fields.items())]
    return tuple(found)


def _segment(number: int, item: Mapping[str, str], *, flat: bool, path: Path) -> SlicerSegment:
    """One segment. Files of Slicer 4.10 have a layer for each, in their order, with the value 1."""
    layer, value = item.get("Layer", str(number if flat else 0)), item.get("LabelValue", "1")
    if not (layer.isascii() and layer.isdigit() and value.isascii() and value.isdigit()):
        raise LabelError(
            f"{path}: segment {number} has the layer {layer[:20]!r} and the value {value[:20]!r}"
        )
    return SlicerSegment(
        number=number,
        name=item.get("Name") or item.get("ID") or f"Segment_{number}",
        colour=_colour(item.get("Color", "")),
        layer=int(layer),
        value=int(value),
    )


def _colour(text: str) -> str:
    try:
        parts = [min(max(float(word), 0.0), 1.0) for word in text.split()]
    except ValueError:
        return _GRAY
    if len(parts) != 3 or any(part != part for part in parts):
        return _GRAY
    return "#" + "".join(f"{round(255 * part):02x}" for part in parts)


def _pairs(path: Path) -> Iterator[tuple[int, str, str]]:
    """(number, key, value) of the header's lines that speak of a segment."""
    head = re.split(rb"\r?\n\r?\n", read_header_bytes(path), maxsplit=1)[0]
    for line in head.decode("utf-8", "replace").splitlines():
        name, mark, value = line.partition(":=")
        match = _KEY.fullmatch(name.strip()) if mark else None
        if match is not None and int(match[1]) < _MOST_SEGMENTS:
            yield int(match[1]), match[2], value.strip().replace("\\n", " ").replace("\\\\", "\\")
