"""Bytes of a DICOM file -> data set, with every declared length checked before it is believed."""

from __future__ import annotations

import io
import re
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

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
from medseg.io.limits import ReadLimits
from medseg.io.sniff import EXPLICIT_VRS, describe, looks_like_dataset

silence_logger("pydicom")

_UNDEFINED = 0xFFFFFFFF
_PIXELS = frozenset({0x7FE00008, 0x7FE00009, 0x7FE00010})
_MAX_ELEMENTS = 100_000
_UID = re.compile(r"[0-9.]{1,64}")


class BoundedStream:
    """A stream of known size that never reads past its end, whatever length a header declares."""

    def __init__(self, stream: BinaryIO, size: int, *, content: bytes | None = None) -> None:
        self._stream, self.size, self.content = stream, size, content
        self.seek, self.tell = stream.seek, stream.tell

    def read(self, count: int = -1) -> bytes:
        left = max(self.size - self._stream.tell(), 0)
        return self._stream.read(left if count < 0 else min(count, left))


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
    return _parse(BoundedStream(io.BytesIO(data), len(data)), path, limits)[:2]


def parse_header(
    stream: BinaryIO, size: int, path: Path, limits: ReadLimits, tags: Sequence[str] | None = None
) -> tuple[Dataset, str]:
    """Only `tags` (None: all), from the part before the pixels; reads little more than the header from disk."""
    return _parse(BoundedStream(stream, size), path, limits, stop_at=_PIXELS, tags=tags)[:2]


def parse_front(
    stream: BinaryIO, size: int, path: Path, limits: ReadLimits, *, stop_at: int
) -> tuple[Dataset, str, BoundedStream]:
    """All elements before the tag `stop_at` or the pixels, and the stream, which stands where that one begins.

    Of a deflated file it is the stream of the inflated data set, which its `content` has.
    """
    return _parse(BoundedStream(stream, size), path, limits, stop_at=_PIXELS | {stop_at})


def _parse(
    stream: BoundedStream,
    path: Path,
    limits: ReadLimits,
    *,
    stop_at: frozenset[int] = frozenset(),
    tags: Sequence[str] | None = None,
) -> tuple[Dataset, str, BoundedStream]:
    head = stream.read(512)
    if head[128:132] != b"DICM" and not looks_like_dataset(head):
        raise ImageReadError(f"{path}: expected a DICOM file, found {describe(head)}")
    stream.seek(132 if head[128:132] == b"DICM" else 0)
    wanted = None if tags is None else [Tag(tag) for tag in tags]
    with (
        foreign_parser(path, "the DICOM header cannot be parsed", quote=False),
        recorded_warnings() as caught,
    ):
        stored_as = _read_meta(stream, path)
        if stored_as == DeflatedExplicitVRLittleEndian:
            plain = _inflate(stream.read(), path, limits)
            stream = BoundedStream(io.BytesIO(plain), len(plain), content=plain)
        implicit, little = _encoding(stream, stored_as)
        guard = _Guard(path, stream, stop_at=stop_at)
        dataset = read_dataset(stream, implicit, little, stop_when=guard, specific_tags=wanted)
    if any("End of file reached" in str(warning.message) for warning in caught):
        raise ImageReadError(f"{path}: the file is truncated: a sequence or its pixels have no end")
    _name_encoding(dataset, stored_as)
    return dataset, stored_as, stream


class _Guard:
    """pydicom asks this before it reads each top-level element."""

    def __init__(self, path: Path, stream: BoundedStream, *, stop_at: frozenset[int]) -> None:
        self.path, self.stream, self.stop_at = path, stream, stop_at
        self.count = 0

    def __call__(self, tag: Any, vr: Any, length: int) -> bool:
        if int(tag) in self.stop_at:
            return True
        self.count += 1
        if self.count > _MAX_ELEMENTS:
            raise ImageReadError(f"{self.path}: more than {_MAX_ELEMENTS} elements; the file is damaged")
        at = self.stream.tell()
        if int(tag) == 0:
            raise ImageReadError(f"{self.path}: zero bytes where an element should begin, before byte {at}")
        left = max(self.stream.size - at, 0)
        if length not in (_UNDEFINED, 0) and length > left:
            raise ImageReadError(
                f"{self.path}: the file is truncated: element {Tag(tag)} says it has {length} bytes, "
                f"{left} are there"
            )
        return False


def _read_meta(stream: BoundedStream, path: Path) -> str:
    """Read the file meta group, if any; its Transfer Syntax UID or ""."""
    guard = _Guard(path, stream, stop_at=frozenset())
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


def _encoding(stream: BoundedStream, syntax: str) -> tuple[bool, bool]:
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
