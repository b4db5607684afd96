"""One compressed frame -> stored values, after the frame was found to be what the header says."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import imagecodecs
import numpy as np
from numpy.typing import NDArray
from pydicom import uid

from medseg.errors import ImageReadError, MissingPackageError
from medseg.io.codestream import StreamSize, jpeg_size
from medseg.io.codestream_j2k import codestream_of, fault_of, jpeg2000_size
from medseg.io.dicom_format import PixelFormat
from medseg.io.dicom_header import uid_name
from medseg.io.dicom_native import frame_bits, native_frame
from medseg.io.foreign import foreign_parser

_LOSSY = frozenset({uid.JPEGBaseline8Bit, uid.JPEGExtended12Bit})
_LOSSLESS = frozenset({uid.JPEGLossless, uid.JPEGLosslessSV1})
DEFLATED_FRAME, _ENCAPSULATED = "1.2.840.10008.1.2.8.1", "1.2.840.10008.1.2.1.98"
_ENDED = _LOSSY | _LOSSLESS | frozenset(uid.JPEGLSTransferSyntaxes)
_LOSSLESS_PROCESS, _JPEG_LS_PROCESS = 0xC3, 0xF7
_JPEG_PROCESSES = frozenset({0xC0, 0xC1, 0xC2, _LOSSLESS_PROCESS})
_MAX_SCANS = 64  # a progressive JPEG pays for each scan with a pass over the whole image
_END_OF_IMAGE = b"\xff\xd9"
_TAIL = 16  # the end marker and what writers pad after it
_RLE_HEADER = struct.Struct("<16L")


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodedFrame:
    """Stored values of one frame, as the codec gives them.

    Parameters
    ----------
    array : (rows, columns) or (rows, columns, samples) array
    form : PixelFormat
        With the bits that the frame really has and the colour space that `array` is in.
    decoder : str
        Name of the decoder for compressed pixels, else "".
    notes : tuple of str
    """

    array: NDArray[Any]
    form: PixelFormat
    decoder: str = ""
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Task:
    stream: bytes
    form: PixelFormat
    syntax: str
    where: str
    threads: int


def decode_frame(
    stream: bytes, *, syntax: str, form: PixelFormat, where: str, threads: int = 1
) -> DecodedFrame:
    """Check one compressed frame against the header and decode it.

    Parameters
    ----------
    stream : bytes
        The frame, its fragments joined.
    syntax : str
        Transfer Syntax UID.
    form : PixelFormat
    where : str
        File and frame, for messages.
    threads : int, optional
        For a codec that can use several on one frame (JPEG 2000).

    Raises
    ------
    ImageReadError
        The syntax is no still image, the frame is damaged, or of another size than the header says;
        sizes are compared before anything is allocated.
    MissingPackageError
        The installed imagecodecs lacks the codec.
    """
    decoder = _DECODERS.get(syntax)
    if decoder is None:
        raise ImageReadError(
            f"{where}: pixels stored as {uid_name(syntax)} are not read; export single images"
        )
    task = _Task(stream=stream, form=form, syntax=syntax, where=where, threads=threads)
    with foreign_parser(where, f"the pixels ({uid_name(syntax)}) cannot be decoded"):
        return decoder(task)


def codec_available(codec: str) -> bool:
    """Whether the installed imagecodecs has a codec, such as "JPEG8"."""
    return bool(getattr(imagecodecs, codec).available)


def _require(codec: str, task: _Task) -> str:
    if not codec_available(codec):
        raise MissingPackageError(
            f"{task.where}: no decoder for {uid_name(task.syntax)} is installed; pip install imagecodecs"
        )
    return f"imagecodecs {codec.lower()}"


def _jpeg(task: _Task) -> DecodedFrame:
    name, stream, form = _require("JPEG8", task), task.stream, task.form
    size = _checked(jpeg_size(stream), task)
    lossless = size.process == _LOSSLESS_PROCESS
    if size.process not in _JPEG_PROCESSES or stream.count(b"\xff\xda") > _MAX_SCANS:
        raise _not_the_syntax(task)
    container = 8 if not lossless and size.precision <= 8 else form.bits_allocated
    form, notes = _with_bits_of(form, size, container)
    if form.samples != 3:
        array = _run(task, size, "jpeg8")
        if form.signed:
            # JPEG has no signs: no bit above the stored ones is set, whatever the sign (PS3.5 8.2.1).
            array = _sign_extended(array, form.bits_stored)
        return DecodedFrame(array=array, form=form, decoder=name, notes=notes)
    colour, colour_notes = _colour_of(form, size)
    # The decoder converts only what it has subsampled itself; lossless samples stay as they are.
    spaces = ("RGB", "RGB") if lossless or colour == "RGB" else ("YCbCr", "RGB")
    array = _run(task, size, "jpeg8", colorspace=spaces[0], outcolorspace=spaces[1])
    form = replace(form, photometric=colour if lossless else "RGB")
    return DecodedFrame(array=array, form=form, decoder=name, notes=notes + colour_notes)


def _jpeg_ls(task: _Task) -> DecodedFrame:
    name = _require("JPEGLS", task)
    size = _checked(jpeg_size(task.stream), task)
    if size.process != _JPEG_LS_PROCESS:
        raise _not_the_syntax(task)
    form, notes = _with_bits_of(task.form, size, task.form.bits_allocated)
    colour, colour_notes = _colour_of(form, size)
    array = _run(task, size, "jpegls")
    if form.signed:
        array = _sign_extended(array, size.precision)
    return DecodedFrame(
        array=array, form=replace(form, photometric=colour), decoder=name, notes=notes + colour_notes
    )


def _jpeg_2000(task: _Task) -> DecodedFrame:
    name, stream = _require("JPEG2K", task), codestream_of(task.stream)
    size = _checked(jpeg2000_size(stream), task)
    fault = fault_of(stream, size)
    if fault:
        raise ImageReadError(f"{task.where}: the compressed frame is damaged: {fault}")
    form, notes = _with_bits_of(task.form, size, task.form.bits_allocated)
    array = _run(replace(task, stream=stream), size, "jpeg2k", numthreads=task.threads)
    if size.signed != form.signed:
        array = _sign_extended(array, size.precision) if form.signed else _masked(array, size.precision)
        said = ("signed", "unsigned") if form.signed else ("unsigned", "signed")
        notes += (f"the header says {said[0]} values, the compressed frame {said[1]}; the header was taken",)
    if form.photometric in ("YBR_ICT", "YBR_RCT"):
        form = replace(form, photometric="RGB")
    return DecodedFrame(array=array, form=form, decoder=name, notes=notes)


def _run(task: _Task, size: StreamSize, codec: str, **options: Any) -> NDArray[Any]:
    """Decode into memory of the expected size; the codecs refuse to write anything else there."""
    form = task.form
    shape = (form.rows, form.columns) if form.samples == 1 else (form.rows, form.columns, form.samples)
    width = 1 if size.precision <= 8 else 2 if size.precision <= 16 else 4
    array = np.empty(shape, dtype=f"{'i' if size.signed else 'u'}{width}")
    decode: Callable[..., Any] = getattr(imagecodecs, f"{codec}_decode")
    decode(task.stream, out=array, **options)
    return array


def _checked(size: StreamSize | None, task: _Task) -> StreamSize:
    """Compare the compressed frame with the header."""
    form, where = task.form, task.where
    if size is None:
        raise _not_the_syntax(task)
    # CharLS takes seconds to find out by itself that a stream has been cut.
    if task.syntax in _ENDED and _END_OF_IMAGE not in task.stream[-_TAIL:]:
        raise ImageReadError(
            f"{where}: the compressed frame of {len(task.stream)} bytes has no end: the file is truncated"
        )
    found = (size.columns, size.rows, size.samples)
    if found != (form.columns, form.rows, form.samples):
        raise ImageReadError(
            f"{where}: the header says {form.columns} x {form.rows} x {form.samples}, "
            f"the compressed frame has {found[0]} x {found[1]} x {found[2]}"
        )
    if size.precision > form.bits_allocated:
        raise ImageReadError(
            f"{where}: the header allocates {form.bits_allocated} bits, the frame has {size.precision}"
        )
    return size


def _not_the_syntax(task: _Task) -> ImageReadError:
    name = uid_name(task.syntax)
    return ImageReadError(f"{task.where}: the compressed frame is not {name}; the file is damaged")


def _with_bits_of(form: PixelFormat, size: StreamSize, allocated: int) -> tuple[PixelFormat, tuple[str, ...]]:
    """The format with the precision of the frame, where that says something else than the header."""
    if size.precision <= form.bits_stored <= allocated:
        return replace(form, high_bit=form.bits_stored - 1), ()
    note = (
        f"the header says {form.bits_stored} bits, the compressed frame has {size.precision}, which were used"
    )
    return replace(form, bits_stored=size.precision, high_bit=size.precision - 1), (note,)


def _colour_of(form: PixelFormat, size: StreamSize) -> tuple[str, tuple[str, ...]]:
    """Colour space of the samples: what the frame says, else what the header says."""
    stated = form.photometric.startswith("YBR")
    if form.samples != 3 or not size.colour or (size.colour == "YBR") == stated:
        return form.photometric, ()
    note = "colour space taken from the compressed frame, the header names another"
    return "RGB" if size.colour == "RGB" else "YBR_FULL", (note,)


def _sign_extended(array: NDArray[Any], precision: int) -> NDArray[Any]:
    """Two's complement of `precision` bits that a codec without signs has kept as unsigned numbers."""
    signed = array.view(f"i{array.itemsize}")
    up = array.itemsize * 8 - precision
    return signed if up == 0 else np.right_shift(np.left_shift(signed, up), up)


