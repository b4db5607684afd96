"""NIfTI <-> Volume."""

from __future__ import annotations

import hashlib
import itertools
import math
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medseg.errors import GeometryError, ImageReadError, LabelError, StorageError
from medseg.io.content import check_finite, pixel_digest
from medseg.io.foreign import foreign_parser
from medseg.io.limits import DEFAULT_LIMITS, ReadLimits
from medseg.io.nifti_header import HEADER_BYTES, NiftiHeader, parse_nifti_header
from medseg.io.orientation import letters_of_affine
from medseg.io.sniff import header_beside, read_head
from medseg.io.voxel_stream import (
    BLOCK,
    Encoding,
    check_present,
    drain,
    fill,
    native,
    open_voxels,
    skip_bytes,
    voxel_blocks,
    write_stream,
)
from medseg.io.write_image import nifti_header_bytes
from medseg.provenance import sha256_file, whole_file
from medseg.volume import Source, SpacingOrigin, Volume

_LABEL_TYPES = (np.uint8, np.int16, np.uint16, np.int32)


def read_nifti(
    path: Path,
    *,
    volume: int | None = None,
    channels: bool = False,
    limits: ReadLimits = DEFAULT_LIMITS,
) -> Volume:
    """Read an image or label map from NIfTI or Analyze, to the last byte of its checksum.

    Parameters
    ----------
    path : Path
        NIfTI-1 or NIfTI-2 (.nii, .nii.gz), or either file of a pair (.hdr and .img, also Analyze 7.5);
        2-D or 3-D, or an RGB picture.
    volume : int, optional
        Which volume of a file with more than three axes, from 0, in the order they are stored.
    channels : bool, optional
        Whether the volumes of such a file are channels of one image, as in the Medical Segmentation
        Decathlon; the header does not tell them from time points.
    limits : ReadLimits, optional

    Returns
    -------
    Volume
        array (C, I, J, K), or (C, I, J) for files with one slice, in the stored type and order (the
        first axis contiguous); float32 where the header scales the values (float64 stays float64).
        The affine is sform, else qform, and None where the file gives neither, as Analyze files do. A
        2-D file whose affine is the one that picture converters write by default (1 mm, no offset)
        has unknown spacing; its affine is kept, so that a mask is written on the same grid.
        `patient_orientation` of 2-D files is derived from the affine: see
        `orientation.letters_of_affine` for what that means for chest films.

    Raises
    ------
    ImageReadError
        Truncated, damaged, a wrong gzip checksum, too large, NaN or infinity, complex numbers, more
        than three axes and neither `volume` nor `channels`, or a `volume` that is not there.
    GeometryError
        A damaged affine.

    References
    ----------
    NIfTI-1.1 data format, nifti1.h, https://nifti.nimh.nih.gov/nifti-1.
    """
    path = Path(path)
    header_path = header_beside(path) or path
    header = read_nifti_header(header_path, limits)
    files = _files(header, header_path)
    shape = _kept_shape(header, volume, path, channels=channels)
    stored, extra = _read_voxels(files[-1], header, shape, volume or 0)
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
        source=Source(paths=(path,), format="nifti", sha256=_sha256_of(files)),
        pixel_sha256=pixel_digest(array),
        notes=(*header.notes, *notes, *([f"{extra} bytes after the voxels were not used"] if extra else [])),
        header=header.facts,
    )


def nifti_files(path: Path, limits: ReadLimits = DEFAULT_LIMITS) -> tuple[Path, ...]:
    """The file, or both of a pair, the header first.

    Raises
    ------
    ImageReadError, GeometryError
        As `nifti_header.parse_nifti_header`; or the voxels of a pair are missing.
    """
    header_path = header_beside(path) or path
    return _files(read_nifti_header(header_path, limits), header_path)


def _files(header: NiftiHeader, header_path: Path) -> tuple[Path, ...]:
    return (header_path, _image_beside(header_path)) if header.pair else (header_path,)


