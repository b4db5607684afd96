"""What a JPEG or JPEG-LS frame says about itself, read before a decoder allocates for it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

_SOF = frozenset({*range(0xC0, 0xD0), 0xF7}) - {
    0xC4,
    0xC8,
    0xCC,
}  # not tables (DHT, DAC) and the reserved JPG
_STANDALONE = frozenset({0x01, *range(0xD0, 0xD9)})
_APP0, _APP14, _SOS = 0xE0, 0xEE, 0xDA
_RGB_IDS = frozenset({b"RGB", b"rgb"})


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamSize:
    """Size of the image in a JPEG, JPEG-LS or JPEG 2000 codestream.

    Parameters
    ----------
    columns, rows, samples, precision : int
    signed : bool
        Only JPEG 2000 can say so.
    process : int
        Second byte of the SOF marker of JPEG and JPEG-LS, 0 for JPEG 2000.
    colour : str
        "RGB" or "YBR" where the stream itself says which it holds, else "".
    """

    columns: int
    rows: int
    samples: int
    precision: int
    signed: bool = False
    process: int = 0
    colour: str = ""


def jpeg_size(stream: bytes) -> StreamSize | None:
    """Size from the frame header (SOF) of JPEG or JPEG-LS; None where there is none.

    References
    ----------
    ITU-T T.81 B.2.2; ITU-T T.87 C.2.2.
    """
    jfif, adobe = False, -1
    for marker, start, end in _segments(stream):
        if marker == _APP0 and stream[start : start + 4] == b"JFIF":
            jfif = True
        elif marker == _APP14 and stream[start : start + 5] == b"Adobe" and end - start >= 12:
            adobe = stream[start + 11]
        elif marker in _SOF:
            return _start_of_frame(marker, stream[start:end], jfif=jfif, adobe=adobe)
        elif marker == _SOS:
            return None
    return None


def _segments(stream: bytes) -> Iterator[tuple[int, int, int]]:
    """(marker, start, end) of each marker segment's content."""
    at = 2 if stream.startswith(b"\xff\xd8") else len(stream)
    while at + 4 <= len(stream) and stream[at] == 0xFF:
        marker = stream[at + 1]
        if marker == 0xFF:
            at += 1
        elif marker in _STANDALONE:
            at += 2
        else:
            length = int.from_bytes(stream[at + 2 : at + 4], "big")
            yield marker, at + 4, at + 2 + length
            at += 2 + length


def _start_of_frame(marker: int, fields: bytes, *, jfif: bool, adobe: int) -> StreamSize | None:
    if len(fields) < 6:
        return None
    samples = fields[5]
    return StreamSize(
        precision=fields[0],
        rows=int.from_bytes(fields[1:3], "big"),
        columns=int.from_bytes(fields[3:5], "big"),
        samples=samples,
        process=marker,
        colour="" if samples != 3 else _colour(fields[6::3][:3], jfif=jfif, adobe=adobe),
    )


def _colour(identifiers: bytes, *, jfif: bool, adobe: int) -> str:
    if identifiers in _RGB_IDS:
        return "RGB"
    if jfif:
        return "YBR"
    return {0: "RGB", 1: "YBR"}.get(adobe, "")
