"""Frames of a segmentation -> label map or mask, slice by slice in threads.

Masks stay packed, eight voxels in a byte, until they are written into the result: comparing,
joining and finding what two segments share then costs an eighth.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, BinaryIO, TypeAlias

import numpy as np
from numpy.typing import NDArray
from pydicom import uid

from medseg.errors import ImageReadError, LabelError
from medseg.io.dicom_frame import FragmentTables, FrameReader, FrameSource, is_encapsulated
from medseg.io.dicom_frames import cores
from medseg.io.dicom_native import swapped_words
from medseg.io.limits import open_regular

SliceFrames: TypeAlias = Mapping[int, Sequence[tuple[int, int]]]
"""Slice -> its frames: (frame from 0, segment number)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SegPixels:
    """The pixel data of a segmentation.

    Parameters
    ----------
    source : FrameSource
        Of frame 0; the others differ in the frame alone.
    kind : {"BINARY", "FRACTIONAL", "LABELMAP"}
    full : int
        Value of a fraction of 1; 1 for masks.
    """

    source: FrameSource
    kind: str
    full: int

    @property
    def size(self) -> int:
        """Voxels of a frame."""
        return self.source.form.rows * self.source.form.columns

    @property
    def plain_bits(self) -> bool:
        """Whether the frames lie in the file as packed bits."""
        source = self.source
        little = source.transfer_syntax != uid.ExplicitVRBigEndian
        words = swapped_words(source.form, little_endian=little, vr=source.vr)
        return source.form.bits_allocated == 1 and not is_encapsulated(source) and not words

    def label_map(
        self, slices: int, frames: SliceFrames, *, numbers: Sequence[int], share: float
    ) -> NDArray[Any]:
        """(K, rows x columns) segment numbers.

        Parameters
        ----------
        slices : int
            K.
        frames : SliceFrames
        numbers : sequence of int
            The segments that are described.
        share : float
            Fraction from which a voxel belongs to a segment.

        Raises
        ------
        LabelError
            Segments that share voxels, or a value that is no segment.
        """
        kind = np.uint8 if max(numbers, default=0) < 256 else np.uint16
        out = np.zeros((slices, self.size), dtype=kind)
        if self.kind == "LABELMAP":
            known = np.zeros(1 << 16, dtype=np.bool_)
            known[[0, *numbers]] = True
            _each(frames, self._reader, lambda reader, k: self._copy(reader, out[k], frames[k], known))
        else:
            _each(frames, self._reader, lambda reader, k: self._join(reader, out[k], frames[k], share))
        return out

    def mask(self, slices: int, frames: SliceFrames, *, number: int, share: float) -> NDArray[np.bool_]:
        """(K, rows x columns) where one segment is."""
        out = np.zeros((slices, self.size), dtype=np.bool_)

        def fill(reader: _Reader, k: int) -> None:
            for frame, _ in frames[k]:
                if self.kind == "LABELMAP":
                    np.equal(reader.values(frame), number, out=out[k])
                else:
                    out[k] = reader.mask(frame, share)

        _each(frames, self._reader, fill)
        return out

    def fractions(self, slices: int, frames: SliceFrames) -> NDArray[np.float32]:
        """(K, rows x columns) fractions of 1 of the given frames."""
        out = np.zeros((slices, self.size), dtype=np.float32)

        def fill(reader: _Reader, k: int) -> None:
            for frame, _ in frames[k]:
                np.divide(reader.values(frame), np.float32(self.full), out=out[k])

        _each(frames, self._reader, fill)
        return out

    def shared(self, frames: SliceFrames, *, share: float) -> dict[tuple[int, int], int]:
        """Voxels that pairs of segments have in common, by their numbers; pairs without one are left out."""
        counts: dict[tuple[int, int], int] = {}

        def count(reader: _Reader, k: int) -> list[tuple[tuple[int, int], int]]:
            packed = [(number, reader.packed(frame, share)) for frame, number in frames[k]]
            return [
                ((a, b), int(np.bitwise_count(first & second).sum()))
                for n, (b, second) in enumerate(packed)
                for a, first in packed[:n]
            ]

        for found in _each(frames, self._reader, count):
            for pair, voxels in found:
                if voxels:
                    key = (min(pair), max(pair))
                    counts[key] = counts.get(key, 0) + voxels
        return counts

    def _reader(self) -> _Reader:
        return _Reader(self)

    def _copy(
        self, reader: _Reader, out: NDArray[Any], frames: Sequence[tuple[int, int]], known: NDArray[np.bool_]
    ) -> None:
        for frame, _ in frames:
            values = reader.values(frame)
            # Only where a run begins: few of many voxels, and the rest repeat them.
            present = np.unique(np.concatenate([values[:1], values[1:][values[1:] != values[:-1]]]))
            strange = present[~known[present]]
            if len(strange):
                raise LabelError(
                    f"{self.source.path}: frame {frame + 1} has {int((values == strange[0]).sum())} voxels of value "
                    f"{int(strange[0])}, which is no segment of the file"
                )
            out[:] = values

    def _join(
        self, reader: _Reader, out: NDArray[Any], frames: Sequence[tuple[int, int]], share: float
    ) -> None:
        taken: NDArray[np.uint8] | None = None
        for frame, number in frames:
            bits = reader.packed(frame, share)
            used = np.flatnonzero(bits)
            if not len(used):
                continue
            first, last = int(used[0]), int(used[-1]) + 1
            part = bits[first:last]
            if taken is None:
                taken = np.zeros_like(bits)
            elif (taken[first:last] & part).any():
                raise _Overlap
            taken[first:last] |= part
            voxels = np.unpackbits(part, bitorder="little", count=min(8 * last, self.size) - 8 * first)
            out[8 * first : 8 * last] += (
                voxels if number == 1 else np.multiply(voxels, number, dtype=out.dtype)
            )


