"""`multipart/related` as it streams in (RFC 2046, 2387): bounded parts, headers and boundary."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from email.message import Message

_MAX_HEAD = 16 * 1024
_MAX_PREAMBLE = 64 * 1024
# RFC 2046 allows 70 characters; the STOW-RS client of Orthanc's DICOMweb plugin takes 73.
_BOUNDARY = re.compile(r"[0-9A-Za-z'()+_,./:=? -]{0,199}[0-9A-Za-z'()+_,./:=?-]")

# RFC 5322 2.2.3: a line that begins with a blank goes on with the one before it.
_FOLD = re.compile(rb"\r\n(?=[ \t])")


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One part: its content type in lower case without parameters, "" where it has none, and its bytes."""

    content_type: str
    content: bytes


class PartTooLargeError(ValueError):
    """A part is above the limit."""


def boundary_of(content_type: str) -> str:
    """The boundary of a multipart message.

    Raises
    ------
    ValueError
        It is no multipart message, or its boundary is malformed.
    """
    message = Message()
    message["Content-Type"] = content_type
    boundary = message.get_param("boundary")
    if message.get_content_maintype() != "multipart" or not isinstance(boundary, str):
        raise ValueError("expected Content-Type multipart/related with a boundary")
    if not _BOUNDARY.fullmatch(boundary):
        raise ValueError("the boundary of the multipart message is malformed")
    return boundary


def read_parts(content_type: str, chunks: Iterable[bytes], *, part_limit: int) -> Iterator[Part]:
    """The parts of a multipart message, each when it is complete.

    Parameters
    ----------
    content_type : str
        The header of that name.
    chunks : iterable of bytes
    part_limit : int
        Most bytes of a part.

    Raises
    ------
    PartTooLargeError
        A part is larger.
    ValueError
        The message is malformed or has no end.
    """
    feed = PartFeed(content_type, part_limit=part_limit)
    for chunk in chunks:
        yield from feed.take(chunk)
        if feed.ended:
            # What follows the last boundary is of no interest (RFC 2046 5.1.1), and may have no end.
            return
    feed.end()


class PartFeed:
    """Takes a multipart message chunk by chunk; for who cannot iterate, such as a coroutine.

    Parameters and errors are those of `read_parts`.
    """

    def __init__(self, content_type: str, *, part_limit: int) -> None:
        self._mark = b"\r\n--" + boundary_of(content_type).encode("ascii")
        self._limit = part_limit
        # The first boundary may stand at the very beginning.
        self._buffer = bytearray(b"\r\n")
        self._searched = 0
        self._begun = self._ended = False

    @property
    def ended(self) -> bool:
        """Whether the last boundary has come."""
        return self._ended

    @property
    def held(self) -> int:
        """Bytes of the part that is not complete."""
        return len(self._buffer)

    def take(self, chunk: bytes) -> Iterator[Part]:
        """The parts that are complete with this chunk."""
        if self._ended:
            return
        self._buffer += chunk
        while not self._ended:
            at = self._buffer.find(self._mark, self._searched)
            if at < 0:
                self._searched = max(0, len(self._buffer) - len(self._mark))
                self._check_size(len(self._buffer))
                return
            after = at + len(self._mark)
            if len(self._buffer) < after + 2:
                self._searched = at
                return
            self._check_size(at)
            if self._begun:
                part = _part(bytes(self._buffer[:at]))
                if len(part.content) > self._limit:
                    raise PartTooLargeError(f"a part of the message has more than {self._limit} bytes")
                yield part
            self._advance(after)

    def end(self) -> None:
        """Raise where the message is not complete."""
        if not self._ended:
            raise ValueError("the multipart message is truncated: its last boundary is missing")

    def _advance(self, after: int) -> None:
        """Go behind a boundary."""
        if self._buffer[after : after + 2] == b"--":
            self._ended = True
        self._begun = True
        # What stands behind the boundary, up to the end of its line, is padding; the part begins with that end.
        del self._buffer[:after]
        self._searched = 0

    def _check_size(self, size: int) -> None:
        limit = self._limit + _MAX_HEAD if self._begun else _MAX_PREAMBLE + _MAX_HEAD
        if size > limit:
            if not self._begun:
                raise ValueError("no boundary at the beginning of the multipart message")
            raise PartTooLargeError(f"a part of the message has more than {self._limit} bytes")


def _part(raw: bytes) -> Part:
    """A part from behind its boundary: padding, CRLF, head, empty line, content."""
    line_end = raw.find(b"\r\n")
    if line_end < 0 or raw[:line_end].strip(b" \t"):
        raise ValueError("a boundary of the multipart message is followed by something else than a line end")
    head, gap, content = raw[line_end:].partition(b"\r\n\r\n")
    if not gap or len(head) > _MAX_HEAD:
        raise ValueError("a part of the multipart message has no end of its head")
    kind = ""
    for line in _FOLD.sub(b" ", head).split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name.strip().lower() == b"content-type":
            kind = value.split(b";")[0].strip().lower().decode("ascii", "replace")
    return Part(content_type=kind, content=content)
