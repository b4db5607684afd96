"""Structure of a PNG file, checked to the last byte before it is decoded.

Pillow leaves the rest of the picture black when the compressed data end early; here that is an error.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from medseg.errors import ImageReadError
from medseg.io.limits import ReadLimits

_SIGNATURE_BYTES = 8
_SAMPLES = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
_DEPTHS = {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}
# Adam7: first column, first row, column step, row step of each pass
_PASSES = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
_BLOCK = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class PngHeader:
    """Size and pixel type of a PNG: colour 0 gray, 2 RGB, 3 palette, 4 gray and alpha, 6 RGB and alpha."""

    width: int
    height: int
    depth: int
    colour: int

    @property
    def samples(self) -> int:
        """Samples per pixel as stored."""
        return _SAMPLES[self.colour]


def check_png(data: bytes, path: Path, limits: ReadLimits) -> PngHeader:
    """Verify chunks, checksums and the length of the picture data.

    Raises
    ------
    ImageReadError
        Truncated, a wrong checksum, too little or too much picture data, animated, or too large.

    References
    ----------
    W3C Portable Network Graphics (PNG) Specification, third edition, 5, 7, 10 and 11.
    """
    chunks = list(_chunks(data, path))
    header, interlaced = _parse_ihdr(chunks[0], path)
    limits.check_pixels(path, (header.width, header.height, header.samples))
    if any(name == b"acTL" for name, _ in chunks):
        raise ImageReadError(f"{path}: expected a still picture, found an animated PNG")
    _check_picture_data(
        [body for name, body in chunks if name == b"IDAT"], _raw_bytes(header, interlaced), path
    )
    return header


def _chunks(data: bytes, path: Path) -> Iterator[tuple[bytes, memoryview]]:
    view, at = memoryview(data), _SIGNATURE_BYTES
    while at + 12 <= len(view):
        length = int.from_bytes(view[at : at + 4], "big")
        name, body = bytes(view[at + 4 : at + 8]), view[at + 8 : at + 8 + length]
        end = at + 12 + length
        if end > len(view):
            break
        if zlib.crc32(view[at + 4 : at + 8 + length]) != int.from_bytes(view[end - 4 : end], "big"):
            raise ImageReadError(f"{path}: the PNG is damaged: wrong checksum of the part at byte {at}")
        yield name, body
        if name == b"IEND":
            return
        at = end
    raise ImageReadError(f"{path}: the PNG is truncated: its {len(view)} bytes have no end part")


def _parse_ihdr(chunk: tuple[bytes, memoryview], path: Path) -> tuple[PngHeader, bool]:
    name, body = chunk
    if name != b"IHDR" or len(body) != 13:
        raise ImageReadError(f"{path}: the PNG is damaged: it does not begin with its header")
    header = PngHeader(
        width=int.from_bytes(body[0:4], "big"),
        height=int.from_bytes(body[4:8], "big"),
        depth=body[8],
        colour=body[9],
    )
    possible = header.depth in _DEPTHS.get(header.colour, ()) and body[12] in (0, 1)
    if not possible or not header.width or not header.height:
        raise ImageReadError(
            f"{path}: the PNG is damaged: {header.width} x {header.height} pixels of type {header.colour}, "
            f"{header.depth} bits, interlace {body[12]}"
        )
    return header, body[12] == 1


def _raw_bytes(header: PngHeader, interlaced: bool) -> int:
    """Bytes that the picture data inflate to: one filter byte and the packed samples for each row."""
    passes = _PASSES if interlaced else ((0, 0, 1, 1),)
    total = 0
    for left, top, step_x, step_y in passes:
        columns = -(-(header.width - left) // step_x)
        rows = -(-(header.height - top) // step_y)
        if columns > 0 and rows > 0:
            total += rows * (1 + (columns * header.samples * header.depth + 7) // 8)
    return total


def _check_picture_data(bodies: list[memoryview], expected: int, path: Path) -> None:
    inflater, found = zlib.decompressobj(), 0
    try:
        for body in bodies:
            rest: bytes | memoryview = body
            while len(rest) and found <= expected:
                found += len(inflater.decompress(rest, _BLOCK))
                rest = inflater.unconsumed_tail
        found += len(inflater.flush()) if found <= expected else 0
    except zlib.error as err:
        raise ImageReadError(f"{path}: the PNG is damaged: its picture data cannot be inflated") from err
    if found != expected or not inflater.eof:
        relation = "more" if found > expected else str(found)
        raise ImageReadError(
            f"{path}: the PNG is damaged: its picture needs {expected} bytes, found {relation}"
        )
