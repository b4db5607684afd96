"""Pixel data of one DICOM frame: sizes checked, decoded, unused bits removed, colour turned into RGB."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.pixels import get_decoder

from medseg.errors import ImageReadError
from medseg.io.dicom_codec import JPEG_2000, JPEG_LS, check_frame, choose_decoder
from medseg.io.dicom_format import COLOUR, PixelFormat
from medseg.io.dicom_header import DicomHeader, uid_name
from medseg.io.dicom_lut import palette
from medseg.io.foreign import foreign_parser, recorded_warnings


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodedPixels:
    """Stored values of one frame.

    Parameters
    ----------
    array : (rows, columns) or (rows, columns, 3) array
        Gray values before the modality transform, or RGB.
    format : PixelFormat
    decoder : str
        Name of the decoder for compressed pixels, else "".
    notes : tuple of str
    """

    array: NDArray[Any]
    format: PixelFormat
    decoder: str
    notes: tuple[str, ...]


def decode(header: DicomHeader, form: PixelFormat) -> DecodedPixels:
    """Decode the frame and bring it to stored values or RGB.

    Raises
    ------
    ImageReadError
        Fewer or more bytes than the header needs, a codestream of another size, damaged pixels, a
        transfer syntax that is unknown or a video.
    MissingPackageError
        The transfer syntax needs a package that is not installed.
    """
    dataset, path = header.layers[-1], header.path
    syntax = dataset.file_meta.TransferSyntaxUID
    name = uid_name(syntax)
    if not syntax.is_transfer_syntax or syntax.is_private:
        raise ImageReadError(
            f"{path}: the transfer syntax {name} is not known; convert the file to Explicit VR Little Endian"
        )
    plugin = "" if not syntax.is_encapsulated else choose_decoder(syntax, form, path)
    notes: list[str] = []
    if plugin:
        form = check_frame(dataset, form, path, notes)
    else:
        _check_length(dataset, form, path)
    _restate(dataset, form)
    options: dict[str, Any] = {} if syntax in JPEG_2000 | JPEG_LS else {"correct_unused_bits": False}
    with foreign_parser(path, f"the pixels ({name}) cannot be decoded"), recorded_warnings() as caught:
        decoder = get_decoder(syntax)
        array, properties = decoder.as_array(dataset, index=0, decoding_plugin=plugin, **options)
    if any("Photometric Interpretation" in str(warning.message) for warning in caught):
        notes.append("colour space taken from the compressed frame, the header names another")
    if form.photometric == "PALETTE COLOR":
        indices, little = _used_bits(array, form, notes), bool(dataset.original_encoding[1])
        tables = palette(header, little_endian=little, signed=form.signed)
        array = np.stack([table(indices) for table in tables], axis=-1)
    elif form.photometric in COLOUR:
        if properties["photometric_interpretation"] != "RGB":
            raise ImageReadError(f"{path}: {form.photometric} pixels could not be converted to RGB")
    elif not form.is_float:
        array = _used_bits(array, form, notes)
    return DecodedPixels(array=array, format=form, decoder=plugin, notes=tuple(notes))


def _check_length(dataset: Dataset, form: PixelFormat, path: Path) -> None:
    """Bytes present against bytes that the header needs; only even padding may be left over."""
    pixels = form.rows * form.columns
    per_pixel = 2 if form.photometric == "YBR_FULL_422" else form.samples
    expected = (pixels * per_pixel * form.bits_allocated + 7) // 8
    actual = len(dataset[form.keyword].value or b"")
    if actual in (expected, expected + expected % 2):
        return
    word = "fewer" if actual < expected else "more"
    raise ImageReadError(
        f"{path}: {form.columns} x {form.rows} x {form.samples} pixels of {form.bits_allocated} bits need "
        f"{expected} bytes, the file has {actual}, {word}: it is truncated or its header is wrong"
    )


def _restate(dataset: Dataset, form: PixelFormat) -> None:
    """Put the checked values where pydicom looks for them, whatever form the header had them in."""
    dataset.Rows, dataset.Columns, dataset.NumberOfFrames = form.rows, form.columns, 1
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = form.samples, form.photometric
    dataset.BitsAllocated, dataset.PixelRepresentation = form.bits_allocated, int(form.signed)
    dataset.BitsStored, dataset.HighBit = form.bits_stored, form.high_bit
    if form.samples > 1:
        planar = DicomHeader(Path(), (dataset,)).numbers("PlanarConfiguration")
        dataset.PlanarConfiguration = 1 if planar[:1] == (1.0,) else 0


def _used_bits(array: NDArray[Any], form: PixelFormat, notes: list[str]) -> NDArray[Any]:
    """Keep bits high_bit - bits_stored + 1 to high_bit of each value, sign restored.

    References
    ----------
    DICOM PS3.5 8.1.1: unused high bits have no meaning; old files keep overlays there.
    """
    width = array.dtype.itemsize * 8
    if form.bits_stored >= width or form.bits_allocated == 1:
        return array
    up, down = width - 1 - form.high_bit, width - form.bits_stored
    if up < 0:
        return array
    used: NDArray[Any] = np.right_shift(np.left_shift(array, up), down)
    outside = int((np.right_shift(array, form.high_bit + 1 - form.bits_stored) != used).sum())
    if outside:
        notes.append(
            f"{outside} pixels had bits set above the {form.bits_stored} stored ones, which were masked"
        )
    return used
