"""Bytes of a DICOM file -> data set, with every declared length checked before it is believed."""

from __future__ import annotations

import contextlib
import io
import os
import re
import threading
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.filereader import read_dataset
from pydicom.tag import Tag
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from medseg.errors import ImageReadError
from medseg.io.foreign import foreign_parser, recorded_warnings, silence_logger
from medseg.io.limits import ReadLimits, open_regular
from medseg.io.sniff import EXPLICIT_VRS, describe, looks_like_dataset

silence_logger("pydicom")

UNDEFINED_LENGTH = 0xFFFFFFFF
"""Stands for a length that is found by reading on (PS3.5 7.1.1)."""

_PIXELS = {0x7FE00008: "FloatPixelData", 0x7FE00009: "DoubleFloatPixelData", 0x7FE00010: "PixelData"}
_MAX_ELEMENTS = 100_000
_MAX_HEADER_ELEMENT = 128 << 20
_MAX_READS = 2_500_000
_MANY_READS = 20_000
_one_of_few_reads, _one_of_many_reads = threading.Lock(), threading.Lock()
_HEAD = 1 << 16
_UID = re.compile(r"[0-9.]{1,64}")
_VR = re.compile(r"[A-Z]{2}")
_VRS = frozenset(vr.decode() for vr in EXPLICIT_VRS)
_NO_VR = frozenset({None})
_VALUE_BYTES = {
    "AT": 4, "FD": 8, "FL": 4, "OD": 8, "OF": 4, "OL": 4, "OV": 8, "OW": 2, "SL": 4, "SS": 2, "SV": 8, "UL": 4,
    "US": 2, "UV": 8,
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class PixelElement:
    """Where the pixel data element of a file begins; its bytes have not been read.

    Parameters
    ----------
    keyword : str
        PixelData, FloatPixelData or DoubleFloatPixelData.
    offset, length : int
        Of the element's value, in bytes of the file, or of the inflated data set of a deflated file;
        `length` 0xFFFFFFFF for compressed pixels.
    vr : str
        "" where the file does not say (implicit VR).
    """

    keyword: str
    offset: int
    length: int
    vr: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ScannedFile:
    """Header of a DICOM file and the place of its pixels.

    Parameters
    ----------
    path : Path
    dataset : Dataset
        All elements before the pixels, still raw; `file_meta` as `parse_file` gives it.
    stored_as : str
        The file's own Transfer Syntax UID, "" where it has none.
    pixels : PixelElement or None
    size : int
        Bytes of the file, or of the inflated data set.
    inflated : bytes or None
        The inflated data set of a deflated file, which `pixels.offset` counts in.
    elements : mapping of int to RawDataElement
        The elements of the top level as they were read, by tag.
    """

    path: Path
    dataset: Dataset
    elements: Mapping[int, Any]
    stored_as: str
    pixels: PixelElement | None
    size: int
    inflated: bytes | None


class BoundedStream:
    """A stream of known size that never reads past its end, whatever length a header declares."""

    def __init__(self, stream: BinaryIO, size: int, *, content: bytes | None = None) -> None:
        self._stream, self.size, self.content = stream, size, content
        self.seek, self.tell = stream.seek, stream.tell

    def read(self, count: int = -1) -> bytes:
        left = max(self.size - self._stream.tell(), 0)
        return self._stream.read(left if count < 0 else min(count, left))


class _Held(io.BytesIO):
    """Bytes in memory, which are not copied: all of `size`, or the first of them."""

    content: bytes | None = None

    def __init__(self, held: bytes, size: int) -> None:
        super().__init__(held)
        self.size = size


DatasetStream = BoundedStream | _Held


def parse_file(data: bytes, path: Path, limits: ReadLimits) -> tuple[Dataset, str]:
    """The whole data set of a DICOM file.

    A file without preamble is read when its first element looks like DICOM. A deflated one is
    inflated up to `limits.max_inflated_mb`.

    Parameters
    ----------
    data : bytes
        The file.
    path : Path
        Its name, for messages.
    limits : ReadLimits

    Returns
    -------
    Dataset
        `file_meta` holds one element, the Transfer Syntax UID that the pixels at hand have: for an
        inflated data set Explicit VR Little Endian, for a file that does not say what it was found
        to be.
    str
        The file's own Transfer Syntax UID, "" where it has none.

    Raises
    ------
    ImageReadError
        Not DICOM, an element longer than the file, or content that pydicom cannot parse.
    """
    dataset, stored_as, _ = _parse(BoundedStream(io.BytesIO(data), len(data)), path, limits)
    return dataset, stored_as


def scan_file(path: Path, limits: ReadLimits) -> ScannedFile:
    """Header of a DICOM file without its pixels; most files cost one read of 64 KiB.

    Raises
    ------
    ImageReadError
        Not DICOM, an element longer than the file, or content that pydicom cannot parse.
    StorageError
        The file may not be read.
    """
    with open_regular(path) as stream:
        size = os.fstat(stream.fileno()).st_size
        head = stream.read(_HEAD)
        if len(head) < size:
            # Only what ends inside the head was read whole: that the pixels were met proves it.
            scanned = _scan(_Held(head, size), path, limits, partial=True)
            if scanned is not None:
                return scanned
        stream.seek(0)
        scanned = _scan(BoundedStream(stream, size), path, limits, partial=False)
    if scanned is None:
        raise ImageReadError(f"{path}: the DICOM header cannot be parsed")
    return scanned


def parse_front(
    stream: BinaryIO, size: int, path: Path, limits: ReadLimits, *, stop_at: int
) -> tuple[Dataset, str, DatasetStream]:
    """All elements before the tag `stop_at` or the pixels, and the stream, which stands where that one begins.

    Of a deflated file it is the stream of the inflated data set, which its `content` has.
    """
    stops = frozenset({*_PIXELS, stop_at})
    return _parse(BoundedStream(stream, size), path, limits, stop_at=stops)


def parse_data_set_front(
    data_set: bytes, transfer_syntax_uid: str, path: Path, limits: ReadLimits
) -> tuple[Dataset, DatasetStream]:
    """All elements of an encoded data set before its pixels, and the stream as `parse_front` gives it.

    Nothing is guessed as it is with files: another encoding than that of the transfer syntax is refused.

    Parameters
    ----------
    data_set : bytes
        Without preamble and file meta information; it is not copied.
    transfer_syntax_uid : str
        How it is encoded.
    path : Path
        What it is called in messages.
    limits : ReadLimits

    Raises
    ------
    ImageReadError
        An element that is longer than the data set, encoded in another way or there twice, content that pydicom
        cannot parse, or see `read_counted`.
    """
    stream = _Held(data_set, len(data_set))
    return _parse_elements(stream, transfer_syntax_uid, path, limits, stop_at=frozenset(_PIXELS), strict=True)


def _scan(stream: DatasetStream, path: Path, limits: ReadLimits, *, partial: bool) -> ScannedFile | None:
    """The header; of a stream that is only the head of a file None where the pixels lie beyond it."""
    found: list[PixelElement] = []
    try:
        dataset, stored_as, inner = _parse(
            stream, path, limits, stop_at=frozenset(_PIXELS), found=found, partial=partial
        )
    except ImageReadError:
        if partial:
            return None
        raise
    if partial and not found:
        return None
    return ScannedFile(
        path=path,
        dataset=dataset,
        elements={int(tag): element for tag, element in dataset.items()},
        stored_as=stored_as,
        pixels=found[0] if found else None,
        size=inner.size,
        inflated=inner.content,
    )


def _parse(
    stream: DatasetStream,
    path: Path,
    limits: ReadLimits,
    *,
    stop_at: frozenset[int] = frozenset(),
    found: list[PixelElement] | None = None,
    partial: bool = False,
) -> tuple[Dataset, str, DatasetStream]:
    """Data set, transfer syntax, and the stream that the data set was read from.

    Parsing ends before the first element whose tag is in `stop_at`, where the stream then stands; where
    that element holds pixels, `found` gets its place. The stream of a deflated file is the inflated one.
    """
    head = stream.read(512)
    if head[128:132] != b"DICM" and not looks_like_dataset(head):
        raise ImageReadError(f"{path}: expected a DICOM file, found {describe(head)}")
    stream.seek(132 if head[128:132] == b"DICM" else 0)
    with foreign_parser(path, "the DICOM header cannot be parsed", quote=False), recorded_warnings():
        stored_as = _read_meta(stream, path)
    if stored_as == DeflatedExplicitVRLittleEndian and partial:
        raise ImageReadError(f"{path}: a deflated data set is read whole")
    dataset, stream = _parse_elements(stream, stored_as, path, limits, stop_at=stop_at, found=found)
    return dataset, stored_as, stream


def _parse_elements(
    stream: DatasetStream,
    stored_as: str,
    path: Path,
    limits: ReadLimits,
    *,
    stop_at: frozenset[int],
    found: list[PixelElement] | None = None,
    strict: bool = False,
) -> tuple[Dataset, DatasetStream]:
    """The data set that begins where the stream stands, and the stream that it was read from; see `_parse`."""
    with (
        foreign_parser(path, "the DICOM header cannot be parsed", quote=False),
        recorded_warnings() as caught,
    ):
        if stored_as == DeflatedExplicitVRLittleEndian:
            content = _inflate(stream.read(), path, limits)
            stream = BoundedStream(io.BytesIO(content), len(content), content=content)
        implicit, little = _encoding(stream, stored_as)
        kind = partial(_StrictGuard, implicit=implicit) if strict else _Guard
        guard = kind(path, stream, stop_at=stop_at, found=found)
        dataset = (read_counted if strict else read_dataset)(stream, implicit, little, stop_when=guard)
    if strict and guard.count > len(dataset):
        raise ImageReadError(f"{path}: an element is there twice; the data set is damaged")
    if any("End of file reached" in str(warning.message) for warning in caught):
        raise ImageReadError(f"{path}: the file is truncated: a sequence or its pixels have no end")
    _name_encoding(dataset, stored_as)
    return dataset, stream


def read_counted(stream: Any, implicit_vr: bool, little_endian: bool, **options: Any) -> Dataset:
    """As pydicom's `read_dataset`, for what strangers send: with a limit on the elements of all levels.

    One thread at a time has its turn, as more would only keep the interpreter from those that answer others. Of those
    that read very many one has a turn beside it, so that nobody waits for them.

    Raises
    ------
    ImageReadError
        There are more elements.
    """
    with contextlib.ExitStack() as turn:
        turn.enter_context(_one_of_few_reads)
        return read_dataset(_CountedReads(stream, turn), implicit_vr, little_endian, **options)


class _CountedReads:
    """A stream for pydicom, which reads one to three times for each element, however deep it lies."""

    def __init__(self, stream: Any, turn: contextlib.ExitStack) -> None:
        self._read, self._turn, self._count = stream.read, turn, 0
        self.seek, self.tell = stream.seek, stream.tell

    def read(self, count: int = -1) -> bytes:
        self._count += 1
        if self._count == _MANY_READS:
            self._turn.close()
            self._turn.enter_context(_one_of_many_reads)
        elif self._count > _MAX_READS:
            raise ImageReadError("more elements in its sequences than any image has; it is damaged")
        return bytes(self._read(count))


class _Guard:
    """pydicom asks this before it reads each top-level element."""

    def __init__(
        self,
        path: Path,
        stream: DatasetStream,
        *,
        stop_at: frozenset[int] = frozenset(),
        found: list[PixelElement] | None = None,
    ) -> None:
        self.path, self.stream, self.stop_at, self.found = path, stream, stop_at, found
        self.count = 0

    def __call__(self, tag: Any, vr: Any, length: int) -> bool:
        if int(tag) in self.stop_at:
            if self.found is not None and int(tag) in _PIXELS:
                at, keyword = self.stream.tell(), _PIXELS[int(tag)]
                self.found.append(PixelElement(keyword=keyword, offset=at, length=length, vr=str(vr or "")))
            return True
        self.count += 1
        if self.count > _MAX_ELEMENTS:
            raise ImageReadError(f"{self.path}: more than {_MAX_ELEMENTS} elements; the file is damaged")
        at = self.stream.tell()
        if int(tag) == 0:
            raise ImageReadError(f"{self.path}: zero bytes where an element should begin, before byte {at}")
        self._check_length(tag, length, max(self.stream.size - at, 0))
        return False

    def _check_length(self, tag: Any, length: int, left: int) -> None:
        if length in (UNDEFINED_LENGTH, 0):
            return
        if length > left:
            raise ImageReadError(
                f"{self.path}: the file is truncated: element {Tag(tag)} says it has {length} bytes, "
                f"{left} are there"
            )
        if length > _MAX_HEADER_ELEMENT and int(tag) not in _PIXELS:
            raise ImageReadError(
                f"{self.path}: element {Tag(tag)} has {length >> 20} MiB, more than the "
                f"{_MAX_HEADER_ELEMENT >> 20} MiB that a header may hold in one element"
            )


class _StrictGuard(_Guard):
    """Refuses also what is encoded in another way than the transfer syntax says, which pydicom reads nevertheless."""

    def __init__(self, *args: Any, implicit: bool, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.implicit = implicit

    def __call__(self, tag: Any, vr: Any, length: int) -> bool:
        if vr not in (_NO_VR if self.implicit else _VRS):
            self._refuse_encoding(tag, vr)
        each = _VALUE_BYTES.get(vr)
        if each is not None and length != UNDEFINED_LENGTH and length % each:
            raise ImageReadError(
                f"{self.path}: element {Tag(tag)} has {length} bytes, its values of VR {vr} have {each} each"
            )
        return super().__call__(tag, vr, length)

    def _refuse_encoding(self, tag: Any, vr: Any) -> NoReturn:
        # Without two capitals where a VR stands pydicom takes the element for implicit.
        if self.implicit != (vr is None or not _VR.fullmatch(vr)):
            said, found = ("implicit", "explicit") if self.implicit else ("explicit", "implicit")
            raise ImageReadError(
                f"{self.path}: element {Tag(tag)} has {found} VR, its transfer syntax is one of {said} VR"
            )
        raise ImageReadError(f"{self.path}: element {Tag(tag)} has no VR of DICOM PS3.5 6.2")


def _read_meta(stream: DatasetStream, path: Path) -> str:
    """Read the file meta group, if any; its Transfer Syntax UID or ""."""
    guard = _Guard(path, stream)
    meta = read_dataset(
        stream,
        is_implicit_VR=False,
        is_little_endian=True,
        stop_when=lambda tag, vr, length: int(tag) >> 16 != 2 or guard(tag, vr, length),
    )
    syntax = str(meta.get("TransferSyntaxUID") or "").strip("\0 ")
    if syntax and not _UID.fullmatch(syntax):
        raise ImageReadError(f"{path}: the Transfer Syntax UID is not a UID; the file is damaged")
    return syntax


def _encoding(stream: DatasetStream, syntax: str) -> tuple[bool, bool]:
    """Whether the data set is implicit VR and little endian, looked up where the file does not say."""
    if syntax:
        return syntax == ImplicitVRLittleEndian, syntax != ExplicitVRBigEndian
    start = stream.tell()
    head = stream.read(6)
    stream.seek(start)
    explicit = head[4:6] in EXPLICIT_VRS
    return not explicit, not (explicit and int.from_bytes(head[:2], "little") >= 0x0400)


def _name_encoding(dataset: Dataset, stored_as: str) -> None:
    syntax: Any = stored_as
    if stored_as == DeflatedExplicitVRLittleEndian:
        syntax = ExplicitVRLittleEndian
    elif not stored_as:
        implicit, little = dataset.original_encoding
        explicit = ExplicitVRLittleEndian if little else ExplicitVRBigEndian
        syntax = ImplicitVRLittleEndian if implicit else explicit
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = syntax


def _inflate(data: bytes, path: Path, limits: ReadLimits) -> bytes:
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    plain = inflater.decompress(data, limits.max_inflated_mb << 20)
    if inflater.unconsumed_tail:
        raise ImageReadError(
            f"{path}: the inflated data set has more than {limits.max_inflated_mb} MiB "
            "(option max_inflated_mb)"
        )
    if not inflater.eof:
        raise ImageReadError(f"{path}: the file is truncated: its deflated data set has no end")
    return plain
