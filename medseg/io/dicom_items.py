"""Data elements in encoded bytes, found without making objects of them: for items that come in thousands.

pydicom takes a millisecond for the functional groups of one frame; of the thousands that a segmentation
has, a reader wants two numbers each.

References
----------
DICOM PS3.5 7.1 and 7.5.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import NamedTuple

from medseg.errors import ImageReadError

UNDEFINED = 0xFFFFFFFF
_LONG = frozenset({b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"})
_ITEM, _ITEM_END, _SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
_MAX_DEPTH = 16


class Element(NamedTuple):
    """Where the value of an element lies, and where the next one begins."""

    tag: int
    vr: bytes
    start: int
    stop: int
    after: int


class EncodedElements:
    """Elements, sequences and items of a byte string; every length is checked against what is there.

    Parameters
    ----------
    data : bytes
    implicit, little : bool
        How the elements are encoded.
    where : str
        The file, for messages.
    """

    def __init__(self, data: bytes, *, implicit: bool, little: bool, where: str) -> None:
        self.data, self.little, self._where, self._implicit = data, little, where, implicit
        order = "<" if little else ">"
        self.short = struct.Struct(f"{order}H")
        self._explicit_head = struct.Struct(f"{order}HH2sH").unpack_from
        self._implicit_head = struct.Struct(f"{order}HHI").unpack_from
        self._long = struct.Struct(f"{order}I").unpack_from

    def element(self, at: int, limit: int, *, depth: int = 0) -> Element:
        """The element that begins at byte `at` and must end before `limit`."""
        if at + 8 > limit:
            raise self._damaged(at)
        vr, head = b"", 8
        if self._implicit:
            group, number, length = self._implicit_head(self.data, at)
        else:
            group, number, vr, length = self._explicit_head(self.data, at)
            if not vr.isalpha():
                raise self._damaged(at)
            if vr in _LONG:
                if at + 12 > limit:
                    raise self._damaged(at)
                (length,), head = self._long(self.data, at + 8), 12
        tag, start = group << 16 | number, at + head
        if length == UNDEFINED:
            stop, after = self._sequence_end(start, limit, depth)
            return Element(tag, vr, start, stop, after)
        if length > limit - start:
            raise self._damaged(at)
        return Element(tag, vr, start, start + length, start + length)

    def elements(self, start: int, stop: int, *, depth: int = 0) -> Iterator[Element]:
        """The elements between two places."""
        while start < stop:
            found = self.element(start, stop, depth=depth)
            yield found
            start = found.after

    def items(self, start: int, stop: int, *, depth: int = 0) -> Iterator[tuple[int, int]]:
        """First and one past the last byte of each item of a sequence's value."""
        while start < stop:
            inner, end, start = self._item(start, stop, depth)
            yield inner, end

    def inner(self, element: Element, tag: int) -> Element | None:
        """An element of the first item of a sequence; None where there is none."""
        for start, stop in self.items(element.start, element.stop):
            return next((found for found in self.elements(start, stop) if found.tag == tag), None)
        return None

    def value(self, element: Element) -> bytes:
        """The bytes of a value."""
        return self.data[element.start : element.stop]

    def _item(self, at: int, limit: int, depth: int) -> tuple[int, int, int]:
        if at + 8 > limit:
            raise self._damaged(at)
        group, number, length = self._implicit_head(self.data, at)
        if group << 16 | number != _ITEM:
            raise self._damaged(at)
        if length != UNDEFINED:
            if length > limit - at - 8:
                raise self._damaged(at)
            return at + 8, at + 8 + length, at + 8 + length
        end = self._delimiter(at + 8, limit, depth)
        return at + 8, end, end + 8

    def _delimiter(self, at: int, limit: int, depth: int) -> int:
        """Where the delimiter of an item of undefined length begins."""
        while at + 8 <= limit:
            group, number, _ = self._implicit_head(self.data, at)
            if group << 16 | number == _ITEM_END:
                return at
            at = self.element(at, limit, depth=depth + 1).after
        raise self._damaged(at)

    def _sequence_end(self, at: int, limit: int, depth: int) -> tuple[int, int]:
        if depth > _MAX_DEPTH:
            raise self._damaged(at)
        while at + 8 <= limit:
            group, number, _ = self._implicit_head(self.data, at)
            if group << 16 | number == _SEQUENCE_END:
                return at, at + 8
            _, _, at = self._item(at, limit, depth)
        raise self._damaged(at)

    def _damaged(self, at: int) -> ImageReadError:
        return ImageReadError(
            f"{self._where}: the functional groups of the frames are damaged or cut off at byte {at} of them"
        )
