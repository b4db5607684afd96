"""Stored slices -> one array of rescaled values, in the smallest type that holds them exactly.

Slices arrive in any order from several threads, each is written once, and the array that comes out is
the only one that was ever made.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from medseg.io.dicom_format import PixelFormat

_INT16, _UINT16, _INT32 = (np.iinfo(t) for t in (np.int16, np.uint16, np.int32))
_EXACT_IN_FLOAT32 = 1 << 24


class Values(Protocol):
    """Takes stored slices, gives the finished array."""

    def put(self, index: int, stored: NDArray[Any]) -> None:
        """Rescale one (rows, columns) slice of stored values into its place."""

    def finish(self) -> tuple[NDArray[Any], tuple[str, ...]]:
        """(N, rows, columns) values, and notes."""


def values_for(form: PixelFormat, scales: Sequence[tuple[float, float]]) -> Values:
    """What rescales the slices of a series.

    Parameters
    ----------
    form : PixelFormat
        Of all slices.
    scales : sequence of (float, float)
        Slope and intercept of each slice.
    """
    shape = (len(scales), form.rows, form.columns)
    whole = not form.is_float and all(
        slope == 1 and intercept == int(intercept) for slope, intercept in scales
    )
    small = whole and all(abs(intercept) < _UINT16.max for _, intercept in scales)
    if small and form.bits_allocated <= 16:
        return WrappedValues(shape, [int(intercept) for _, intercept in scales], signed=form.signed)
    if whole and form.bits_allocated <= 32:
        return WideValues(shape, [int(intercept) for _, intercept in scales])
    return ScaledValues(shape, scales, double=form.keyword == "DoubleFloatPixelData")


class WrappedValues:
    """Whole values of at most 16 stored bits and an intercept, added modulo 2^16.

    The sum is taken before anybody knows whether it fits 16 bits. As wrapping loses nothing, the true
    values are found again from the smallest and largest of each slice: nearly always they fit.
    """

    def __init__(self, shape: tuple[int, int, int], intercepts: Sequence[int], *, signed: bool) -> None:
        self._array = np.empty(shape, dtype=np.int16)
        self._intercepts = np.asarray(intercepts, dtype=np.int64)
        self._stored = np.dtype(np.int16 if signed else np.uint16)
        self._low, self._high = (np.zeros(len(intercepts), dtype=np.int64) for _ in range(2))

    def put(self, index: int, stored: NDArray[Any]) -> None:
        """Rescale one (rows, columns) slice of stored values into its place."""
        wide = stored.astype(self._stored, copy=False)
        self._low[index], self._high[index] = int(wide.min()), int(wide.max())
        added = self._intercepts[index : index + 1].astype(np.int16)
        np.add(wide.view(np.int16), added, out=self._array[index])

    def finish(self) -> tuple[NDArray[Any], tuple[str, ...]]:
        """(N, rows, columns) int16, uint16 or int32 values."""
        low, high = int((self._low + self._intercepts).min()), int((self._high + self._intercepts).max())
        if _INT16.min <= low and high <= _INT16.max:
            return self._array, ()
        if low >= 0 and high <= _UINT16.max:
            return self._array.view(np.uint16), ()
        wide = np.empty(self._array.shape, dtype=np.int32)
        for index, intercept in enumerate(self._intercepts.tolist()):
            stored = (self._array[index] - np.array([intercept]).astype(np.int16)).view(self._stored)
            np.add(stored, np.int32(intercept), out=wide[index], dtype=np.int32)
        return wide, ()


class WideValues:
    """Whole values of up to 32 stored bits: int32, or float64 where they need more."""

    def __init__(self, shape: tuple[int, int, int], intercepts: Sequence[int]) -> None:
        self._array: NDArray[Any] = np.empty(shape, dtype=np.int64)
        self._intercepts = intercepts

    def put(self, index: int, stored: NDArray[Any]) -> None:
        """Rescale one (rows, columns) slice of stored values into its place."""
        np.add(stored, self._intercepts[index], out=self._array[index], dtype=np.int64)

    def finish(self) -> tuple[NDArray[Any], tuple[str, ...]]:
        """(N, rows, columns) int32 values, int64 where they do not fit."""
        low, high = int(self._array.min()), int(self._array.max())
        if _INT32.min <= low and high <= _INT32.max:
            return self._array.astype(np.int32), ()
        return self._array, ()


class ScaledValues:
    """Values that a slope makes fractional: float32, or float64 where the file stores that."""

    def __init__(
        self, shape: tuple[int, int, int], scales: Sequence[tuple[float, float]], *, double: bool
    ) -> None:
        self._array = np.empty(shape, dtype=np.float64 if double else np.float32)
        self._scales = scales

    def put(self, index: int, stored: NDArray[Any]) -> None:
        """Rescale one (rows, columns) slice of stored values into its place."""
        slope, intercept = self._scales[index]
        exact = stored if (slope, intercept) == (1.0, 0.0) else stored.astype(np.float64) * slope + intercept
        self._array[index] = exact

    def finish(self) -> tuple[NDArray[Any], tuple[str, ...]]:
        """(N, rows, columns) floating point values."""
        if self._array.dtype == np.float32 and np.abs(self._array).max(initial=0) > _EXACT_IN_FLOAT32:
            return self._array, ("values above 2^24 are rounded to 32-bit floating point",)
        return self._array, ()
