"""Frames of DICOM files -> stored values, decoded in parallel, a few in memory at a time."""

from __future__ import annotations

import contextlib
import os
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from numpy.typing import NDArray

from medseg.errors import MedsegError
from medseg.io.dicom_frame import FragmentTables, FrameReader, FrameSource, StoredFrame

__all__ = ["FrameSource", "Sink", "cores", "map_frames", "masked_note"]

Sink = Callable[[int, NDArray[Any]], None]


def map_frames(frames: Sequence[FrameSource], sink: Sink, *, threads: int | None = None) -> tuple[str, ...]:
    """Decode frames in parallel and hand each one over as soon as it is decoded.

    Parameters
    ----------
    frames : sequence of FrameSource
        Frames of one file best stand together.
    sink : callable
        Called as `sink(index, stored)` from the worker threads, in no order: `stored` is (rows, columns),
        or (rows, columns, 3) RGB, of type `frames[index].form.dtype` (uint16 for PALETTE COLOR), in native
        byte order, unused bits removed. It may be read-only and is not to be kept.
    threads : int, optional
        The cores that the process may use, unless given; one thread needs no pool. At most that
        many frames are in memory.

    Returns
    -------
    tuple of str
        What was odd, each sentence once.

    Raises
    ------
    ImageReadError
        A frame that is not what its header says, or damaged; the first one in the order of `frames`.
    StorageError
        A file cannot be read.
    MissingPackageError
        The installed imagecodecs lacks a codec.
    """
    count = max(threads if threads is not None else cores(), 1)
    run = _Run(frames, sink, codec_threads=count if len(frames) == 1 else 1)
    workers = min(count, len(frames))
    if workers <= 1:
        run.work()
    else:
        with ThreadPoolExecutor(workers, thread_name_prefix="frames") as pool, run:
            for future in [pool.submit(run.work) for _ in range(workers)]:
                future.result()
    if run.failures:
        raise run.failures[min(run.failures)]
    return run.notes()


def cores() -> int:
    """Cores that this process may use."""
    with contextlib.suppress(AttributeError):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def masked_note(pixels: int, bits_stored: int) -> str:
    """What to say about pixels with bits set that have no meaning."""
    return f"{pixels} pixels had bits set above the {bits_stored} stored ones, which were masked"


class _Run:
    """What the workers share: the next frame, failures, notes, places of fragments."""

    def __init__(self, frames: Sequence[FrameSource], sink: Sink, *, codec_threads: int) -> None:
        self.frames, self.sink, self.codec_threads = frames, sink, codec_threads
        self.failures: dict[int, MedsegError] = {}
        self._tables, self._lock = FragmentTables(), threading.Lock()
        self._next, self._stop = 0, False
        self._notes: dict[str, None] = {}
        self._masked: Counter[int] = Counter()

    def __enter__(self) -> _Run:
        return self

    def __exit__(self, *_: object) -> None:
        self._stop = True

    def work(self) -> None:
        """Take frames until none is left or one failed."""
        with FrameReader(self._tables, codec_threads=self.codec_threads) as reader:
            while (index := self._take()) is not None:
                try:
                    self._one(index, reader)
                except MedsegError as err:
                    self.failures[index], self._stop = err, True
                except BaseException:
                    self._stop = True
                    raise

    def _take(self) -> int | None:
        # In order, and what was taken is finished: the first failure recorded is the first there is.
        with self._lock:
            if self._stop or self._next >= len(self.frames):
                return None
            self._next += 1
            return self._next - 1

    def _one(self, index: int, reader: FrameReader) -> None:
        stored = reader.read(self.frames[index])
        self.sink(index, stored.array)
        if stored.notes or stored.masked:
            self._remember(stored)

    def _remember(self, stored: StoredFrame) -> None:
        with self._lock:
            self._notes |= dict.fromkeys(stored.notes)
            if stored.masked:
                self._masked[stored.form.bits_stored] += stored.masked

    def notes(self) -> tuple[str, ...]:
        """Sentences, those on masked bits added up over the frames."""
        masked = [masked_note(pixels, bits) for bits, pixels in sorted(self._masked.items())]
        return (*self._notes, *masked)
