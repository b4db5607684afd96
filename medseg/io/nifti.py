"""NIfTI <-> Volume."""

from __future__ import annotations

import gzip
import io
import os
from contextlib import ExitStack
from pathlib import Path
from typing import Any, BinaryIO

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from medseg.errors import GeometryError, ImageReadError, LabelError, StorageError
from medseg.io.content import check_finite, pixel_digest
from medseg.io.foreign import foreign_parser
from medseg.io.limits import DEFAULT_LIMITS, ReadLimits, open_regular
from medseg.io.nifti_header import HEADER_BYTES, NiftiHeader, parse_nifti_header, set_grid
from medseg.io.orientation import letters_of_affine
from medseg.provenance import sha256_file, whole_file
from medseg.volume import Source, SpacingOrigin, Volume

_BLOCK = 1 << 20
_MAX_TRAILING = 64 << 20
_LABEL_TYPES = (np.uint8, np.int16, np.uint16, np.int32)


def read_nifti(path: Path, *, limits: ReadLimits = DEFAULT_LIMITS) -> Volume:
    """Read an image or label map from a .nii or .nii.gz file, to the last byte of its checksum.

    Parameters
    ----------
    path : Path
        NIfTI-1 or NIfTI-2 in one file; 2-D or 3-D, or an RGB picture.
    limits : ReadLimits, optional

    Returns
    -------
    Volume
        array (C, I, J, K), or (C, I, J) for files with one slice, in the stored type; float32 where
        the header scales the values (float64 stays float64). The affine is sform, else qform, and
        None where the file gives neither. A 2-D file whose affine is the one that picture converters
        write by default (1 mm, no offset) has unknown spacing; its affine is kept, so that a mask is
        written on the same grid. `patient_orientation` of 2-D files is derived from the affine: see
        `orientation.letters_of_affine` for what that means for chest films.

    Raises
    ------
    ImageReadError
        Truncated, damaged, a wrong gzip checksum, too large, NaN or infinity, more than three axes.
    GeometryError
        A damaged affine.

    References
    ----------
    NIfTI-1.1 data format, nifti1.h, https://nifti.nimh.nih.gov/nifti-1.
    """
    path = Path(path)
    header, stored, extra = _read_all(path, limits)
    array = _scaled(_channels_first(stored, header, path), header)
    check_finite(array, path)
    affine = header.affine
    flat = array.ndim == 3
    spacing, origin, notes = _spacing(header, flat)
    return Volume(
        array=array,
        affine=affine,
        spacing_mm=spacing,
        spacing_origin=origin,
        patient_orientation=letters_of_affine(affine) if flat and affine is not None else None,
        source=Source(paths=(path,), format="nifti", sha256=sha256_file(path)),
        pixel_sha256=pixel_digest(array),
        notes=(*header.notes, *notes, *([f"{extra} bytes after the voxels were not used"] if extra else [])),
        header=header.facts,
    )


def _read_all(path: Path, limits: ReadLimits) -> tuple[NiftiHeader, NDArray[Any], int]:
    """Header, stored voxels, and the number of bytes after them."""
    with ExitStack() as stack:
        stack.enter_context(foreign_parser(path, "the file is damaged or truncated"))
        raw = stack.enter_context(open_regular(path))
        compressed = raw.read(2) == b"\x1f\x8b"
        raw.seek(0)
        stream: Any = stack.enter_context(gzip.GzipFile(fileobj=raw)) if compressed else raw
        head = stream.read(HEADER_BYTES)
        header = parse_nifti_header(head, path, limits)
        if not compressed:
            _check_length(header, os.fstat(raw.fileno()).st_size, path)
        data = _exactly(stream, head, header, path)
        return header, data, _drain(stream, path)


def _check_length(header: NiftiHeader, size: int, path: Path) -> None:
    expected = header.offset + header.voxel_bytes
    if size < expected:
        raise ImageReadError(
            f"{path}: the file is truncated: the header asks for {expected} bytes, {size} are there"
        )


def _exactly(stream: BinaryIO, head: bytes, header: NiftiHeader, path: Path) -> NDArray[Any]:
    """The voxels; the buffer grows with what the file really holds, not with what it declares."""
    wanted = header.offset + header.voxel_bytes
    buffer = bytearray(head)
    while len(buffer) < wanted:
        block = stream.read(min(_BLOCK, wanted - len(buffer)))
        if not block:
            raise ImageReadError(
                f"{path}: the file is truncated: the header asks for {wanted} bytes, {len(buffer)} are there"
            )
        buffer += block
    count = header.voxel_bytes // header.dtype.itemsize
    flat = np.frombuffer(buffer, dtype=header.dtype, count=count, offset=header.offset)
    return flat.reshape(header.shape, order="F")


def _drain(stream: BinaryIO, path: Path) -> int:
    """Read to the end, so that gzip verifies its checksum; the number of bytes that were left."""
    extra = 0
    while block := stream.read(_BLOCK):
        extra += len(block)
        if extra > _MAX_TRAILING:
            raise ImageReadError(
                f"{path}: more than {_MAX_TRAILING} bytes follow the voxels; the header is wrong"
            )
    return extra