def read_nifti_header(path: Path, limits: ReadLimits = DEFAULT_LIMITS) -> NiftiHeader:
    """Header of a .nii, .nii.gz or .hdr file; its voxels are not read.

    Raises
    ------
    ImageReadError, GeometryError
        As `nifti_header.parse_nifti_header`.
    """
    encoding = _encoding(path)
    with (
        foreign_parser(path, "the file is damaged or truncated"),
        open_voxels(path, encoding) as stream,
    ):
        head = b""
        while len(head) < HEADER_BYTES and (block := stream.read(HEADER_BYTES - len(head))):
            head += block
        header = parse_nifti_header(head, path, limits)
    return header


def _sha256_of(files: tuple[Path, ...]) -> str:
    digests = [sha256_file(path) for path in files]
    return digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()


def _encoding(path: Path) -> Encoding:
    return "gzip" if read_head(path)[:2] == b"\x1f\x8b" else "raw"


def _image_beside(header_path: Path) -> Path:
    """The .img file of a .hdr file, compressed or not."""
    name = header_path.name.removesuffix(".gz")
    stem, image = name[: -len(".hdr")], ".IMG" if name.endswith(".HDR") else ".img"
    if not name.lower().endswith(".hdr"):
        raise ImageReadError(
            f"{header_path}: the header of a pair; its name must end in .hdr to find the .img"
        )
    names = (stem + image, stem + image + ".gz")
    found = next((header_path.with_name(n) for n in names if header_path.with_name(n).is_file()), None)
    if found is None:
        raise ImageReadError(f"{header_path}: the voxels of this header are missing: no {names[0]} beside it")
    return found


def _kept_shape(header: NiftiHeader, volume: int | None, path: Path, *, channels: bool) -> tuple[int, ...]:
    """Shape of what is read: as stored, the first three axes where one volume is taken, or those and channels."""
    shape = header.shape
    rest = math.prod(shape[3:])
    if channels and volume is None and rest > 1 and not _is_itk_rgb(shape):
        if rest not in shape[3:]:
            raise ImageReadError(f"{path}: expected one axis of channels after three, found shape {shape}")
        return (*shape[:3], rest)
    if volume is None:
        if rest > 1 and not _is_itk_rgb(shape):
            raise ImageReadError(
                f"{path}: expected 2 or 3 axes, found shape {shape}; where its volumes are channels, say so "
                "(data.fourth_axis: channels), else write each time point into a file of its own or "
                f"choose one volume, from 0 to {rest - 1}"
            )
        return shape
    if not 0 <= volume < rest:
        raise ImageReadError(f"{path}: there is no volume {volume}: the file holds volumes 0 to {rest - 1}")
    return shape[:3]


def _is_itk_rgb(shape: tuple[int, ...]) -> bool:
    """How ITK stores an RGB picture."""
    return len(shape) == 5 and shape[2:4] == (1, 1) and shape[4] == 3


def _read_voxels(
    path: Path, header: NiftiHeader, shape: tuple[int, ...], volume: int
) -> tuple[NDArray[Any], int]:
    """Stored voxels of one volume, and the number of bytes in the file that the header does not explain."""
    count = math.prod(shape)
    before = header.offset + volume * count * header.dtype.itemsize
    after = header.offset + header.voxel_bytes - before - count * header.dtype.itemsize
    encoding = _encoding(path)
    check_present(path, header.voxel_bytes, encoding, offset=header.offset if encoding == "raw" else 0)
    with (
        foreign_parser(path, "the file is damaged or truncated"),
        open_voxels(path, encoding, offset=before if encoding == "raw" else 0) as stream,
    ):
        skipped = before if encoding == "raw" else skip_bytes(stream, before)
        flat, filled = fill(stream, header.dtype, count)
        left = drain(stream, path, expected=after)
    there, wanted = skipped + filled + left, header.offset + header.voxel_bytes
    if there < wanted:
        raise ImageReadError(
            f"{path}: the file is truncated: the header asks for {wanted} bytes, {there} are there"
        )
    return flat.reshape(shape, order="F"), there - wanted


