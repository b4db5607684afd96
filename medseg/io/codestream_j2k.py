"""What a JPEG 2000 or HTJ2K frame says about itself, and what its decoder would not object to."""

from __future__ import annotations

from collections.abc import Iterator

from medseg.io.codestream import StreamSize

_JP2_SIGNATURE = b"\x00\x00\x00\x0cjP  "
_SOC_SIZ = b"\xff\x4f\xff\x51"
_COD, _COC, _SOT, _SOD, _EOC = 0x52, 0x53, 0x90, 0x93, 0xD9
_MAX_TILES = 8192
_MAX_PRECINCTS = 1 << 17  # OpenJPEG allocates about 0.4 kB for each


def codestream_of(stream: bytes) -> bytes:
    """The JPEG 2000 codestream alone: without the boxes of a JP2 file, with its end marker."""
    if stream.startswith(_JP2_SIGNATURE):
        stream = stream[_jp2_codestream(stream) :]
    # Some writers leave the end marker out, which the decoder takes for truncation.
    return stream if b"\xff\xd9" in stream[-16:] else stream + b"\xff\xd9"


def jpeg2000_size(stream: bytes) -> StreamSize | None:
    """Size from the SIZ marker of JPEG 2000 or HTJ2K, bare or in a JP2 box; None where there is none.

    References
    ----------
    ITU-T T.800 A.5.1.
    """
    start = _jp2_codestream(stream) if stream.startswith(_JP2_SIGNATURE) else 0
    siz = stream[start : start + 43]
    if len(siz) < 43 or siz[:4] != _SOC_SIZ:
        return None
    right, bottom, left, top = (int.from_bytes(siz[n : n + 4], "big") for n in (8, 12, 16, 20))
    return StreamSize(
        columns=right - left,
        rows=bottom - top,
        samples=int.from_bytes(siz[40:42], "big"),
        precision=(siz[42] & 0x7F) + 1,
        signed=bool(siz[42] & 0x80),
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


def fault_of(stream: bytes, size: StreamSize) -> str:
    """What is wrong with a codestream that starts with a SIZ marker; "" where nothing is.

    OpenJPEG leaves tiles that are not there at zero without a word, and allocates for as many
    tiles and precincts as the header asks for.

    Parameters
    ----------
    stream : bytes
        As `codestream_of` gives it.
    size : StreamSize

    References
    ----------
    ITU-T T.800 A.4.2 (tile-parts), A.5.1 (image and tile size), A.6.1 (precincts).
    """
    if stream[42 : 42 + 3 * size.samples] != size.samples * (stream[42:43] + b"\1\1"):
        return "its components differ in precision or sampling"
    right, bottom, _, _, width, height, left, top = (
        int.from_bytes(stream[n : n + 4], "big") for n in range(8, 40, 4)
    )
    if not width or not height or left >= right or top >= bottom:
        return "it has tiles without pixels"
    tiles = -(-(right - left) // width) * -(-(bottom - top) // height)
    if tiles > _MAX_TILES:
        return f"it has {tiles} tiles, at most {_MAX_TILES} are read"
    present, precincts = set[int](), 0
    tile = (min(width, size.columns), min(height, size.rows))
    for marker, content in _headers(stream):
        if marker == _SOT:
            present.add(int.from_bytes(content[:2], "big"))
        elif marker in (_COD, _COC):
            precincts = max(precincts, _precincts(marker, content, tile, size.samples))
    if precincts * tiles * size.samples > _MAX_PRECINCTS:
        return f"it is cut into {precincts * tiles} precincts, at most {_MAX_PRECINCTS} are read"
    missing = tiles - len(present & set(range(tiles)))
    return f"{missing} of its {tiles} tiles are missing" if missing else ""


def _headers(stream: bytes) -> Iterator[tuple[int, bytes]]:
    """Marker segments of the main header and of each tile-part header."""
    at, part_end = 2, 0
    while at + 4 <= len(stream) and stream[at] == 0xFF:
        marker = stream[at + 1]
        if marker == _EOC:
            return
        if marker == _SOD:
            if part_end <= at:
                return
            at = part_end
            continue
        length = int.from_bytes(stream[at + 2 : at + 4], "big")
        content = stream[at + 4 : at + 2 + length]
        if marker == _SOT:
            size = int.from_bytes(content[2:6], "big")
            part_end = at + size if size else len(stream)
        yield marker, content
        at += 2 + length


def _precincts(marker: int, content: bytes, tile: tuple[int, int], samples: int) -> int:
    """Precincts of one component of one tile, from a COD or COC segment."""
    skip = 0 if marker == _COD else (1 if samples < 257 else 2)
    style = content[skip : skip + 1]
    fields = content[5:] if marker == _COD else content[skip + 1 :]
    exponents = fields[5:]
    if not style or not style[0] & 1 or not fields:
        return 1
    levels, total = fields[0], 0
    for level, pair in enumerate(exponents[: levels + 1]):
        step = levels - level
        across, down = (-(-side >> step) if step < 32 else 1 for side in tile)
        total += -(-across >> (pair & 15)) * -(-down >> (pair >> 4))
    return total