def _channels_first(stored: NDArray[Any], header: NiftiHeader, path: Path) -> NDArray[Any]:
    """(C, I, J) or (C, I, J, K) in native byte order."""
    shape = header.shape
    if len(shape) == 5 and shape[2:4] == (1, 1) and shape[4] == 3:  # how ITK stores an RGB picture
        return _native(np.moveaxis(stored[:, :, 0, 0, :], -1, 0))
    kept = shape
    while len(kept) > 3 and kept[-1] == 1:
        kept = kept[:-1]
    if len(kept) > 3:
        raise ImageReadError(
            f"{path}: expected 2 or 3 axes, found shape {shape}; "
            "write each channel or time point into a file of its own"
        )
    kept = kept[:2] if len(kept) == 3 and kept[2] == 1 else kept
    if len(kept) < 2:
        raise ImageReadError(f"{path}: expected 2 or 3 axes, found shape {shape}")
    if stored.dtype.names is None:
        return _native(stored.reshape(kept, order="F")[np.newaxis])
    if len(kept) != 2:
        raise ImageReadError(f"{path}: RGB voxels are read for pictures only, found shape {shape}")
    return np.stack([stored[name].reshape(kept, order="F") for name in ("R", "G", "B")])


def _native(array: NDArray[Any]) -> NDArray[Any]:
    return np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("="))


def _scaled(array: NDArray[Any], header: NiftiHeader) -> NDArray[Any]:
    if (header.slope, header.intercept) == (1.0, 0.0) or header.dtype.names is not None:
        return array
    scaled = array * np.float64(header.slope) + np.float64(header.intercept)
    return scaled if array.dtype == np.float64 else scaled.astype(np.float32)


def _spacing(header: NiftiHeader, flat: bool) -> tuple[tuple[float, ...] | None, SpacingOrigin, list[str]]:
    axes = 2 if flat else 3
    if header.spacing_mm is None:
        return None, "unknown", []
    if header.affine is None:
        return header.spacing_mm[:axes], "pixel_spacing", []
    if flat and np.array_equal(np.abs(header.affine), np.eye(4)):
        return (
            None,
            "unknown",
            ["spacing 1 mm without offset is what converters write for pictures; read as unknown"],
        )
    return header.spacing_mm[:axes], "affine", []


def write_nifti(path: Path, label_map: NDArray[Any], like: Volume) -> None:
    """Write a label map on the grid of the volume it was made for, whole or not at all.

    The affine, its codes and the spacing are those of `like`; without an affine both codes are 0,
    and without a spacing no unit is named. The same input gives the same bytes.

    Parameters
    ----------
    path : Path
        Ends in .nii or .nii.gz.
    label_map : (I, J) or (I, J, K) integer or boolean array
        Mask values; (I, J) is written as (I, J, 1). Stored as the smallest of uint8, int16, uint16,
        int32 that holds them.
    like : Volume

    Raises
    ------
    GeometryError
        Another shape than `like`, or an axis longer than NIfTI-1 can name (32767).
    LabelError
        Values that are not whole numbers, or do not fit 32 bits.
    StorageError
        The name has another ending, or the file cannot be written.
    """
    path = Path(path)
    if not path.name.endswith((".nii", ".nii.gz")):
        raise StorageError(f"{path}: expected a name that ends in .nii or .nii.gz")
    if tuple(label_map.shape) != like.spatial_shape:
        raise GeometryError(
            f"{path}: expected a label map of shape {like.spatial_shape}, found {label_map.shape}"
        )
    data = _smallest_type(label_map, path)
    voxels = data[..., np.newaxis] if data.ndim == 2 else data
    if max(voxels.shape) > np.iinfo(np.int16).max:
        raise GeometryError(f"{path}: NIfTI-1 axes have at most 32767 voxels, found {voxels.shape}")
    content = _header_bytes(voxels, like) + voxels.tobytes(order="F")
    with whole_file(path) as part:
        part.write_bytes(_gzipped(content) if path.name.endswith(".gz") else content)


def _smallest_type(label_map: NDArray[Any], path: Path) -> NDArray[Any]:
    if label_map.dtype.kind not in "iub":
        raise LabelError(f"{path}: a label map holds whole numbers, found {label_map.dtype}")
    low, high = (int(label_map.min()), int(label_map.max())) if label_map.size else (0, 0)
    for kind in _LABEL_TYPES:
        if np.iinfo(kind).min <= low and high <= np.iinfo(kind).max:
            return label_map.astype(kind)
    raise LabelError(f"{path}: label values from {low} to {high} do not fit 32 bits")


def _header_bytes(voxels: NDArray[Any], like: Volume) -> bytes:
    header = nib.Nifti1Header(endianness="<")
    header.set_data_shape(voxels.shape)
    header.set_data_dtype(voxels.dtype)
    facts = like.header if like.source.format == "nifti" and "nifti_qform" in like.header else {}
    set_grid(header, like.affine, like.spacing_mm, facts)
    header["vox_offset"], header["scl_slope"], header["scl_inter"] = 352, 1, 0
    header["regular"] = b"r"
    return bytes(header.binaryblock) + b"\0\0\0\0"


def _gzipped(content: bytes) -> bytes:
    """gzip without name and time, so that the bytes depend on the content alone."""
    target = io.BytesIO()
    with gzip.GzipFile(filename="", mode="wb", fileobj=target, compresslevel=6, mtime=0) as stream:
        stream.write(content)
    return target.getvalue()
