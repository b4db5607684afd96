"""NRRD, MetaImage and the other formats of ITK -> Volume.

NRRD, MetaImage and VTK are read here, header and voxels: the libraries copy the voxels, some bring
sheared directions into a right angle or hang on a damaged file, and all follow whatever file a header
names. SimpleITK reads the rest, in a process of its own.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medseg.errors import ImageReadError
from medseg.io.content import check_finite, pixel_digest
from medseg.io.foreign import foreign_parser
from medseg.io.limits import DEFAULT_LIMITS, ReadLimits
from medseg.io.metaimage_header import parse_metaimage_header
from medseg.io.nrrd_header import parse_nrrd_header
from medseg.io.orientation import letters_of_affine
from medseg.io.simpleitk_image import as_nrrd
from medseg.io.sniff import Kind, sniff
from medseg.io.text_header import TextHeader
from medseg.io.voxel_stream import check_present, drain, fill, native, open_voxels, skip_bytes
from medseg.io.vtk_header import parse_vtk_header
from medseg.provenance import sha256_file
from medseg.volume import Source, Volume

_MAX_TEXT = 64 << 20
_PARSERS: dict[Kind, Callable[[Path, ReadLimits], TextHeader]] = {
    "nrrd": parse_nrrd_header,
    "metaimage": parse_metaimage_header,
    "vtk": parse_vtk_header,
}


def read_itk(path: Path, *, volume: int | None = None, limits: ReadLimits = DEFAULT_LIMITS) -> Volume:
    """Read an image or label map in a format of the ITK world, told by content.

    Parameters
    ----------
    path : Path
        NRRD (.nrrd, or .nhdr with its voxel file), MetaImage (.mha, or .mhd with its voxel file), VTK
        structured points, or, through SimpleITK, MINC 2 and ITK's HDF5.
    volume : int, optional
        Which volume of a file that is a list of volumes, from 0, in the order they are stored.
    limits : ReadLimits, optional

    Returns
    -------
    Volume
        array (C, I, J, K), or (C, I, J) for files with one slice, in the stored type; components of a
        voxel (RGB, vectors) are its channels. The affine is that of the file, sheared where the file's
        is, turned from LPS+ into RAS+; None where the file names no patient axes, as VTK files do.

    Raises
    ------
    ImageReadError
        Truncated, damaged or too large, NaN or infinity, a header that names a voxel file outside of
        its folder, several voxel files, or a list of volumes and no `volume`.
    GeometryError
        Directions that are damaged.
    """
    path = Path(path)
    kind = sniff(path)
    if kind == "itk_hdf5":
        with as_nrrd(path, limits) as converted:
            header = parse_nrrd_header(converted, limits)
            return _volume((path,), header, volume, limits)
    if kind not in _PARSERS:
        raise ImageReadError(f"{path}: expected NRRD, MetaImage, MINC, HDF5 or VTK, found another format")
    header = _PARSERS[kind](path, limits)
    return _volume(tuple(dict.fromkeys((path, header.data_path))), header, volume, limits)


def itk_files(path: Path, limits: ReadLimits = DEFAULT_LIMITS) -> tuple[Path, ...]:
    """The file, and the voxel file that its header names where that is another.

    Raises
    ------
    ImageReadError
        The header is damaged, or names a file that may not be read.
    """
    parse = _PARSERS.get(sniff(path))
    return (path,) if parse is None else tuple(dict.fromkeys((path, parse(path, limits).data_path)))


def _volume(files: tuple[Path, ...], header: TextHeader, volume: int | None, limits: ReadLimits) -> Volume:
    """What a checked header and its voxels mean; the first of `files` is the one that was asked for."""
    path = files[0]
    index = _index(header, volume, path)
    if sum(n > 1 for n in header.sizes("space")) < 3:
        limits.check_pixels(path, (*header.sizes("space"), *header.sizes("channel")))
    stored, extra = _stored(header, path)
    array = _channels_first(stored, header, index)
    check_finite(array, path)
    flat = array.ndim == 3
    affine = header.affine
    notes = [f"{extra} bytes after the voxels were not used"] if extra else []
    return Volume(
        array=array,
        affine=affine,
        spacing_mm=None if header.spacing_mm is None else header.spacing_mm[: array.ndim - 1],
        spacing_origin=header.spacing_origin,
        patient_orientation=letters_of_affine(affine) if flat and affine is not None else None,
        source=Source(paths=(path,), format="itk", sha256=_sha256_of(files)),
        pixel_sha256=pixel_digest(array),
        notes=(*header.notes, *notes),
    )


def _sha256_of(files: tuple[Path, ...]) -> str:
    digests = [sha256_file(path) for path in files]
    return digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()


def _index(header: TextHeader, volume: int | None, path: Path) -> int:
    """Number of the volume to take."""
    count = math.prod(header.sizes("list"))
    if volume is None and count > 1:
        raise ImageReadError(
            f"{path}: expected 2 or 3 axes, found shape {header.shape}; write each volume into a file of "
            f"its own, or choose one, from 0 to {count - 1}"
        )
    if volume is not None and not 0 <= volume < count:
        raise ImageReadError(f"{path}: there is no volume {volume}: the file holds volumes 0 to {count - 1}")
    return volume or 0


def _channels_first(stored: NDArray[Any], header: TextHeader, index: int) -> NDArray[Any]:
    """(C, I, J) or (C, I, J, K) view of the stored axes, one volume of the list."""
    order = [a for kind in ("list", "channel", "space") for a, axis in enumerate(header.axes) if axis == kind]
    turned = stored.transpose(order)
    lists = header.sizes("list")
    one = turned[np.unravel_index(index, lists, order="F")] if lists else turned
    one = one if header.sizes("channel") else one[np.newaxis]
    one = one[..., 0] if one.ndim == 4 and one.shape[-1] == 1 else one
    # A view of one volume would keep all of them in memory.
    return one.copy(order="K") if math.prod(lists) > 1 else one


def _stored(header: TextHeader, path: Path) -> tuple[NDArray[Any], int]:
    """All stored values in their order, native bytes, and the number of bytes after them."""
    if header.encoding == "text":
        return _numbers_written_out(header, path).reshape(header.shape, order="F"), 0
    wanted = header.skip + header.voxel_bytes
    data, offset = header.data_path, header.offset
    if offset < 0:
        offset = max(data.stat().st_size - wanted, 0)
    check_present(data, wanted, header.encoding, offset=offset)
    with (
        foreign_parser(data, "the voxels are damaged or truncated"),
        open_voxels(data, header.encoding, offset=offset) as stream,
    ):
        there = skip_bytes(stream, header.skip)
        flat, filled = fill(stream, header.dtype, math.prod(header.shape))
        extra = drain(stream, data)
    if there + filled < wanted:
        raise ImageReadError(
            f"{data}: the file is truncated: the header asks for {wanted} bytes of voxels, "
            f"{there + filled} are there"
        )
    return native(flat).reshape(header.shape, order="F"), extra


def _numbers_written_out(header: TextHeader, path: Path) -> NDArray[Any]:
    """Voxels that are written as text, at most 64 MiB of it."""
    count, data = math.prod(header.shape), header.data_path
    with (
        foreign_parser(data, "the voxels cannot be read"),
        open_voxels(data, "raw", offset=header.offset) as stream,
    ):
        text = stream.read(_MAX_TEXT + 1)
    words = text.split() if len(text) <= _MAX_TEXT else []
    if len(words) != count:
        raise ImageReadError(
            f"{path}: expected {count} numbers written as text in at most {_MAX_TEXT >> 20} MiB, "
            f"found {len(words) or 'more text'}"
        )
    with foreign_parser(data, "the voxels are not numbers of the type that the header says"):
        if header.dtype.kind == "f":
            return np.array(words, dtype="S").astype(header.dtype.newbyteorder("="))
        return np.array([int(word) for word in words], dtype=header.dtype.newbyteorder("="))
