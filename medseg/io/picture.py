"""PNG, JPEG, TIFF or BMP -> Volume, or label values."""

from __future__ import annotations

import hashlib
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from medseg.errors import ImageReadError, LabelError
from medseg.io.codestream import jpeg_size
from medseg.io.content import check_finite, merge_equal_channels, pixel_digest
from medseg.io.foreign import foreign_parser, recorded_warnings
from medseg.io.limits import DEFAULT_LIMITS, ReadLimits, read_bytes
from medseg.io.picture_png import check_png
from medseg.io.picture_tiff import TiffFacts, check_tiff
from medseg.io.sniff import EXPECTED, PICTURES, describe, kind_of
from medseg.volume import Source, Volume

_FORMATS = {"png": "PNG", "jpeg": "JPEG", "tiff": "TIFF", "bmp": "BMP"}
_GRAY_MODES = frozenset({"L", "I;16", "I;16L", "I;16B", "I", "F"})
_ORIENTATION = 0x0112


@dataclass(frozen=True, slots=True)
class _Decoded:
    """Pixels as stored, before colour and transparency are judged."""

    array: NDArray[Any]  # (rows, columns) or (rows, columns, samples)
    palette: NDArray[np.uint8] | None  # (entries, 4) RGBA; array then holds indices
    bits: int
    notes: tuple[str, ...]


def read_picture(path: Path, *, limits: ReadLimits = DEFAULT_LIMITS) -> Volume:
    """Read a picture with its exact values.

    Parameters
    ----------
    path : Path
        PNG (1 to 16 bits, gray, RGB, palette, with or without alpha), JPEG (8 bits), TIFF (1 to 16
        bits gray or RGB, 32-bit integers and floating point gray) or BMP.
    limits : ReadLimits, optional

    Returns
    -------
    Volume
        array (1, I, J) or (3, I, J) in the stored type. Equal RGB channels become one. Transparent
        pixels are laid over black, with a note; opaque alpha is dropped. JPEG is turned upright as
        its EXIF says. No spacing, whatever the file says: a picture's resolution is for printing.

    Raises
    ------
    ImageReadError
        Not one of these formats, truncated, damaged, too large, animated, several pages, CMYK.
    """
    path = Path(path)
    data = read_bytes(path, limits)
    decoded = _decode(data, path, limits)
    notes = list(decoded.notes)
    array = _without_alpha(_colours(decoded), notes)
    channels = array[np.newaxis] if array.ndim == 2 else np.moveaxis(array, -1, 0)
    channels = np.ascontiguousarray(merge_equal_channels(channels.transpose(0, 2, 1), notes))
    check_finite(channels, path)
    return Volume(
        array=channels,
        source=Source(paths=(path,), format="picture", sha256=hashlib.sha256(data).hexdigest()),
        pixel_sha256=pixel_digest(channels),
        notes=tuple(notes),
        header={"bits_stored": str(decoded.bits)},
    )


def read_picture_labels(path: Path, *, limits: ReadLimits = DEFAULT_LIMITS) -> NDArray[Any]:
    """Read a mask: the stored numbers, not the colours that stand for them.

    A palette of colours gives its indices; a palette of grays gives the grays, since programs that
    shrink PNG files turn gray pictures into such. A picture of one bit gives 0 and 1.

    Parameters
    ----------
    path : Path
    limits : ReadLimits, optional

    Returns
    -------
    (1, I, J) array
        Integers, or floating point for a TIFF that stores it.

    Raises
    ------
    ImageReadError
        As `read_picture`.
    LabelError
        JPEG, colours, transparency, or gray of 2 or 4 bits, where the label values are not certain.
    """
    path = Path(path)
    data = read_bytes(path, limits)
    if kind_of(data[:4096]) == "jpeg":
        raise LabelError(f"{path}: a JPEG mask has lost its exact values; save masks as PNG, TIFF or NIfTI")
    decoded = _decode(data, path, limits)
    array = decoded.array
    if decoded.palette is not None:
        used = decoded.palette[np.unique(array), :3]
        gray = (used == used[:, :1]).all()
        array = decoded.palette[array, 0] if gray else array
    elif decoded.bits in (2, 4):
        raise LabelError(
            f"{path}: whether a {decoded.bits}-bit gray mask means 1 or 255 is not certain; save as 8 bits"
        )
    elif decoded.bits == 1:
        array = (array > 0).astype(np.uint8)
    if array.ndim == 3:
        array = _one_channel(array, path)
    check_finite(array, path)
    return np.ascontiguousarray(array.T)[np.newaxis]


def _one_channel(array: NDArray[Any], path: Path) -> NDArray[Any]:
    colours = 1 if array.shape[2] in (1, 2) else 3
    opaque = array.shape[2] == colours or (array[..., -1] == np.iinfo(array.dtype).max).all()
    if not opaque or not (array[..., :colours] == array[..., :1]).all():
        raise LabelError(
            f"{path}: expected a mask of one channel, found colours or transparency; save label values"
        )
    return array[..., 0]


def _decode(data: bytes, path: Path, limits: ReadLimits) -> _Decoded:
    kind = kind_of(data[:4096])
    if kind not in PICTURES:
        raise ImageReadError(f"{path}: {EXPECTED}, found {describe(data[:4096])}")
    if kind == "png":
        header = check_png(data, path, limits)
        if header.depth == 16 and header.colour == 4:
            raise ImageReadError(
                f"{path}: a PNG of 16-bit gray with transparency is not read; save it without"
            )
        if header.depth == 16 and header.samples > 2:
            return _decode_deep_colour(path, header.samples)
        bits = header.depth
    else:
        bits = 8
    if kind == "jpeg":
        _check_jpeg(data, path, limits)
    with foreign_parser(path, f"the {_FORMATS[kind]} file is damaged or truncated"), recorded_warnings():
        return _decode_with_pillow(data, _FORMATS[kind], bits, path, limits)