def _masked(array: NDArray[Any], precision: int) -> NDArray[Any]:
    unsigned = array.view(f"u{array.itemsize}")
    masked: NDArray[Any] = np.bitwise_and(unsigned, (1 << precision) - 1)
    return masked


def _run_length(task: _Task) -> DecodedFrame:
    """RLE: one segment per byte of a sample, most significant first (PS3.5 annex G)."""
    name, form, stream = _require("PACKBITS", task), task.form, task.stream
    depth = form.dtype.itemsize
    count, *starts = _RLE_HEADER.unpack(stream[:64]) if len(stream) >= 64 else (0,)
    if count != depth * form.samples:
        raise ImageReadError(
            f"{task.where}: {form.samples} samples of {form.bits_allocated} bits need {depth * form.samples} "
            f"RLE segments, the compressed frame has {count}"
        )
    bounds = [*starts[:count], len(stream)]
    if bounds[0] < 64 or any(b < a for a, b in pairwise(bounds)):
        raise ImageReadError(
            f"{task.where}: the RLE segments lie outside the compressed frame; it is damaged"
        )
    # Single bits, eight in a byte, are outside the standard; highdicom once wrote them.
    size = form.rows * form.columns if form.bits_allocated > 1 else (frame_bits(form) + 7) // 8
    planes = np.empty((form.samples, size, depth), dtype=np.uint8)
    for number in range(count):
        plane, byte = divmod(number, depth)
        segment = _segment(stream[bounds[number] : bounds[number + 1]], size, task)
        planes[plane, :, depth - 1 - byte] = segment
    plain = replace(form, planar=form.samples > 1, photometric=form.photometric.removesuffix("_422"))
    array = native_frame(planes.tobytes(), plain, little_endian=True)
    return DecodedFrame(array=array, form=replace(plain, planar=form.planar), decoder=name)


