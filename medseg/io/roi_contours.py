"""Contours of an RT Structure Set as the file has them: type, points in mm, the image they lie on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.tag import Tag

from medseg.errors import ImageReadError

CLOSED = frozenset({"CLOSED_PLANAR", "CLOSEDPLANAR_XOR"})
_NOT_CLOSED = frozenset({"POINT", "OPEN_PLANAR", "OPEN_NONPLANAR"})
_MAX_POINTS = 2_000_000
_MAX_MM = 1e6
_FEWEST = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Contour:
    """One contour.

    Parameters
    ----------
    number : int
        Its place in the file's list, from 1.
    kind : str
        Contour Geometric Type.
    points_lps : (N, 3) float64 array
        mm in LPS+.
    image : (str, int) or None
        SOP Instance UID and frame number (0: none given) that it refers to; None without reference,
        or with several.
    """

    number: int
    kind: str
    points_lps: NDArray[np.float64]
    image: tuple[str, int] | None

    @property
    def encloses(self) -> bool:
        """Whether it is closed and has an inside."""
        return self.kind in CLOSED and len(self.points_lps) >= _FEWEST


def items_of(dataset: Dataset, keyword: str, path: Path) -> list[Dataset]:
    """Items of a sequence, empty where it is absent.

    Raises
    ------
    ImageReadError
        The element is there and is no sequence.
    """
    value = dataset.get(keyword)
    if value is None or value == b"":
        return []
    if isinstance(value, str | bytes) or not isinstance(value, Sequence):
        raise ImageReadError(f"{path}: {keyword} is no sequence of items; the file is damaged")
    return list(value)


def read_contours(item: Dataset, where: str, path: Path) -> list[Contour]:
    """Contours of one item of the ROI Contour Sequence.

    Parameters
    ----------
    item : Dataset
    where : str
        The ROI, for messages.
    path : Path

    Raises
    ------
    ImageReadError
        Coordinates that are not numbers, not three a point, not as many as the contour says, or
        absurdly large or many; an unknown type; an offset vector.
    """
    return [
        _contour(contour, number, f"{path}: {where}, contour {number}", path)
        for number, contour in enumerate(items_of(item, "ContourSequence", path), start=1)
    ]


def _contour(item: Dataset, number: int, where: str, path: Path) -> Contour:
    kind = text_of(item, "ContourGeometricType").upper()
    if kind not in CLOSED | _NOT_CLOSED:
        raise ImageReadError(
            f"{where}: its geometric type is {kind[:16] if kind.isascii() and kind else 'missing or unknown'}, "
            f"expected {', '.join(sorted(CLOSED | _NOT_CLOSED))}"
        )
    # Retired, and no reader of our time follows it: a contour that is meant elsewhere.
    if any(_numbers(item, "ContourOffsetVector", where)):
        raise ImageReadError(f"{where}: it has an offset vector, which is not supported")
    values = _numbers(item, "ContourData", where)
    if len(values) % 3:
        raise ImageReadError(f"{where}: it has {len(values)} coordinates, expected three for each point")
    stated = text_of(item, "NumberOfContourPoints")
    if stated and stated.lstrip("+") != str(len(values) // 3):
        shown = stated if stated.isdigit() and len(stated) <= 12 else "no number"
        raise ImageReadError(
            f"{where}: it says it has {shown} points, {len(values) // 3} are there; the file is damaged"
        )
    points = np.array(values, dtype=np.float64).reshape(-1, 3)
    if not (np.abs(points) <= _MAX_MM).all():
        raise ImageReadError(f"{where}: a coordinate is not a number within {_MAX_MM:g} mm of the origin")
    return Contour(number=number, kind=kind, points_lps=points, image=_image(item, path))


def _image(item: Dataset, path: Path) -> tuple[str, int] | None:
    images = items_of(item, "ContourImageSequence", path)
    if len(images) != 1:
        return None
    frame = text_of(images[0], "ReferencedFrameNumber")
    uid = text_of(images[0], "ReferencedSOPInstanceUID")
    return (uid, int(frame) if frame.isdigit() else 0) if uid and "\\" not in frame else None


def _numbers(item: Dataset, keyword: str, where: str) -> list[float]:
    """Decimals of an element, without a Python object for each in between."""
    text = text_of(item, keyword)
    if not text:
        return []
    count = text.count("\\") + 1
    if count > 3 * _MAX_POINTS:
        raise ImageReadError(
            f"{where}: {keyword} has {count} values, the limit is {3 * _MAX_POINTS}; the file is damaged"
        )
    try:
        # float() also takes digits with underscores.
        return [float("?" if "_" in text else value) for value in text.split("\\")]
    except ValueError as err:
        raise ImageReadError(f"{where}: {keyword} holds a value that is not a number") from err


def text_of(item: Dataset, keyword: str) -> str:
    """Undecoded text of an element, whatever its VR; long coordinates come as UN in Explicit VR (PS3.5 6.2.2)."""
    tag = Tag(keyword)
    value: Any = item.get_item(tag).value if tag in item else None
    if isinstance(value, bytes):
        return value.decode("ascii", "replace").strip("\0 ")
    if value is None or isinstance(value, str):
        return (value or "").strip("\0 ")
    plain = [value] if not isinstance(value, Sequence) else value
    return "\\".join(str(part) for part in plain)