def _check_jpeg(data: bytes, path: Path, limits: ReadLimits) -> None:
    size = jpeg_size(data)
    if size is None:
        raise ImageReadError(f"{path}: the JPEG file is damaged or truncated: it has no frame header")
    limits.check_pixels(path, (size.columns, size.rows, size.samples))
    if size.precision != 8 or size.samples not in (1, 3):
        raise ImageReadError(
            f"{path}: expected a JPEG of 8 bits, gray or RGB, "
            f"found {size.samples} channels of {size.precision} bits"
        )


def _decode_with_pillow(data: bytes, form: str, bits: int, path: Path, limits: ReadLimits) -> _Decoded:
    try:
        image = Image.open(io.BytesIO(data), formats=[form])
    except UnidentifiedImageError as err:
        raise ImageReadError(f"{path}: the {form} file is damaged or of a kind that is not read") from err
    except Image.DecompressionBombError as err:
        raise ImageReadError(f"{path}: the picture is too large to decode (option max_pixels)") from err
    with image:
        limits.check_pixels(path, (*image.size, len(image.getbands())))
        tiff = check_tiff(image, len(data), path) if form == "TIFF" else None
        if tiff is not None and tiff.deep_colour:
            return _decode_deep_colour(path, len(image.getbands()))
        notes = ["turned upright as its orientation tag says"] if tiff is not None and tiff.turned else []
        turned = _upright(image, notes) if form == "JPEG" else image
        turned.load()
        return _from_pillow(turned, tiff, tiff.bits if tiff else bits, notes, path)


def _upright(image: Image.Image, notes: list[str]) -> Image.Image:
    orientation = image.getexif().get(_ORIENTATION, 1)
    if orientation == 1:
        return image
    notes.append(f"turned upright as its EXIF orientation ({orientation}) says")
    return ImageOps.exif_transpose(image)


def _from_pillow(
    image: Image.Image, tiff: TiffFacts | None, bits: int, notes: list[str], path: Path
) -> _Decoded:
    mode, palette = image.mode, None
    if mode == "P":
        array, palette = np.asarray(image), _palette(image)
        if int(array.max(initial=0)) >= len(palette):
            raise ImageReadError(
                f"{path}: the picture names colour {array.max()}, its palette has {len(palette)}"
            )
    elif "transparency" in image.info and mode in ("L", "RGB"):
        array = np.asarray(image.convert("RGBA"))
    elif mode == "1":
        array, bits = np.asarray(image).astype(np.uint8) * np.uint8(255), 1
    elif mode in _GRAY_MODES or mode in ("LA", "RGB", "RGBA"):
        array = np.asarray(image)
    else:
        raise ImageReadError(f"{path}: expected gray or RGB, found a picture of colour model {mode}")
    if "transparency" in image.info and mode.startswith("I"):
        notes.append("the gray value that the file calls transparent is shown as it is")
    array = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("="))
    if tiff is not None and tiff.invert_16_bit:
        array = np.uint16(65535) - array.astype(np.uint16)
        notes.append("white is zero, inverted")
    return _Decoded(array, palette, bits, tuple(notes))


def _palette(image: Image.Image) -> NDArray[np.uint8]:
    """(entries, 4) red, green, blue, alpha."""
    colours = np.array(image.getpalette("RGB"), dtype=np.uint8).reshape(-1, 3)
    alpha = np.full(len(colours), 255, dtype=np.uint8)
    transparency = image.info.get("transparency", b"")
    if isinstance(transparency, int):
        alpha[transparency : transparency + 1] = 0
    else:
        known = np.frombuffer(transparency, dtype=np.uint8)[: len(alpha)]
        alpha[: len(known)] = known
    return np.column_stack([colours, alpha])


def _decode_deep_colour(path: Path, samples: int) -> _Decoded:
    """RGB or RGBA of 16 bits, which Pillow cuts to 8: (rows, columns, samples) by SimpleITK."""
    # Loaded where it is needed: most pictures are not read by it, and the import takes as long as reading some.
    import SimpleITK as sitk

    shown = sitk.ProcessObject.GetGlobalWarningDisplay()
    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    try:
        with foreign_parser(path, "the 16-bit colour picture is damaged or truncated"):
            array = np.asarray(sitk.GetArrayFromImage(sitk.ReadImage(str(path))))
    finally:
        sitk.ProcessObject.SetGlobalWarningDisplay(shown)
    if array.dtype != np.uint16 or array.ndim != 3 or array.shape[2] not in (samples, 4):
        raise ImageReadError(
            f"{path}: 16-bit colour was expected, the decoder gave {array.dtype} {array.shape}"
        )
    return _Decoded(array, None, 16, ())


def _colours(decoded: _Decoded) -> NDArray[Any]:
    return decoded.array if decoded.palette is None else decoded.palette[decoded.array]


def _without_alpha(array: NDArray[Any], notes: list[str]) -> NDArray[Any]:
    """Drop an alpha channel: over black where it is not opaque."""
    if array.ndim == 2 or array.shape[2] == 3:
        return array
    alpha, colour = array[..., -1], array[..., :-1]
    full = np.iinfo(array.dtype).max
    clear = int((alpha != full).sum())
    if clear:
        notes.append(f"{clear} transparent pixels were laid over black")
        share = alpha[..., np.newaxis].astype(np.float64) / full
        colour = np.rint(colour * share).astype(array.dtype)
    return colour[..., 0] if colour.shape[2] == 1 else colour