class _Overlap(LabelError):
    """Two segments share a voxel; which ones is counted afterwards."""


OVERLAP = _Overlap


class _Reader:
    """Reads frames for one thread."""

    def __init__(self, pixels: SegPixels) -> None:
        self._pixels, self._source, self._size = pixels, pixels.source, pixels.size
        self._stream: BinaryIO = io.BytesIO()
        self._frames = FrameReader(FragmentTables())
        if pixels.plain_bits and self._source.data is not None:
            self._stream = io.BytesIO(self._source.data)
        elif pixels.plain_bits:
            self._stream = open_regular(self._source.path)
        self._tail = np.uint8((1 << (self._size % 8)) - 1) if self._size % 8 else None

    def close(self) -> None:
        """Let go of the file."""
        self._stream.close()
        self._frames.close()

    def values(self, frame: int) -> NDArray[Any]:
        """(rows x columns) stored values."""
        if self._pixels.plain_bits:
            return np.unpackbits(self._bits(frame), bitorder="little", count=self._size)
        stored = self._frames.read(replace(self._source, frame=frame)).array.ravel()
        limit = self._pixels.full
        if self._pixels.kind != "LABELMAP" and int(stored.max()) > limit:
            raise ImageReadError(
                f"{self._source.path}: frame {frame + 1} has the value {int(stored.max())}, the largest is {limit}"
            )
        return stored

    def mask(self, frame: int, share: float) -> NDArray[np.bool_]:
        """(rows x columns) where a fraction is at least `share`."""
        if self._pixels.kind == "FRACTIONAL":
            return np.asarray(self.values(frame) >= share * self._pixels.full, dtype=np.bool_)
        return self.values(frame).view(np.bool_)

    def packed(self, frame: int, share: float) -> NDArray[np.uint8]:
        """The mask as bits, the last byte filled with zeros."""
        if self._pixels.plain_bits:
            return self._bits(frame)
        return np.packbits(self.mask(frame, share), bitorder="little")

    def _bits(self, frame: int) -> NDArray[np.uint8]:
        start = frame * self._size
        skip, count = start % 8, (self._size + 7) // 8
        self._stream.seek(self._source.offset + start // 8)
        wanted = (skip + self._size + 7) // 8
        raw = np.frombuffer(self._stream.read(wanted), dtype=np.uint8)
        if len(raw) != wanted:
            raise ImageReadError(f"{self._source.path}: the file was cut off while it was read")
        if skip:
            # The frame begins within a byte: each byte of it takes its high bits from the next one.
            high = np.zeros(count, dtype=np.uint8)
            following = raw[1 : count + 1]
            np.left_shift(following, 8 - skip, out=high[: len(following)])
            raw = np.right_shift(raw[:count], skip) | high
        if self._tail is not None:
            raw = raw.copy()
            raw[-1] &= self._tail
        return raw


def _each(
    frames: SliceFrames, reader: Callable[[], _Reader], work: Callable[[_Reader, int], Any]
) -> list[Any]:
    """Do the work for every slice, in threads that each have a reader; results in order of the slices."""
    slices = sorted(frames)
    workers = max(min(cores(), len(slices)), 1)

    def run(part: list[int]) -> list[Any]:
        mine = reader()
        try:
            return [work(mine, k) for k in part]
        finally:
            mine.close()

    if workers == 1:
        return run(slices)
    size = max((len(slices) + 4 * workers - 1) // (4 * workers), 1)
    parts = [slices[n : n + size] for n in range(0, len(slices), size)]
    with ThreadPoolExecutor(workers, thread_name_prefix="segments") as pool:
        return [result for done in pool.map(run, parts) for result in done]