def _segment(data: bytes, size: int, task: _Task) -> NDArray[np.uint8]:
    # Two bytes give at most 128: what is longer than the frame is padding of few bytes or damage.
    plain = imagecodecs.packbits_decode(data, out=min(64 * len(data), 2 * size + 256))
    if len(plain) < size:
        raise ImageReadError(
            f"{task.where}: an RLE segment has {len(plain)} bytes, {size} are needed; the file is damaged"
        )
    return np.frombuffer(plain, dtype=np.uint8, count=size)


def _deflated(task: _Task) -> DecodedFrame:
    """Raw deflate of the bytes of an uncompressed frame (PS3.5 A.4.13)."""
    expected = (frame_bits(task.form) + 7) // 8
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    plain = inflater.decompress(task.stream, expected + 2)
    if not inflater.eof and len(plain) < expected:
        raise ImageReadError(f"{task.where}: the deflated frame has no end: the file is truncated")
    return replace(_uncompressed(replace(task, stream=plain)), decoder="zlib")


def _uncompressed(task: _Task) -> DecodedFrame:
    form, expected = task.form, (frame_bits(task.form) + 7) // 8
    if len(task.stream) not in (expected, expected + expected % 2):
        raise ImageReadError(
            f"{task.where}: the frame needs {expected} bytes, {len(task.stream)} are there: the file is damaged"
        )
    return DecodedFrame(array=native_frame(task.stream, form, little_endian=True), form=form)


_DECODERS: dict[str, Callable[[_Task], DecodedFrame]] = {
    **dict.fromkeys(_LOSSY | _LOSSLESS, _jpeg),
    **dict.fromkeys(uid.JPEGLSTransferSyntaxes, _jpeg_ls),
    **dict.fromkeys(uid.JPEG2000TransferSyntaxes, _jpeg_2000),
    uid.RLELossless: _run_length,
    DEFLATED_FRAME: _deflated,
    _ENCAPSULATED: _uncompressed,
}
