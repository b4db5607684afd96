"""One frame of a DICOM file -> stored values: only its own bytes are read, whatever the file's size."""

from __future__ import annotations

import contextlib
import io
import os
import threading
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

from numpy.typing import NDArray
from pydicom import uid

from medseg.errors import ImageReadError, StorageError
from medseg.io.dicom_codec import DEFLATED_FRAME, DecodedFrame, decode_frame
from medseg.io.dicom_colour import indexed_colour, to_rgb
from medseg.io.dicom_format import COLOUR, PixelFormat
from medseg.io.dicom_fragments import Fragment, frame_fragments
from medseg.io.dicom_header import uid_name
from medseg.io.dicom_lut import LookUpTable
from medseg.io.dicom_native import byte_range, check_length, native_frame, swapped_words, used_bits
from medseg.io.limits import open_regular, reason_of


@dataclass(frozen=True, slots=True, kw_only=True)
class FrameSource:
    """Where one frame's stored pixels lie in a file.

    Parameters
    ----------
    path : Path
    transfer_syntax : str
        As the pixels at hand have it.
    offset : int
        Byte in the file (in `data`, where given) of the first byte of the value of the pixel data element.
    length : int
        Length of the value; 0xFFFFFFFF for encapsulated pixels.
    form : PixelFormat
    frame : int
        0-based.
    frames : int
        Frames in the file.
    data : bytes, optional
        The inflated data set of a deflated file, or the value itself.
    vr : str, optional
        VR of the element: big-endian files with OW keep bytes in swapped pairs.
    palette : tuple of LookUpTable, optional
        Red, green, blue, for PALETTE COLOR.
    """

    path: Path
    transfer_syntax: str
    offset: int
    length: int
    form: PixelFormat
    frame: int
    frames: int
    data: bytes | None = None
    vr: str = ""
    palette: tuple[LookUpTable, ...] = ()

    @property
    def where(self) -> str:
        """File and, where it has several, frame; for messages."""
        return str(self.path) if self.frames == 1 else f"{self.path}, frame {self.frame + 1}"


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredFrame:
    """Stored values of a frame.

    Parameters
    ----------
    array : (rows, columns) or (rows, columns, 3) array
        Gray values before the modality transform, or RGB; may be read-only.
    form : PixelFormat
        With the bits that the frame really has.
    decoder : str
        Name of the decoder for compressed pixels, else "".
    masked : int
        How many pixels had bits set outside the stored ones.
    notes : tuple of str
    """

    array: NDArray[Any]
    form: PixelFormat
    decoder: str
    masked: int
    notes: tuple[str, ...]


