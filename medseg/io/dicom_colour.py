"""Colour of DICOM frames -> RGB."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.pixels.processing import convert_color_space

from medseg.errors import ImageReadError
from medseg.io.dicom_lut import LookUpTable

_YBR = frozenset({"YBR_FULL", "YBR_FULL_422"})
_MAX_ENTRY = 0xFFFF


def to_rgb(array: NDArray[Any], photometric: str, where: str) -> NDArray[Any]:
    """RGB from (rows, columns, 3) samples in the colour space `photometric`, 4:2:2 already expanded.

    Raises
    ------
    ImageReadError
        No conversion is known: samples of more than 8 bits, or a transform that only a codec undoes.
    """
    if photometric == "RGB":
        return array
    if photometric not in _YBR or array.dtype != np.uint8:
        raise ImageReadError(
            f"{where}: {photometric} pixels of {array.itemsize * 8} bits could not be converted to RGB"
        )
    converted: NDArray[Any] = convert_color_space(array, "YBR_FULL", "RGB")
    return converted


def indexed_colour(indices: NDArray[Any], tables: tuple[LookUpTable, ...], where: str) -> NDArray[np.uint16]:
    """RGB from indices into a palette.

    Parameters
    ----------
    indices : (rows, columns) array
    tables : tuple of LookUpTable
        Red, green, blue.
    where : str

    Returns
    -------
    (rows, columns, 3) uint16 array

    Raises
    ------
    ImageReadError
        There are not three tables, or they have entries beyond 16 bits.
    """
    if len(tables) != 3 or any(t.entries.min() < 0 or t.entries.max() > _MAX_ENTRY for t in tables):
        raise ImageReadError(
            f"{where}: expected a palette of three tables with entries from 0 to {_MAX_ENTRY}"
        )
    rgb = np.empty((*indices.shape, 3), dtype=np.uint16)
    for channel, table in enumerate(tables):
        places = np.clip(indices.astype(np.int64) - table.first, 0, len(table.entries) - 1)
        rgb[..., channel] = table.entries.astype(np.uint16)[places]
    return rgb
