"""What a TIFF file declares, checked before it is decoded, and which decoder keeps its values exact."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medseg.errors import ImageReadError

_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC = 256, 257, 258, 259, 262
_STRIPS, _TILES = (273, 279), (324, 325)
_ORIENTATION, _SAMPLE_FORMAT = 274, 339
_WHITE_IS_ZERO, _RGB = 0, 2
_UPRIGHT, _HALF_TURNS = 1, (2, 3, 4)


@dataclass(frozen=True, slots=True, kw_only=True)
class TiffFacts:
    """How a TIFF picture must be read.

    Parameters
    ----------
    deep_colour : bool
        RGB of 16 bits, which Pillow would cut to 8.
    invert_16_bit : bool
        White is zero in 16 bits, which Pillow does not invert.
    turned : bool
        Pillow mirrors or turns the picture by half a turn, as its orientation tag asks.
    bits : int
        Bits of a sample.
    """

    deep_colour: bool
    invert_16_bit: bool
    turned: bool
    bits: int


def check_tiff(image: Any, size: int, path: Path) -> TiffFacts:
    """Check the tags of an opened TIFF.

    Parameters
    ----------
    image : PIL.TiffImagePlugin.TiffImageFile
        Not loaded yet.
    size : int
        Bytes in the file.
    path : Path

    Raises
    ------
    ImageReadError
        Several pages, data beyond the end of the file, a quarter turn, or samples of different or
        unsupported widths.
    """
    tags = image.tag_v2
    _require_one_page(image, path)
    _check_segments(tags, size, path)
    bits = tuple(int(v) for v in _tuple(tags.get(_BITS, 1)))
    orientation = int(tags.get(_ORIENTATION, _UPRIGHT))
    photometric = int(tags.get(_PHOTOMETRIC, -1))
    deep = len(bits) > 1 and max(bits) > 8
    if len(set(bits)) != 1 or (deep and (bits[0] != 16 or len(bits) not in (3, 4) or photometric != _RGB)):
        raise ImageReadError(
            f"{path}: TIFF samples of {', '.join(map(str, bits))} bits are not read; save as 8 or 16 bits"
        )
    if orientation not in (_UPRIGHT, *_HALF_TURNS) or (deep and orientation != _UPRIGHT):
        raise ImageReadError(
            f"{path}: the TIFF asks to be turned (orientation {orientation}); save it upright"
        )
    unsigned = set(_tuple(tags.get(_SAMPLE_FORMAT, 1))) <= {1, 4}
    white_is_zero = photometric == _WHITE_IS_ZERO and bits[0] > 8
    if white_is_zero and not (unsigned and bits[0] == 16):
        raise ImageReadError(
            f"{path}: a white-is-zero TIFF of {bits[0]}-bit numbers has no defined range; save as 16 bits"
        )
    return TiffFacts(
        deep_colour=deep, invert_16_bit=white_is_zero, turned=orientation in _HALF_TURNS, bits=bits[0]
    )


def _require_one_page(image: Any, path: Path) -> None:
    try:
        image.seek(1)
    except EOFError:
        image.seek(0)
        return
    raise ImageReadError(
        f"{path}: expected a picture, found a TIFF of several pages; save the one that is meant"
    )


def _check_segments(tags: Any, size: int, path: Path) -> None:
    offsets, counts = ((), ())
    for offset_tag, count_tag in (_STRIPS, _TILES):
        if offset_tag in tags:
            offsets, counts = _tuple(tags[offset_tag]), _tuple(tags.get(count_tag, ()))
    if not offsets or (counts and len(offsets) != len(counts)):
        raise ImageReadError(f"{path}: the TIFF is damaged: it does not say where its pixels are")
    ends = [int(at) + int(n) for at, n in zip(offsets, counts or [0] * len(offsets), strict=True)]
    if max(ends) > size:
        raise ImageReadError(
            f"{path}: the TIFF is truncated: its pixels end at byte {max(ends)}, the file at {size}"
        )
    bits = sum(int(v) for v in _tuple(tags.get(_BITS, 1)))
    needed = (int(tags[_WIDTH]) * bits + 7) // 8 * int(tags[_HEIGHT])
    listed = sum(int(n) for n in counts)
    if int(tags.get(_COMPRESSION, 1)) == 1 and counts and listed < needed:
        raise ImageReadError(
            f"{path}: the TIFF is damaged: its pixels need {needed} bytes, it lists {listed}"
        )


def _tuple(value: Any) -> tuple[Any, ...]:
    return tuple(value) if isinstance(value, tuple | list) else (value,)
