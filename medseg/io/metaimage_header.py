"""MetaImage headers (.mha, .mhd): sizes, types and directions, read without any library."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from medseg.errors import ImageReadError
from medseg.geometry import affine_lps_to_ras
from medseg.io.limits import ReadLimits
from medseg.io.orientation import LARGEST_MM, SMALLEST_MM, check_affine
from medseg.io.text_header import (
    MAX_HEADER,
    TextHeader,
    file_beside,
    full_affine,
    numbers,
    read_header_bytes,
    whole_numbers,
)
from medseg.volume import SpacingOrigin

# MET_LONG has four bytes whatever the machine (metaTypes.h).
_TYPES = {
    "CHAR": "i1",
    "UCHAR": "u1",
    "SHORT": "i2",
    "USHORT": "u2",
    "INT": "i4",
    "UINT": "u4",
    "LONG": "i4",
    "ULONG": "u4",
    "LONG_LONG": "i8",
    "ULONG_LONG": "u8",
    "FLOAT": "f4",
    "DOUBLE": "f8",
}
_ALIASES = {
    "Position": "Offset",
    "Origin": "Offset",
    "Rotation": "TransformMatrix",
    "Orientation": "TransformMatrix",
    "ElementByteOrderMSB": "BinaryDataByteOrderMSB",
}
_LAST = "ElementDataFile"
_KEYS = frozenset(
    (
        *("ObjectType", "NDims", "DimSize", "ElementNumberOfChannels", "ElementType", "ElementSpacing"),
        *("ElementSize", "Offset", "TransformMatrix", "BinaryData", "BinaryDataByteOrderMSB"),
        *("CompressedData", "HeaderSize", _LAST),
    )
)


class _Fields:
    """Fields of one header by name, and the byte after its last line."""

    def __init__(self, path: Path, data: bytes) -> None:
        self.path, self.end = path, 0
        self.fields: dict[str, str] = {}
        while self.end < len(data) and _LAST not in self.fields:
            stop = data.find(b"\n", self.end)
            stop = len(data) if stop < 0 else stop
            line = data[self.end : stop].decode("utf-8", "replace").strip()
            self.end = min(stop + 1, len(data))
            if line:
                self._add(line)
        if _LAST not in self.fields:
            raise ImageReadError(
                f"{path}: the MetaImage header has no {_LAST} in its first {MAX_HEADER >> 10} KiB"
            )

    def _add(self, line: str) -> None:
        name, equals, value = line.partition("=")
        name = _ALIASES.get(name.strip(), name.strip())
        if not equals or name not in _KEYS:
            return  # programs add keys of their own, with texts of several lines
        if name in self.fields:
            raise ImageReadError(f"{self.path}: the MetaImage header has the key {name[:40]!r} twice")
        self.fields[name] = value.strip()

    def flag(self, name: str, *, default: bool) -> bool:
        """Value of a key that says True or False."""
        text = self.fields.get(name, str(default)).lower()
        if text not in ("true", "false", "1", "0"):
            raise ImageReadError(f"{self.path}: expected True or False for {name}, found {text[:40]!r}")
        return text in ("true", "1")

    def whole(self, name: str, *, count: int, default: str | None = None) -> tuple[int, ...]:
        """Whole numbers of a key."""
        text = self.fields.get(name, default)
        if text is None:
            raise ImageReadError(f"{self.path}: the MetaImage header has no key {name}")
        return whole_numbers(text, self.path, name, count=count)


def parse_metaimage_header(path: Path, limits: ReadLimits) -> TextHeader:
    """Header of a MetaImage file, checked against the limits.

    World is LPS+ in the file, as in ITK. A header with an offset but no TransformMatrix has the
    format's default axes, with a note; one with neither has no patient coordinates.

    Raises
    ------
    ImageReadError
        A key that is missing, twice, or senseless; too many voxels; a voxel file elsewhere.
    GeometryError
        Directions that are damaged.

    References
    ----------
    MetaIO, https://github.com/Kitware/MetaIO: metaImage.cxx, metaTypes.h.
    """
    fields = _Fields(path, read_header_bytes(path))
    kind = fields.fields.get("ObjectType", "Image")
    if kind.lower() != "image":
        raise ImageReadError(f"{path}: expected a MetaImage of type Image, found {kind[:40]!r}")
    dims = fields.whole("NDims", count=1)[0]
    if not 2 <= dims <= 4:
        raise ImageReadError(f"{path}: the header says the image has {dims} axes, expected 2 or 3")
    sizes = fields.whole("DimSize", count=dims)
    channels = fields.whole("ElementNumberOfChannels", count=1, default="1")[0]
    if min(*sizes, channels) < 1:
        raise ImageReadError(f"{path}: the image has no voxels: its shape is {sizes}, {channels} channels")
    limits.check_voxels(path, (channels, *sizes))
    notes: list[str] = []
    affine, spacing, origin = _grid(fields, dims, notes)
    data_path, offset = _data(fields)
    return TextHeader(
        shape=(channels, *sizes),
        axes=("channel", *("space" if axis < 3 else "list" for axis in range(dims))),
        dtype=_dtype(fields),
        encoding=_encoding(fields),  # type: ignore[arg-type]
        data_path=data_path,
        offset=offset,
        affine=affine,
        spacing_mm=spacing,
        spacing_origin=origin,
        notes=tuple(notes),
    )


def _dtype(fields: _Fields) -> np.dtype[np.generic]:
    name = fields.fields.get("ElementType", "")
    code = _TYPES.get(name.removeprefix("MET_").removesuffix("_ARRAY"))
    if code is None or not name.startswith("MET_"):
        raise ImageReadError(
            f"{fields.path}: expected voxels that are real numbers, found type {name[:40]!r}"
        )
    return np.dtype((">" if fields.flag("BinaryDataByteOrderMSB", default=False) else "<") + code)


def _encoding(fields: _Fields) -> str:
    if fields.flag("CompressedData", default=False):
        return "zlib"
    return "raw" if fields.flag("BinaryData", default=True) else "text"


def _data(fields: _Fields) -> tuple[Path, int]:
    """File of the voxels, and the byte where they begin, -1 for those that end the file."""
    name = fields.fields[_LAST]
    skip = fields.whole("HeaderSize", count=1, default="0")[0]
    if name.upper() == "LOCAL":
        return fields.path, fields.end
    if skip < -1 or (skip == -1 and _encoding(fields) != "raw"):
        raise ImageReadError(f"{fields.path}: HeaderSize {skip} is not read; write one .mha file")
    return file_beside(fields.path, name), skip


def _grid(
    fields: _Fields, dims: int, notes: list[str]
) -> tuple[NDArray[np.float64] | None, tuple[float, ...] | None, SpacingOrigin]:
    """Affine, spacing of the spatial axes, and where the spacing comes from."""
    space = min(dims, 3)
    spacing = _spacing(fields, dims)
    matrix, offset = fields.fields.get("TransformMatrix"), fields.fields.get("Offset")
    placed = (matrix is not None or offset is not None) and space == 3 and spacing is not None
    if not placed or spacing is None:
        if space == 3:
            notes.append(
                "the MetaImage file gives no offset and directions, or no spacing; its place is unknown"
            )
        return None, spacing, "unknown" if spacing is None else "pixel_spacing"
    if matrix is None:
        notes.append(
            "the MetaImage file gives no TransformMatrix; its axes are read as left, posterior, superior"
        )
    # One line of the matrix after the other is the direction of one voxel axis: MetaIO stores columns.
    directions = np.eye(dims)
    if matrix is not None:
        values = numbers(matrix, fields.path, "TransformMatrix", count=dims * dims)
        directions = np.array(values).reshape(dims, dims).T
    origin = np.zeros(dims)
    if offset is not None:
        origin = np.array(numbers(offset, fields.path, "Offset", count=dims))
    affine_lps = full_affine(directions[:3, :3] * np.array(spacing), origin[:3], fields.path)
    affine = affine_lps_to_ras(affine_lps) + 0.0  # no negative zeros
    check_affine(affine, fields.path)
    return affine, tuple(float(v) for v in np.linalg.norm(affine[:3, :3], axis=0)), "affine"


def _spacing(fields: _Fields, dims: int) -> tuple[float, ...] | None:
    """Distance of voxel centres; None where it is not given, or 1 in a picture, as converters write."""
    name = "ElementSpacing" if "ElementSpacing" in fields.fields else "ElementSize"
    text = fields.fields.get(name)
    if text is None:
        return None
    values = numbers(text, fields.path, name, count=dims)[:3]
    if not all(SMALLEST_MM <= value <= LARGEST_MM for value in values):
        raise ImageReadError(f"{fields.path}: expected spacings in mm in {name}, found {text[:60]!r}")
    return None if len(values) == 2 and set(values) == {1.0} else values
