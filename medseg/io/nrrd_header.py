"""NRRD headers: sizes, types, axes and directions, read without any library so that nothing is lost.

Libraries on top of ITK bring the directions of some formats into a right angle; a gantry-tilted CT in
NRRD has sheared directions that must survive.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from medseg.errors import GeometryError, ImageReadError
from medseg.io.limits import ReadLimits
from medseg.io.orientation import LARGEST_MM, SMALLEST_MM, check_affine
from medseg.io.text_header import (
    AxisKind,
    TextHeader,
    file_beside,
    full_affine,
    numbers,
    read_header_bytes,
    whole_numbers,
)
from medseg.io.voxel_stream import Encoding
from medseg.volume import SpacingOrigin

_TYPES = {
    "i1": "signed char|int8|int8_t",
    "u1": "uchar|unsigned char|uint8|uint8_t",
    "i2": "short|short int|signed short|signed short int|int16|int16_t",
    "u2": "ushort|unsigned short|unsigned short int|uint16|uint16_t",
    "i4": "int|signed int|int32|int32_t",
    "u4": "uint|unsigned int|uint32|uint32_t",
    "i8": "longlong|long long|long long int|signed long long|signed long long int|int64|int64_t",
    "u8": "ulonglong|unsigned long long|unsigned long long int|uint64|uint64_t",
    "f4": "float",
    "f8": "double",
}
_TYPE_CODES = {name: code for code, names in _TYPES.items() for name in names.split("|")}
_ENCODINGS: dict[str, Encoding | str] = {
    "raw": "raw",
    "gz": "gzip",
    "gzip": "gzip",
    "bz2": "bzip2",
    "bzip2": "bzip2",
    "txt": "text",
    "text": "text",
    "ascii": "text",
}
# Factor of each world axis to right, anterior, superior.
_SPACES = {
    "right-anterior-superior": (1, 1, 1),
    "ras": (1, 1, 1),
    "left-anterior-superior": (-1, 1, 1),
    "las": (-1, 1, 1),
    "left-posterior-superior": (-1, -1, 1),
    "lps": (-1, -1, 1),
}
_MM_PER_UNIT = {
    "mm": 1.0,
    "cm": 10.0,
    "m": 1000.0,
    "um": 0.001,
    "µm": 0.001,
    "micron": 0.001,
    "microns": 0.001,
}
_SPATIAL = ("domain", "space")
_LISTS = ("list", "time", "none", "???", "point", "covariant-vector", "normal")
_COMPONENTS = re.compile(r"vector|(rgb|hsv|xyz|rgba)-color|[234]-(vector|color)|scalar|stub")
_PER_AXIS = re.compile(r"none|\([^()]*\)")


class _Fields:
    """Fields of one header by their lower-case names, and where the header ends."""

    def __init__(self, path: Path, data: bytes) -> None:
        self.path = path
        head, self.end, self.lines_end = _split(data, path)
        self.fields: dict[str, str] = {}
        for line in head[1:]:
            if line.startswith("#") or ":=" in line.partition(": ")[0]:
                continue
            name, colon, value = line.partition(":")
            if not colon:
                raise ImageReadError(
                    f"{path}: expected `field: value` in the NRRD header, found {line[:60]!r}"
                )
            key = name.strip().lower().replace("datafile", "data file").replace("centerings", "centers")
            if key in self.fields:
                raise ImageReadError(f"{path}: the NRRD header has the field {key!r} twice")
            self.fields[key] = value.strip()
            if key == "data file" and re.match(r"LIST\b", value.strip(), re.IGNORECASE):
                break  # names of files follow, not fields; file_beside refuses them

    def get(self, name: str) -> str | None:
        return self.fields.get(name)

    def need(self, name: str) -> str:
        value = self.fields.get(name)
        if value is None:
            raise ImageReadError(f"{self.path}: the NRRD header has no field {name!r}")
        return value


def _split(data: bytes, path: Path) -> tuple[list[str], int, bool]:
    """Lines of the header, the byte after the blank line that ends it, and whether there was one."""
    blank = re.search(rb"\r?\n\r?\n", data)
    end = blank.end() if blank else len(data)
    lines = data[: blank.start() if blank else end].decode("utf-8", "replace").splitlines()
    return [line for line in lines if line.strip()], end, blank is not None


def parse_nrrd_header(path: Path, limits: ReadLimits) -> TextHeader:
    """Header of an NRRD file (.nrrd) or of a detached header (.nhdr), checked against the limits.

    Axes without direction are components of a voxel where their `kind` says so, else a list of
    volumes. The affine is None where `space` is missing or is not one of the patient spaces.

    Raises
    ------
    ImageReadError
        A field that is missing, twice, or senseless; too many voxels; a voxel file elsewhere.
    GeometryError
        Directions that are damaged, or units of length that are not known.

    References
    ----------
    Definition of NRRD file format, https://teem.sourceforge.net/nrrd/format.html.
    """
    fields = _Fields(path, read_header_bytes(path))
    dimension = whole_numbers(fields.need("dimension"), path, "dimension", count=1)[0]
    if not 1 <= dimension <= 16:
        raise ImageReadError(f"{path}: the header says the image has {dimension} axes, expected 2 or 3")
    shape = whole_numbers(fields.need("sizes"), path, "sizes", count=dimension)
    if min(shape) < 1:
        raise ImageReadError(f"{path}: the image has no voxels: its shape is {shape}")
    limits.check_voxels(path, shape)
    vectors = _directions(fields, dimension)
    axes = _axes(fields, dimension, vectors)
    notes: list[str] = []
    affine, spacing, origin = _grid(fields, axes, vectors, notes)
    data_path, offset, skip = _data(fields)
    return TextHeader(
        shape=shape,
        axes=axes,
        dtype=_dtype(fields),
        encoding=_encoding(fields),  # type: ignore[arg-type]
        data_path=data_path,
        offset=offset,
        skip=skip,
        affine=affine,
        spacing_mm=spacing,
        spacing_origin=origin,
        notes=tuple(notes),
    )


def _dtype(fields: _Fields) -> np.dtype[np.generic]:
    name = re.sub(r"\s+", " ", fields.need("type").lower())
    code = _TYPE_CODES.get(name)
    if code is None:
        raise ImageReadError(
            f"{fields.path}: expected voxels that are real numbers, found type {name[:40]!r}"
        )
    order = (fields.get("endian") or "").lower()
    if order not in ("little", "big") and code[1] != "1" and _encoding(fields) != "text":
        raise ImageReadError(
            f"{fields.path}: the field 'endian' should say little or big, found {order[:20]!r}"
        )
    return np.dtype((">" if order == "big" else "<") + code)


def _encoding(fields: _Fields) -> str:
    name = fields.need("encoding").lower()
    if name not in _ENCODINGS:
        raise ImageReadError(f"{fields.path}: the NRRD encoding {name[:20]!r} is not read; use raw or gzip")
    return _ENCODINGS[name]


def _directions(fields: _Fields, dimension: int) -> list[NDArray[np.float64] | None] | None:
    """Direction of each axis in the header's space, None for axes that have none; None without any."""
    text = fields.get("space directions")
    if text is None:
        return None
    tokens = _PER_AXIS.findall(text)
    if len(tokens) != dimension or _PER_AXIS.sub("", text).strip():
        raise ImageReadError(
            f"{fields.path}: expected {dimension} vectors or `none` in 'space directions', found {text[:60]!r}"
        )
    vectors = [None if t == "none" else _vector(t, fields, "space directions") for t in tokens]
    # Writers mark an axis without direction by NaN as well.
    return [None if v is None or np.isnan(v).all() else v for v in vectors]


