"""Where the compressed frames of a file lie, found from the item headers alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import BinaryIO

from medseg.errors import ImageReadError

UNDEFINED = 0xFFFFFFFF
_ITEM = b"\xfe\xff\x00\xe0"
_DELIMITER = b"\xfe\xff\xdd\xe0"
_END_OF_IMAGE = b"\xff\xd9"  # of JPEG and of JPEG 2000; neither has it inside its data
_TAIL = 16  # the end marker and what writers pad after it
_MAX_ITEMS_PER_FRAME, _MIN_ITEMS = 64, 1 << 16


@dataclass(frozen=True, slots=True)
class Fragment:
    """One item of encapsulated pixel data: where its header and its content begin, in bytes of the file."""

    item: int
    start: int
    length: int


def frame_fragments(
    stream: BinaryIO, *, offset: int, length: int, size: int, frames: int, where: str
) -> tuple[tuple[tuple[Fragment, ...], ...], tuple[str, ...]]:
    """Find the fragments of every frame; reads item headers, the offset table and, if need be, fragment ends.

    The Extended Offset Table is not needed: where it is allowed, each frame is one fragment.

    Parameters
    ----------
    stream : binary file
    offset : int
        First byte of the value of the pixel data element.
    length : int
        Its length, or `UNDEFINED`.
    size : int
        Bytes in the file.
    frames : int
        How many frames the header says there are.
    where : str
        The file, for messages.

    Returns
    -------
    tuple of tuple of Fragment
        For each frame.
    tuple of str
        Notes.

    Raises
    ------
    ImageReadError
        An item longer than the file, no end, or fragments that do not make up the frames.

    References
    ----------
    DICOM PS3.5 A.4; PS3.3 C.7.6.3.1.8 (Extended Offset Table).
    """
    end = size if length == UNDEFINED else min(size, offset + length)
    limit = max(_MIN_ITEMS, frames * _MAX_ITEMS_PER_FRAME)
    items = list(_items(stream, offset, end, limit, where, must_end=length == UNDEFINED))
    if not items:
        raise ImageReadError(f"{where}: the compressed frame cannot be found: there is no offset table item")
    table, fragments = _offsets(stream, items[0], where), [item for item in items[1:] if item.length]
    if table and len(table) != frames:
        raise ImageReadError(
            f"{where}: the header says {_count(frames)}, the offset table lists {len(table)}"
        )
    if len(fragments) < frames:
        raise ImageReadError(
            f"{where}: the header says {_count(frames)}, the file has {len(fragments)} compressed fragments"
        )
    if frames == 1:
        return (tuple(fragments),), ()
    starts = [item.item - (items[0].start + items[0].length) for item in fragments]
    if len(fragments) == frames:
        fits = not table or table == starts
        note = "the offset table does not fit the fragments; one fragment was taken for each frame"
        return tuple((fragment,) for fragment in fragments), () if fits else (note,)
    first = [starts.index(at) for at in table if at in starts] if table else _by_end(stream, fragments)
    if len(first) != frames or first[0] != 0 or any(b <= a for a, b in pairwise(first)):
        raise ImageReadError(
            f"{where}: {len(fragments)} compressed fragments cannot be divided into {_count(frames)}; "
            "the file is damaged"
        )
    ends = [*first[1:], len(fragments)]
    return tuple(tuple(fragments[a:b]) for a, b in zip(first, ends, strict=True)), ()


def _items(
    stream: BinaryIO, at: int, end: int, limit: int, where: str, *, must_end: bool
) -> Iterator[Fragment]:
    for _ in range(limit):
        stream.seek(at)
        header = stream.read(8) if at + 8 <= end else b""
        if header[:4] == _DELIMITER or (not header and at == end and not must_end):
            return
        length = int.from_bytes(header[4:], "little")
        if not header or length > end - at - 8:
            raise ImageReadError(
                f"{where}: the file is truncated: the compressed fragment at byte {at} says it has "
                f"{length} bytes, {max(end - at - 8, 0)} are there"
            )
        if header[:4] != _ITEM:
            raise ImageReadError(
                f"{where}: the compressed frame cannot be found: no item where one should begin, at byte {at}"
            )
        yield Fragment(at, at + 8, length)
        at += 8 + length
    raise ImageReadError(f"{where}: more than {limit} compressed fragments; the file is damaged")


def _offsets(stream: BinaryIO, item: Fragment, where: str) -> list[int]:
    if item.length % 4:
        raise ImageReadError(
            f"{where}: the compressed frame cannot be found: an offset table of {item.length} bytes"
        )
    stream.seek(item.start)
    table = memoryview(stream.read(item.length))
    return [int.from_bytes(table[n : n + 4], "little") for n in range(0, len(table), 4)]


def _by_end(stream: BinaryIO, fragments: Sequence[Fragment]) -> list[int]:
    """Index of the fragment that begins each frame: the one after an end marker."""
    first = [0]
    for number, fragment in enumerate(fragments[:-1], start=1):
        tail = min(_TAIL, fragment.length)
        stream.seek(fragment.start + fragment.length - tail)
        if _END_OF_IMAGE in stream.read(tail):
            first.append(number)
    return first


def _count(frames: int) -> str:
    return "one frame" if frames == 1 else f"{frames} frames"
