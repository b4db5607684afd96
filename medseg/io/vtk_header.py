"""Headers of VTK's legacy structured points: a box of voxels with origin and spacing, no patient axes."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from medseg.errors import ImageReadError
from medseg.io.limits import ReadLimits
from medseg.io.orientation import LARGEST_MM, SMALLEST_MM
from medseg.io.text_header import TextHeader, numbers, read_header_bytes, whole_numbers

_TYPES = {
    "char": "i1",
    "unsigned_char": "u1",
    "short": "i2",
    "unsigned_short": "u2",
    "int": "i4",
    "unsigned_int": "u4",
    "vtktypeint64": "i8",
    "vtktypeuint64": "u8",
    "float": "f4",
    "double": "f8",
}
_MAX_LINES = 64


def parse_vtk_header(path: Path, limits: ReadLimits) -> TextHeader:
    """Header of a VTK file (version 1 to 5) that holds one array of structured points.

    Raises
    ------
    ImageReadError
        Another kind of data set, a field that is missing or senseless, too many voxels.

    References
    ----------
    VTK file formats, https://docs.vtk.org/en/latest/vtk_file_formats/vtk_legacy_file_format.html.
    """
    lines, end = _lines(read_header_bytes(path), path)
    if lines.get("DATASET", "").strip().upper() != "STRUCTURED_POINTS":
        raise ImageReadError(
            f"{path}: expected a VTK file with structured points, found {lines.get('DATASET', 'nothing')[:40]!r}"
        )
    shape = whole_numbers(lines.get("DIMENSIONS", ""), path, "DIMENSIONS", count=3)
    words = lines["SCALARS"].split()
    components = int(words[2]) if len(words) > 2 and words[2] in ("1", "2", "3", "4") else 1
    if len(words) < 2 or words[1].lower() not in _TYPES:
        raise ImageReadError(f"{path}: expected voxels that are real numbers, found {words[1:2]}")
    if min(shape) < 1:
        raise ImageReadError(f"{path}: the image has no voxels: its shape is {shape}")
    limits.check_voxels(path, (components, *shape))
    spacing = numbers(lines.get("SPACING", lines.get("ASPECT_RATIO", "")), path, "SPACING", count=3)
    known = all(SMALLEST_MM <= v <= LARGEST_MM for v in spacing) and set(spacing) != {1.0}
    return TextHeader(
        shape=(components, *shape),
        axes=("channel", "space", "space", "space"),
        dtype=np.dtype(">" + _TYPES[words[1].lower()]),
        encoding="raw" if "BINARY" in lines else "text",
        data_path=path,
        offset=end,
        affine=None,
        spacing_mm=spacing if known else None,
        spacing_origin="pixel_spacing" if known else "unknown",
        notes=("a VTK file names no patient axes; its orientation is unknown",),
    )


def _lines(data: bytes, path: Path) -> tuple[dict[str, str], int]:
    """Text after each key word of the header, and the byte where the voxels begin."""
    found: dict[str, str] = {}
    at = 0
    for number in range(_MAX_LINES):
        stop = data.find(b"\n", at)
        if stop < 0:
            break
        line = data[at:stop].decode("utf-8", "replace").strip()
        key, _, rest = line.partition(" ")
        if number >= 2 and key:  # version and title come first
            if "SCALARS" in found and key.upper() != "LOOKUP_TABLE":
                break
            found.setdefault(key.upper(), rest)
        at = stop + 1
        if "LOOKUP_TABLE" in found:
            break
    if "SCALARS" not in found:
        raise ImageReadError(f"{path}: the VTK file holds no scalars; other arrays are not read")
    return found, at