def _vector(text: str, fields: _Fields, name: str) -> NDArray[np.float64]:
    size = _space_dimension(fields)
    return np.array(numbers(text.strip().strip("()"), fields.path, name, count=size), dtype=np.float64)


def _space_dimension(fields: _Fields) -> int:
    space = (fields.get("space") or "").lower()
    if space:
        return (
            4 if space.endswith("-time") or space in ("rast", "last", "lpst", "3d-right-handed-time") else 3
        )
    text = fields.get("space dimension")
    return 3 if text is None else whole_numbers(text, fields.path, "space dimension", count=1)[0]


def _axes(
    fields: _Fields, dimension: int, vectors: list[NDArray[np.float64] | None] | None
) -> tuple[AxisKind, ...]:
    text = fields.get("kinds") or ""
    kinds = text.lower().split() or ["domain"] * dimension
    if len(kinds) != dimension:
        raise ImageReadError(f"{fields.path}: expected {dimension} words in 'kinds', found {text[:60]!r}")
    axes: list[AxisKind] = []
    for axis, kind in enumerate(kinds):
        placed = vectors is not None and vectors[axis] is not None
        if placed or (vectors is None and kind in _SPATIAL):
            axes.append("space")
        elif _COMPONENTS.fullmatch(kind):
            axes.append("channel")
        elif kind in _LISTS or kind in _SPATIAL:
            axes.append("list")
        else:
            raise ImageReadError(f"{fields.path}: voxels of kind {kind[:30]!r} are not read as an image")
    spatial = axes.count("space")
    if vectors is None and not text and dimension > 3:
        raise ImageReadError(
            f"{fields.path}: {dimension} axes, and neither 'kinds' nor 'space directions' says which are space"
        )
    if spatial not in (2, 3):
        raise ImageReadError(f"{fields.path}: expected 2 or 3 spatial axes, found {spatial} of {dimension}")
    if axes.count("channel") > 1:
        raise ImageReadError(
            f"{fields.path}: expected one axis of components at most, found kinds {text[:60]!r}"
        )
    return tuple(axes)