class FragmentTables:
    """Where the fragments of compressed files lie, looked up once per file and shared by threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._tables: dict[tuple[Path, int], tuple[tuple[Fragment, ...], ...]] = {}

    def of(
        self, source: FrameSource, stream: BinaryIO, size: int
    ) -> tuple[tuple[Fragment, ...], tuple[str, ...]]:
        """Fragments of a frame and notes on its file."""
        notes: tuple[str, ...] = ()
        key = (source.path, source.offset)
        with self._lock if source.frames > 1 else contextlib.nullcontext():
            table = self._tables.get(key)
            if table is None:
                place: dict[str, Any] = {"offset": source.offset, "length": source.length, "size": size}
                table, notes = frame_fragments(stream, frames=source.frames, where=str(source.path), **place)
                if source.frames > 1:
                    self._tables[key] = table
        return table[source.frame], notes


class FrameReader:
    """Reads and decodes frames; keeps open the file it read last, so one for each thread.

    Parameters
    ----------
    tables : FragmentTables
    codec_threads : int, optional
        For codecs that can use several on one frame.
    """

    def __init__(self, tables: FragmentTables, *, codec_threads: int = 1) -> None:
        self._tables, self._codec_threads = tables, codec_threads
        self._key: tuple[Path, int] | None = None
        self._stream: BinaryIO = io.BytesIO()
        self._size = 0

    def __enter__(self) -> FrameReader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the file."""
        self._stream.close()

    def read(self, source: FrameSource) -> StoredFrame:
        """Stored values of a frame.

        Raises
        ------
        ImageReadError
            A frame that is not what its header says, or damaged.
        StorageError
            The file cannot be read.
        MissingPackageError
            The installed imagecodecs lacks the codec.
        """
        if not 0 <= source.frame < source.frames:
            raise ImageReadError(f"{source.path}: there is no frame {source.frame + 1} of {source.frames}")
        try:
            self._open(source)
            decoded = self._compressed(source) if is_encapsulated(source) else self._native(source)
        except OSError as err:
            raise StorageError(f"{source.path} cannot be read: {reason_of(err)}; check the disk") from err
        return _stored(decoded, source)

    def _open(self, source: FrameSource) -> None:
        key = (source.path, id(source.data))
        if key == self._key:
            return
        self._stream.close()
        self._key = None
        if source.data is not None:
            self._stream, self._size = io.BytesIO(source.data), len(source.data)
        else:
            self._stream = open_regular(source.path)
            self._size = os.fstat(self._stream.fileno()).st_size
        self._key = key

    def _native(self, source: FrameSource) -> DecodedFrame:
        form, syntax = source.form, source.transfer_syntax
        check_length(form, source.frames, source.length, str(source.path))
        little = syntax != uid.ExplicitVRBigEndian
        words = swapped_words(form, little_endian=little, vr=source.vr)
        first, last = byte_range(form, source.frame, words=words)
        data = self._bytes(source, source.offset + first, last - first)
        array = native_frame(data, form, little_endian=little, words=words, frame=source.frame)
        return DecodedFrame(array=array, form=form)

    def _compressed(self, source: FrameSource) -> DecodedFrame:
        fragments, notes = self._tables.of(source, self._stream, self._size)
        parts = [self._bytes(source, part.start, part.length) for part in fragments]
        decoded = decode_frame(
            parts[0] if len(parts) == 1 else b"".join(parts),
            syntax=source.transfer_syntax,
            form=source.form,
            where=source.where,
            threads=self._codec_threads,
        )
        return replace(decoded, notes=notes + decoded.notes)

    def _bytes(self, source: FrameSource, start: int, count: int) -> bytes:
        there = max(self._size - start, 0)
        if count <= there:
            self._stream.seek(start)
            data = self._stream.read(count)
            there = len(data)
        if count > there:
            raise ImageReadError(
                f"{source.where}: the file is truncated: its pixels need {count} bytes from byte {start} on, "
                f"{there} are there"
            )
        return data


def is_encapsulated(source: FrameSource) -> bool:
    """Whether the pixels lie in fragments.

    Raises
    ------
    ImageReadError
        A transfer syntax that the standard does not have.
    """
    syntax = uid.UID(source.transfer_syntax)
    if syntax == DEFLATED_FRAME:
        return True
    if not syntax.is_transfer_syntax or syntax.is_private:
        raise ImageReadError(
            f"{source.path}: the transfer syntax {uid_name(syntax)} is not known; "
            "convert the file to Explicit VR Little Endian"
        )
    return bool(syntax.is_encapsulated)


def _stored(decoded: DecodedFrame, source: FrameSource) -> StoredFrame:
    """Unused bits removed, type as the header says, colour as RGB."""
    form, array, masked = decoded.form, decoded.array.astype(source.form.dtype, copy=False), 0
    if form.photometric in COLOUR:
        array = to_rgb(array, form.photometric, source.where)
    else:
        array, masked = used_bits(array, form)
    if form.photometric == "PALETTE COLOR":
        array = indexed_colour(array, source.palette, source.where)
    return StoredFrame(array=array, form=form, decoder=decoded.decoder, masked=masked, notes=decoded.notes)