def _channels_first(stored: NDArray[Any], header: NiftiHeader, path: Path) -> NDArray[Any]:
    """(C, I, J) or (C, I, J, K) in native byte order, a view of `stored` where it can be."""
    shape = stored.shape
    if _is_itk_rgb(shape):
        return native(np.moveaxis(stored[:, :, 0, 0, :], -1, 0))
    if len(shape) == 4 and shape[3] > 1 and stored.dtype.names is None:
        volumes = native(np.moveaxis(stored, -1, 0))
        return volumes[..., 0] if shape[2] == 1 else volumes
    kept = shape[:3]
    kept = kept[:2] if len(kept) == 3 and kept[2] == 1 else kept
    if len(kept) < 2:
        raise ImageReadError(f"{path}: expected 2 or 3 axes, found shape {header.shape}")
    if stored.dtype.names is None:
        return native(stored.reshape(kept, order="F"))[np.newaxis]
    if len(kept) != 2:
        raise ImageReadError(f"{path}: RGB voxels are read for pictures only, found shape {header.shape}")
    return np.stack([stored[name].reshape(kept, order="F") for name in ("R", "G", "B")])


def _scaled(array: NDArray[Any], header: NiftiHeader) -> NDArray[Any]:
    """The values that the header means, computed in double precision a slab at a time."""
    if (header.slope, header.intercept) == (1.0, 0.0) or header.dtype.names is not None:
        return array
    scaled = np.empty_like(array, dtype=np.float64 if array.dtype == np.float64 else np.float32)
    step = max(1, BLOCK // max(1, array[..., :1].size))
    for first in range(0, array.shape[-1], step):
        slab = array[..., first : first + step].astype(np.float64)
        scaled[..., first : first + step] = slab * header.slope + header.intercept
    return scaled


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


def write_nifti_map(path: Path, values: NDArray[np.uint8], like: Volume, *, slope: float) -> None:
    """Write a map of fractions on the grid of the volume it was made for, whole or not at all.

    Parameters
    ----------
    path : Path
        Ends in .nii or .nii.gz.
    values : (I, J) or (I, J, K) uint8 array
        Stored as they are; readers multiply by `slope`.
    like : Volume
    slope : float
        Value of one step, such as 1 / 255.

    Raises
    ------
    GeometryError, StorageError
        As `write_nifti`.
    """
    _check_target(path, values, like)
    voxels = values[..., np.newaxis] if values.ndim == 2 else values
    head = nifti_header_bytes(path, voxels, like, label_map=False, slope=slope)
    with whole_file(path) as part:
        write_stream(
            part, itertools.chain([head], voxel_blocks(voxels)), compressed=path.name.endswith(".gz")
        )


def _check_target(path: Path, array: NDArray[Any], like: Volume) -> None:
    if not path.name.endswith((".nii", ".nii.gz")):
        raise StorageError(f"{path}: expected a name that ends in .nii or .nii.gz")
    if tuple(array.shape) != like.spatial_shape:
        raise GeometryError(
            f"{path}: expected a label map of shape {like.spatial_shape}, found {array.shape}"
        )


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
    _check_target(path, label_map, like)
    data = _smallest_type(label_map, path)
    voxels = data[..., np.newaxis] if data.ndim == 2 else data
    head = nifti_header_bytes(path, voxels, like, label_map=True)
    parts = itertools.chain([head], voxel_blocks(voxels))
    with whole_file(path) as part:
        write_stream(part, parts, compressed=path.name.endswith(".gz"))


def _smallest_type(label_map: NDArray[Any], path: Path) -> NDArray[Any]:
    if label_map.dtype.kind not in "iub":
        raise LabelError(f"{path}: a label map holds whole numbers, found {label_map.dtype}")
    low, high = (int(label_map.min()), int(label_map.max())) if label_map.size else (0, 0)
    for kind in _LABEL_TYPES:
        if np.iinfo(kind).min <= low and high <= np.iinfo(kind).max:
            return label_map.astype(kind, copy=False)
    raise LabelError(f"{path}: label values from {low} to {high} do not fit 32 bits")
