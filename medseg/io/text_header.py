"""What the text headers of NRRD and MetaImage say, in one form, and the files they may name."""

from __future__ import annotations

import math
import os
import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from medseg.errors import GeometryError, ImageReadError
from medseg.io.foreign import foreign_parser
from medseg.io.limits import open_regular
from medseg.io.orientation import check_numbers
from medseg.io.voxel_stream import Encoding
from medseg.volume import SpacingOrigin

MAX_HEADER = 1 << 20
AxisKind = Literal["space", "channel", "list"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TextHeader:
    """A header, checked, and where its voxels are.

    Parameters
    ----------
    shape : tuple of int
        Stored axes, the fastest first.
    axes : tuple of str
        What each axis is: "space", "channel" (components of one voxel) or "list" (volumes).
    dtype : numpy dtype
        Of one value, in the file's byte order.
    encoding : str
        "raw", "gzip", "zlib", "bzip2", or "text" for numbers written out.
    data_path : Path
        The file itself, or a file in its folder or below.
    offset : int
        Byte of the first voxel in `data_path`; -1 where the voxels end the file.
    skip : int
        Bytes to leave out after decoding.
    affine : (4, 4) float64 array or None
        Of the spatial axes in their order, to RAS+ mm; may be sheared.
    spacing_mm : tuple of float, or None
    spacing_origin : str
    notes : tuple of str
    """

    shape: tuple[int, ...]
    axes: tuple[AxisKind, ...]
    dtype: np.dtype[Any]
    encoding: Encoding | Literal["text"]
    data_path: Path
    offset: int
    skip: int = 0
    affine: NDArray[np.float64] | None
    spacing_mm: tuple[float, ...] | None
    spacing_origin: SpacingOrigin
    notes: tuple[str, ...] = ()

    @property
    def voxel_bytes(self) -> int:
        """Bytes that all values take in memory."""
        return math.prod(self.shape) * self.dtype.itemsize

    def sizes(self, kind: AxisKind) -> tuple[int, ...]:
        """Lengths of the axes of one kind, in their order."""
        return tuple(n for n, axis in zip(self.shape, self.axes, strict=True) if axis == kind)


def read_header_bytes(path: Path) -> bytes:
    """The first MiB of a file, which must hold the header."""
    with foreign_parser(path, "the header cannot be read"), open_regular(path) as stream:
        return stream.read(MAX_HEADER)


def file_beside(path: Path, name: str) -> Path:
    """The voxel file that a header names, which must lie in the header's folder or below.

    Raises
    ------
    ImageReadError
        A pattern or list, an absolute name, one that leaves the folder by `..` or by a link, or a
        file that is not there.
    """
    shown = repr(name[:80])
    if "%" in name or re.match(r"LIST\b", name, re.IGNORECASE):
        raise ImageReadError(
            f"{path}: the voxels lie in several files ({shown}), which are not read; write one .nrrd or .mha file"
        )
    parts = (*PurePosixPath(name).parts, *PureWindowsPath(name).parts)
    rooted = name.startswith(("/", "\\", "~")) or PureWindowsPath(name).drive != ""
    if not name or "\0" in name or rooted or ".." in parts:
        raise ImageReadError(
            f"{path}: the header names the voxel file {shown}; expected a file in the folder of the header"
        )
    found = path.parent / name
    folder = os.path.realpath(path.parent)
    if os.path.commonpath([folder, os.path.realpath(found)]) != folder:
        raise ImageReadError(f"{path}: the voxel file {shown} is a link that leaves the folder of the header")
    if not found.is_file():
        raise ImageReadError(f"{path}: the voxel file {shown} that the header names is not there")
    return found


def numbers(text: str, path: Path, field: str, *, count: int | None = None) -> tuple[float, ...]:
    """Numbers of a header field, finite or not.

    Raises
    ------
    ImageReadError
        Something else than numbers, or another count.
    """
    parts = text.replace(",", " ").split()
    try:
        values = tuple(float(part) for part in parts)
    except ValueError:
        values = ()
    if not values or (count is not None and len(values) != count):
        wanted = "numbers" if count is None else f"{count} numbers"
        raise ImageReadError(f"{path}: expected {wanted} in the field {field!r}, found {text[:60]!r}")
    return values


def whole_numbers(text: str, path: Path, field: str, *, count: int) -> tuple[int, ...]:
    """Whole numbers below 2^63 of a header field."""
    parts = text.split()
    if len(parts) != count or not all(re.fullmatch(r"-?\d{1,18}", part) for part in parts):
        raise ImageReadError(
            f"{path}: expected {count} whole numbers in the field {field!r}, found {text[:60]!r}"
        )
    return tuple(int(part) for part in parts)


def full_affine(columns: NDArray[np.float64], origin: NDArray[np.float64], path: Path) -> NDArray[np.float64]:
    """(4, 4) affine from two or three axes and an origin in 3-D; one slice gets its unit normal.

    Raises
    ------
    GeometryError
        Numbers that are not finite or beyond any scanner's; two axes of a slice that are parallel.
    """
    affine = np.eye(4)
    affine[:3, : columns.shape[1]] = columns
    affine[:3, 3] = origin
    check_numbers(affine, path)
    if columns.shape[1] == 2:
        normal = np.cross(columns[:, 0], columns[:, 1])
        length = float(np.linalg.norm(normal))
        if not length > 0:
            raise GeometryError(f"{path}: the two axes of the image are parallel or have no length")
        affine[:3, 2] = normal / length
    return affine + 0.0  # no negative zeros
