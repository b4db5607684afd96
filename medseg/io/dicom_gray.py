"""Stored gray values -> values of the modality, with bone light and air dark."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medseg.errors import ImageReadError
from medseg.io.dicom_format import PixelFormat
from medseg.io.dicom_header import DicomHeader
from medseg.io.dicom_lut import look_up_table


@dataclass(frozen=True, slots=True, kw_only=True)
class GrayImage:
    """Gray values after modality transform and polarity.

    Parameters
    ----------
    array : (rows, columns) float array
    value_range : (float, float)
        Smallest and largest value that the stored bits can stand for.
    inverted : bool
        Whether the values were turned over inside `value_range`, as MONOCHROME1 asks for.
    notes : tuple of str
    """

    array: NDArray[np.floating[Any]]
    value_range: tuple[float, float]
    inverted: bool
    notes: tuple[str, ...]


def to_display_polarity(stored: NDArray[Any], form: PixelFormat, header: DicomHeader) -> GrayImage:
    """Apply the modality LUT or rescale, then invert images that are to be shown inverted.

    The VOI window is left to the display: no value is clipped.

    Parameters
    ----------
    stored : (rows, columns) array
        Stored values.
    form : PixelFormat
    header : DicomHeader

    Raises
    ------
    ImageReadError
        A modality LUT or rescale that is incomplete, not finite or zero.

    References
    ----------
    DICOM PS3.3 C.7.6.3.1.2 (photometric interpretation), C.11.1 (modality LUT), C.11.6
    (presentation LUT shape: a MONOCHROME1 image has INVERSE, which is one inversion, not two).
    """
    notes: list[str] = []
    array: NDArray[np.floating[Any]]
    items = header.items("ModalityLUTSequence")
    if items:
        little = bool(header.layers[-1].original_encoding[1])
        item = DicomHeader(header.path, tuple(items[:1]))
        table = look_up_table(item, "LUT", little_endian=little, signed=form.signed)
        array, value_range = table(stored), (float(table.entries.min()), float(table.entries.max()))
        notes.append("modality look-up table applied")
    else:
        array, value_range = _rescale(stored, form, header)
    shape = header.code("PresentationLUTShape")
    inverted = form.photometric == "MONOCHROME1" or shape == "INVERSE"
    if inverted:
        array = (value_range[0] + value_range[1]) - array
        odd = form.photometric != "MONOCHROME1"
        notes.append(
            "MONOCHROME2 with presentation shape INVERSE, inverted" if odd else "MONOCHROME1, inverted"
        )
    if form.photometric == "MONOCHROME1" and shape == "IDENTITY":
        notes.append("the header contradicts itself: MONOCHROME1 with presentation shape IDENTITY")
    return GrayImage(array=array, value_range=value_range, inverted=inverted, notes=tuple(notes))


def _rescale(
    stored: NDArray[Any], form: PixelFormat, header: DicomHeader
) -> tuple[NDArray[np.floating[Any]], tuple[float, float]]:
    slope, intercept = _number(header, "RescaleSlope", 1.0), _number(header, "RescaleIntercept", 0.0)
    if slope == 0:
        raise ImageReadError(f"{header.path}: RescaleSlope is 0, expected a number that is not zero")
    low, high = (float(stored.min()), float(stored.max())) if form.is_float else form.stored_range
    ends = sorted((slope * low + intercept, slope * high + intercept))
    if slope == 1 and intercept == 0:
        exact = np.float64 if stored.dtype.itemsize > 2 else np.float32
        return stored.astype(exact), (ends[0], ends[1])
    return stored.astype(np.float64) * slope + intercept, (ends[0], ends[1])


def _number(header: DicomHeader, keyword: str, default: float) -> float:
    found = header.numbers(keyword)
    if not found:
        return default
    if len(found) != 1 or not math.isfinite(found[0]):
        raise ImageReadError(f"{header.path}: {keyword} is not one finite number; the header is damaged")
    return found[0]
