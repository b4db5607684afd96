"""Volume -> NIfTI, NRRD or MetaImage, exact to the affine's last shear, as a stream and whole or not at all."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from medseg.errors import GeometryError, ImageReadError, StorageError
from medseg.geometry import affine_lps_to_ras
from medseg.io.nifti_header import set_grid
from medseg.io.voxel_stream import voxel_blocks, write_stream
from medseg.provenance import whole_file
from medseg.volume import Volume

ENDINGS = (".nii", ".nii.gz", ".nrrd", ".mha", ".mhd")
_NIFTI_AXIS = 32767
_INTENT_LABEL = 1002
# Images of scanners hardly shrink further than at this level, which takes half the time of 6.
_LEVEL = 4
_NRRD_TYPES = {
    "i1": "int8",
    "u1": "uint8",
    "i2": "int16",
    "u2": "uint16",
    "i4": "int32",
    "u4": "uint32",
    "i8": "int64",
    "u8": "uint64",
    "f4": "float",
    "f8": "double",
}
_META_TYPES = {
    "i1": "MET_CHAR",
    "u1": "MET_UCHAR",
    "i2": "MET_SHORT",
    "u2": "MET_USHORT",
    "i4": "MET_INT",
    "u4": "MET_UINT",
    "i8": "MET_LONG_LONG",
    "u8": "MET_ULONG_LONG",
    "f4": "MET_FLOAT",
    "f8": "MET_DOUBLE",
}


def write_image(
    path: Path, volume: Volume, *, label_map: bool = False, keys: Mapping[str, str] | None = None
) -> None:
    """Write a volume in the format of the file's ending; the same volume gives the same bytes.

    Values are stored in their type (booleans as uint8), without a scale. The affine is written as it
    is: where its axes are not at right angles NIfTI gets an s-form alone, so that no reader takes a
    q-form that cannot hold the shear. Without an affine no file names patient axes: NIfTI codes 0, no
    NRRD space, no MetaImage offset and directions.

    Parameters
    ----------
    path : Path
        Ends in .nii, .nii.gz, .nrrd (gzip inside), .mha, or .mhd (voxels beside it in .raw).
    volume : Volume
        One channel for NIfTI; several for NRRD and MetaImage are components of each voxel.
    label_map : bool, optional
        The values are labels: NIfTI gets the intent code that says so.
    keys : mapping of str to str, optional
        Key/value pairs for the header of an NRRD file; other formats have no place for them.

    Raises
    ------
    GeometryError
        An axis longer than NIfTI-1 can name (32767).
    ImageReadError
        Values of a type, or a number of channels, that the format cannot hold.
    StorageError
        The name has another ending, or a file cannot be written.
    """
    path = Path(path)
    if not path.name.endswith(ENDINGS):
        raise StorageError(f"{path}: expected a name that ends in one of {', '.join(ENDINGS)}")
    array = _storable(volume.array, path)
    if path.name.endswith((".nii", ".nii.gz")):
        _write_nifti(path, array, volume, label_map=label_map)
    elif path.name.endswith(".nrrd"):
        head = _nrrd_header(array, volume, keys or {})
        with whole_file(path) as part:
            write_stream(part, iter([head]), compressed=False)
            write_stream(part, voxel_blocks(_stored_order(array)), compressed=True, level=_LEVEL, append=True)
    else:
        _write_metaimage(path, array, volume)


def _storable(array: NDArray[Any], path: Path) -> NDArray[Any]:
    """The array in a type that the formats have, little-endian as all of them are written here."""
    stored = array.view(np.uint8) if array.dtype == np.bool_ else array
    if stored.dtype.str[1:] not in _NRRD_TYPES:
        raise ImageReadError(f"{path}: values of type {array.dtype} cannot be written; convert to float32")
    return stored


def _stored_order(array: NDArray[Any]) -> NDArray[Any]:
    """Axes as they lie in NRRD and MetaImage files: components of a voxel first, left out for one."""
    return array[0] if array.shape[0] == 1 else array


def _little(parts: Iterator[bytes], dtype: np.dtype[Any]) -> Iterator[bytes]:
    wanted = dtype.newbyteorder("<")
    return parts if dtype == wanted else (np.frombuffer(p, dtype).astype(wanted).tobytes() for p in parts)


def _write_nifti(path: Path, array: NDArray[Any], volume: Volume, *, label_map: bool) -> None:
    if array.shape[0] != 1:
        raise ImageReadError(
            f"{path}: a NIfTI image has one channel, found {array.shape[0]}; write .nrrd or .mha"
        )
    voxels = array[0][..., np.newaxis] if array.ndim == 3 else array[0]
    parts = itertools.chain([nifti_header_bytes(path, voxels, volume, label_map=label_map)])
    with whole_file(path) as part:
        write_stream(
            part,
            itertools.chain(parts, _little(voxel_blocks(voxels), voxels.dtype)),
            compressed=path.name.endswith(".gz"),
            level=_LEVEL,
        )


def nifti_header_bytes(
    path: Path, voxels: NDArray[Any], like: Volume, *, label_map: bool, slope: float = 1.0
) -> bytes:
    """352 bytes of a NIfTI-1 header for (I, J, K) voxels on the grid of `like`, as its file had it.

    Stored numbers times `slope` are the values.

    Raises
    ------
    GeometryError
        An axis longer than NIfTI-1 can name (32767).
    """
    if max(voxels.shape) > _NIFTI_AXIS:
        raise GeometryError(
            f"{path}: NIfTI-1 axes have at most {_NIFTI_AXIS} voxels, found {voxels.shape}; write .nrrd"
        )
    header = nib.Nifti1Header(endianness="<")
    header.set_data_shape(voxels.shape)
    header.set_data_dtype(voxels.dtype)
    facts = like.header if like.source.format == "nifti" and "nifti_qform" in like.header else {}
    set_grid(header, like.affine, like.spacing_mm, facts)
    header["vox_offset"], header["scl_slope"], header["scl_inter"] = 352, slope, 0
    header["regular"] = b"r"
    header["intent_code"] = _INTENT_LABEL if label_map else 0
    return bytes(header.binaryblock) + b"\0\0\0\0"


def _numbers(values: Any) -> str:
    """Numbers as the shortest texts that give the same doubles again."""
    return " ".join(repr(float(v)) for v in values)


def _nrrd_header(array: NDArray[Any], volume: Volume, keys: Mapping[str, str]) -> bytes:
    channels, *sizes = array.shape
    sizes = _with_slice_axis(sizes, volume)
    many = channels > 1
    lines = [
        "NRRD0004",
        f"type: {_NRRD_TYPES[array.dtype.str[1:]]}",
        f"dimension: {len(sizes) + many}",
        *_nrrd_grid(volume, many=many),
        f"sizes: {' '.join(str(n) for n in ([channels] if many else []) + sizes)}",
        f"kinds: {'vector ' if many else ''}{' '.join(['domain'] * len(sizes))}",
        f"endian: {'big' if array.dtype.str[0] == '>' else 'little'}",
        "encoding: gzip",
        *(f"{key}:={_escaped(value)}" for key, value in keys.items()),
    ]
    return ("\n".join(line for line in lines if line) + "\n\n").encode("utf-8")


def _escaped(value: str) -> str:
    """A value of a NRRD key/value pair in one line."""
    return value.replace("\\", "\\\\").replace("\r", " ").replace("\n", "\\n")


def _with_slice_axis(sizes: list[int], volume: Volume) -> list[int]:
    """A plane in space as a volume of one slice: ITK takes a picture of two axes for one without a place."""
    return [*sizes, 1] if volume.affine is not None and len(sizes) == 2 else sizes


def _nrrd_grid(volume: Volume, *, many: bool) -> list[str]:
    if volume.affine is None:
        if volume.spacing_mm is None:
            return []
        before = ["nan"] if many else []
        units = ['""'] * len(before) + ['"mm"'] * len(volume.spacing_mm)
        return [
            f"spacings: {' '.join(before + [_numbers([v]) for v in volume.spacing_mm])}",
            f"units: {' '.join(units)}",
        ]
    affine_lps = affine_lps_to_ras(volume.affine) + 0.0  # its own inverse
    columns = [f"({','.join(_numbers([v]) for v in affine_lps[:3, axis])})" for axis in range(3)]
    return [
        "space: left-posterior-superior",
        f"space directions: {' '.join((['none'] if many else []) + columns)}",
        f"space origin: ({','.join(_numbers([v]) for v in affine_lps[:3, 3])})",
        'space units: "mm" "mm" "mm"',
    ]


def _write_metaimage(path: Path, array: NDArray[Any], volume: Volume) -> None:
    """Uncompressed, so that the sizes in the header are known before the voxels are written."""
    local = path.name.endswith(".mha")
    raw = path.with_name(path.name.removesuffix(".mhd") + ".raw")
    head = _metaimage_header(array, volume, "LOCAL" if local else raw.name, path)
    parts = voxel_blocks(_stored_order(array))
    if not local:
        with whole_file(raw) as part:
            write_stream(part, parts, compressed=False)
        parts = iter(())
    with whole_file(path) as part:
        write_stream(part, itertools.chain([head], parts), compressed=False)


def _metaimage_header(array: NDArray[Any], volume: Volume, data_file: str, path: Path) -> bytes:
    channels, *sizes = array.shape
    sizes = _with_slice_axis(sizes, volume)
    if not data_file.isascii():
        raise StorageError(f"{path}: MetaImage names its voxel file in ASCII; choose another name, or .mha")
    lines = [
        "ObjectType = Image",
        f"NDims = {len(sizes)}",
        "BinaryData = True",
        f"BinaryDataByteOrderMSB = {array.dtype.str[0] == '>'}",
        "CompressedData = False",
        *_metaimage_grid(volume),
        f"DimSize = {' '.join(str(n) for n in sizes)}",
        *([f"ElementNumberOfChannels = {channels}"] if channels > 1 else []),
        f"ElementType = {_META_TYPES[array.dtype.str[1:]]}",
        f"ElementDataFile = {data_file}",
    ]
    return ("\n".join(lines) + "\n").encode("ascii")


def _metaimage_grid(volume: Volume) -> list[str]:
    if volume.affine is None:
        return [] if volume.spacing_mm is None else [f"ElementSpacing = {_numbers(volume.spacing_mm)}"]
    affine_lps = affine_lps_to_ras(volume.affine) + 0.0  # its own inverse
    lengths = np.linalg.norm(affine_lps[:3, :3], axis=0)
    # One line of the matrix after the other is the direction of one voxel axis: MetaIO stores columns.
    return [
        f"TransformMatrix = {_numbers((affine_lps[:3, :3] / lengths).T.ravel())}",
        f"Offset = {_numbers(affine_lps[:3, 3])}",
        "CenterOfRotation = 0 0 0",
        f"ElementSpacing = {_numbers(lengths)}",
    ]