def _grid(
    fields: _Fields,
    axes: tuple[AxisKind, ...],
    vectors: list[NDArray[np.float64] | None] | None,
    notes: list[str],
) -> tuple[NDArray[np.float64] | None, tuple[float, ...] | None, SpacingOrigin]:
    """Affine, spacing of the spatial axes, and where the spacing comes from."""
    if vectors is None:
        spacing = _plain_spacing(fields, axes, notes)
        return None, spacing, "unknown" if spacing is None else "pixel_spacing"
    columns = np.stack([v for v, axis in zip(vectors, axes, strict=True) if v is not None], axis=1)
    scale = _unit_scale(fields, columns.shape[0])
    columns = columns * scale[:, None]
    space = (fields.get("space") or "").lower()
    signs = _SPACES.get(space)
    if signs is None:
        _check_lengths(columns, fields)
        lengths = tuple(float(v) for v in np.linalg.norm(columns, axis=0))
        known = space != "" or not np.allclose(columns, np.eye(*columns.shape))
        named = f"is {space[:40]!r}" if space else "is not given"
        notes.append(f"the space of the NRRD file {named}, no patient axes; its orientation is unknown")
        return None, lengths if known else None, "pixel_spacing" if known else "unknown"
    text = fields.get("space origin")
    if text is None:
        notes.append("the NRRD file gives no space origin; read as 0")
    origin = np.zeros(3) if text is None else _vector(text, fields, "space origin") * scale
    affine = full_affine(np.array(signs)[:, None] * columns, np.array(signs) * origin, fields.path)
    check_affine(affine, fields.path)
    return affine, tuple(float(v) for v in np.linalg.norm(columns, axis=0)), "affine"


def _check_lengths(columns: NDArray[np.float64], fields: _Fields) -> None:
    lengths = np.linalg.norm(columns, axis=0)
    if not ((lengths >= SMALLEST_MM) & (lengths <= LARGEST_MM)).all():
        raise GeometryError(
            f"{fields.path}: 'space directions' are not finite or absurd: {lengths.tolist()} mm"
        )


def _unit_scale(fields: _Fields, size: int) -> NDArray[np.float64]:
    """Millimetres per unit of each world axis; NRRD files without units are in mm."""
    text = fields.get("space units")
    if text is None:
        return np.ones(size)
    units = re.findall(r'"([^"]*)"', text)
    if len(units) != size or not all(unit.lower() in _MM_PER_UNIT for unit in units):
        raise GeometryError(
            f"{fields.path}: expected {size} units of length such as \"mm\" in 'space units', found {text[:60]!r}"
        )
    return np.array([_MM_PER_UNIT[unit.lower()] for unit in units])


def _plain_spacing(fields: _Fields, axes: tuple[AxisKind, ...], notes: list[str]) -> tuple[float, ...] | None:
    """Spacing of a file without directions; None where it is missing, or 1 as converters write."""
    text = fields.get("spacings")
    if text is None:
        return None
    values = numbers(text, fields.path, "spacings", count=len(axes))
    units = re.findall(r'"([^"]*)"', fields.get("units") or "") or [""] * len(axes)
    if len(units) != len(axes):
        raise ImageReadError(f"{fields.path}: expected {len(axes)} words in 'units', found {len(units)}")
    found = [
        (abs(value), unit.lower())
        for value, unit, axis in zip(values, units, axes, strict=True)
        if axis == "space"
    ]
    if any(unit and unit not in _MM_PER_UNIT for _, unit in found):
        raise GeometryError(f"{fields.path}: the units {units} are not units of length that are known")
    sizes = tuple(value * _MM_PER_UNIT.get(unit, 1.0) for value, unit in found)
    if not all(SMALLEST_MM <= size <= LARGEST_MM for size in sizes):
        return None
    if not any(unit for _, unit in found):
        if all(size == 1 for size in sizes):
            return None
        notes.append("the file names no unit of length; its spacings are read as millimetres")
    return sizes


def _data(fields: _Fields) -> tuple[Path, int, int]:
    """File of the voxels, byte where they or their compressed stream begin, bytes to skip after that."""
    name = fields.get("data file")
    byte_skip = whole_numbers(fields.get("byte skip") or "0", fields.path, "byte skip", count=1)[0]
    line_skip = whole_numbers(fields.get("line skip") or "0", fields.path, "line skip", count=1)[0]
    raw = _encoding(fields) == "raw"
    if line_skip or byte_skip < (-1 if raw else 0):
        raise ImageReadError(
            f"{fields.path}: line skip {line_skip} and byte skip {byte_skip} are not read; write one .nrrd file"
        )
    if name is None and not fields.lines_end:
        raise ImageReadError(
            f"{fields.path}: the NRRD header does not end within its first MiB, or has no voxels"
        )
    path = fields.path if name is None else file_beside(fields.path, name)
    start = fields.end if name is None else 0
    if byte_skip == -1:
        return path, -1, 0
    return (path, start + byte_skip, 0) if raw else (path, start, byte_skip)
