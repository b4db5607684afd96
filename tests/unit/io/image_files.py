"""Small synthetic files for the tests of the readers: DICOM data sets and PNG and TIFF by hand."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import (
    ComputedRadiographyImageStorage,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

ROWS, COLUMNS = 6, 5


def ramp(rows: int = ROWS, columns: int = COLUMNS) -> np.ndarray:
    """(rows, columns) uint16 with a different value in each pixel."""
    return np.arange(rows * columns, dtype=np.uint16).reshape(rows, columns) * 7 + 3


def radiograph(pixels: np.ndarray | None = None, **values: Any) -> Dataset:
    """A CR data set of 12 bits in 16; `values` set or (None) remove elements by keyword."""
    array = ramp() if pixels is None else pixels
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = ComputedRadiographyImageStorage
    dataset.SOPClassUID = ComputedRadiographyImageStorage
    dataset.SOPInstanceUID = "1.2.3.4.5.6"
    dataset.SeriesInstanceUID = "1.2.3.4.5"
    dataset.StudyInstanceUID = "1.2.3.4"
    dataset.Modality = "CR"
    dataset.Rows, dataset.Columns = array.shape[:2]
    dataset.SamplesPerPixel = 1 if array.ndim == 2 else array.shape[2]
    dataset.PhotometricInterpretation = "MONOCHROME2" if array.ndim == 2 else "RGB"
    if array.ndim == 3:
        dataset.PlanarConfiguration = 0
    dataset.BitsAllocated = array.dtype.itemsize * 8
    dataset.BitsStored = 12 if array.dtype.itemsize == 2 else dataset.BitsAllocated
    dataset.HighBit = dataset.BitsStored - 1
    dataset.PixelRepresentation = int(array.dtype.kind == "i")
    data = array.tobytes()
    dataset.PixelData = data + b"\0" * (len(data) % 2)
    dataset["PixelData"].VR = "OW"
    for keyword, value in values.items():
        if value is None:
            delattr(dataset, keyword)
        else:
            setattr(dataset, keyword, value)
    return dataset


def save(dataset: Dataset, path: Path) -> Path:
    """Write the data set with preamble and meta header, whatever it holds."""
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.get("SOPInstanceUID", "1.2")
    dataset.save_as(path, enforce_file_format=True)
    return path


def save_bare(dataset: Dataset, path: Path) -> Path:
    """Write the data set alone, implicit VR, as very old files are."""
    meta = dataset.file_meta
    del dataset.file_meta
    dataset.save_as(path, implicit_vr=True, little_endian=True)
    dataset.file_meta = meta
    dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    return path


def png_chunk(name: bytes, body: bytes) -> bytes:
    """One PNG part with its checksum."""
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def png_bytes(
    array: np.ndarray, *, depth: int, colour: int, rows_written: int | None = None, extra: bytes = b""
) -> bytes:
    """PNG of 8 or 16 bits without filters; `rows_written` leaves rows out of the data."""
    height, width = array.shape[:2]
    kind = ">u2" if depth == 16 else "u1"
    raw = b"".join(b"\0" + row.astype(kind).tobytes() for row in array[:rows_written])
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    parts = [
        png_chunk(b"IHDR", header),
        extra,
        png_chunk(b"IDAT", zlib.compress(raw)),
        png_chunk(b"IEND", b""),
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def tiff_bytes(array: np.ndarray, *, photometric: int = 1, changes: dict[int, int] | None = None) -> bytes:
    """Little-endian TIFF of 16-bit gray in one strip; `changes` overrides tags by number."""
    height, width = array.shape
    data = array.astype("<u2").tobytes()
    tags = {
        256: width,
        257: height,
        258: 16,
        259: 1,
        262: photometric,
        273: 8,
        277: 1,
        278: height,
        279: len(data),
    }
    tags |= changes or {}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in sorted(tags.items()))
    directory = struct.pack("<H", len(tags)) + entries + struct.pack("<I", 0)
    return b"II*\0" + struct.pack("<I", 8 + len(data)) + data + directory
