"""What a compressed frame says about itself, read before a decoder allocates for it."""

from __future__ import annotations

from dataclasses import dataclass

_SOF = frozenset({*range(0xC0, 0xD0), 0xF7}) - {
    0xC4,
    0xC8,
    0xCC,
}  # not tables (DHT, DAC) and the reserved JPG
_STANDALONE = frozenset({0x01, *range(0xD0, 0xD9)})
_JP2_SIGNATURE = b"\x00\x00\x00\x0cjP  "


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamSize:
    """Size of the image in a JPEG, JPEG-LS or JPEG 2000 codestream."""

    columns: int
    rows: int
    samples: int
    precision: int


def jpeg_size(stream: bytes) -> StreamSize | None:
    """Size from the frame header (SOF) of JPEG or JPEG-LS; None where there is none.

    References
    ----------
    ITU-T T.81 B.2.2; ITU-T T.87 C.2.2.
    """
    if not stream.startswith(b"\xff\xd8"):
        return None
    at = 2
    while at + 4 <= len(stream):
        if stream[at] != 0xFF:
            return None
        marker = stream[at + 1]
        if marker == 0xFF:
            at += 1
        elif marker in _STANDALONE:
            at += 2
        elif marker in _SOF:
            return _start_of_frame(stream[at + 4 : at + 10])
        else:
            at += 2 + int.from_bytes(stream[at + 2 : at + 4], "big")
    return None


def _start_of_frame(fields: bytes) -> StreamSize | None:
    if len(fields) < 6:
        return None
    return StreamSize(
        precision=fields[0],
        rows=int.from_bytes(fields[1:3], "big"),
        columns=int.from_bytes(fields[3:5], "big"),
        samples=fields[5],
    )


def jpeg2000_size(stream: bytes) -> StreamSize | None:
    """Size from the SIZ marker of JPEG 2000 or HTJ2K, bare or in a JP2 box; None where there is none.

    References
    ----------
    ITU-T T.800 A.5.1.
    """
    start = _jp2_codestream(stream) if stream.startswith(_JP2_SIGNATURE) else 0
    siz = stream[start : start + 43]
    if len(siz) < 43 or siz[:4] != b"\xff\x4f\xff\x51":
        return None
    right, bottom, left, top = (int.from_bytes(siz[n : n + 4], "big") for n in (8, 12, 16, 20))
    return StreamSize(
        columns=right - left,
        rows=bottom - top,
        samples=int.from_bytes(siz[40:42], "big"),
        precision=(siz[42] & 0x7F) + 1,
    )


def _jp2_codestream(stream: bytes) -> int:
    at = 12
    while at + 8 <= len(stream):
        length = int.from_bytes(stream[at : at + 4], "big")
        if stream[at + 4 : at + 8] == b"jp2c":
            return at + 8
        if length < 8:
            break
        at += length
    return len(stream)
