"""Pixel data of a single-frame DICOM data set in memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from medseg.io.dicom_format import PixelFormat
from medseg.io.dicom_frame import FragmentTables, FrameReader, FrameSource
from medseg.io.dicom_frames import cores, masked_note
from medseg.io.dicom_header import DicomHeader
from medseg.io.dicom_lut import LookUpTable, palette


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodedPixels:
    """Stored values of one frame.

    Parameters
    ----------
    array : (rows, columns) or (rows, columns, 3) array
        Gray values before the modality transform, or RGB; may be read-only.
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
        The installed imagecodecs lacks the codec.
    """
    with FrameReader(FragmentTables(), codec_threads=cores()) as reader:
        stored = reader.read(frame_in_memory(header, form))
    masked = (masked_note(stored.masked, stored.form.bits_stored),) if stored.masked else ()
    return DecodedPixels(
        array=stored.array, format=stored.form, decoder=stored.decoder, notes=stored.notes + masked
    )


def frame_in_memory(header: DicomHeader, form: PixelFormat) -> FrameSource:
    """The one frame of a data set that was read with its pixels."""
    dataset = header.layers[-1]
    element = dataset[form.keyword]
    data = bytes(element.value or b"")
    tables: tuple[LookUpTable, ...] = ()
    if form.photometric == "PALETTE COLOR":
        tables = palette(header, little_endian=bool(dataset.original_encoding[1]), signed=form.signed)
    return FrameSource(
        path=header.path,
        transfer_syntax=str(dataset.file_meta.TransferSyntaxUID),
        offset=0,
        length=len(data),
        form=form,
        frame=0,
        frames=1,
        data=data,
        vr=str(element.VR),
        palette=tables,
    )
