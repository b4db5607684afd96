"""Files and folders -> clean copies in a folder, by several processes, a few files in memory at a time."""

from __future__ import annotations

import multiprocessing
import signal
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path, PurePosixPath
from typing import Literal

from medseg.deidentification.one_file import CleanFile, FileCleaner
from medseg.deidentification.options import BlankRule, ProfileOptions
from medseg.deidentification.whole_files import OutputConflictError, write_new
from medseg.errors import InputError, StorageError, WorkerError
from medseg.io.files_below import files_below

State = Literal["written", "same", "checked", "refused"]
_CHUNK, _ALONE, _WRITERS = 32, 64, 8
_MOST_WAITING = 256 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What is done with every file.

    Parameters
    ----------
    options : ProfileOptions
    blank : tuple of BlankRule
    key : bytes
    output : Path or None
        None: nothing is written.
    """

    options: ProfileOptions
    blank: tuple[BlankRule, ...]
    key: bytes
    output: Path | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of one file: `checked` where it would have been written; `reason` where it was refused."""

    path: Path
    state: State
    reason: str = ""
    identities: tuple[tuple[str, str, str], ...] = ()
    notes: tuple[str, ...] = ()
    size: int = 0


def clean_files(inputs: Sequence[Path], work: Work, *, workers: int) -> Iterator[Outcome]:
    """Clean all files, in the order of `files_below`.

    Parameters
    ----------
    inputs : sequence of Path
        Files, or folders with all that lies in them.
    work : Work
    workers : int
        Processes; a few files are cleaned in this one.

    Raises
    ------
    StorageError
        The output cannot be written, or an input does not exist.
    WorkerError
        A process was ended by the system.
    """
    found = chain.from_iterable(map(files_below, inputs))
    first = list(islice(found, _ALONE + 1))
    if workers == 1 or len(first) <= _ALONE:
        with _Cleaning(work) as cleaning:
            yield from cleaning.many(chain(first, found))
        return
    yield from _in_processes(_chunks(chain(first, found)), work, workers)


class _Cleaning:
    """Cleans files one after the other, and writes some at a time: it is the disk that lets one wait."""

    def __init__(self, work: Work) -> None:
        self._cleaner = FileCleaner(work.options, work.blank, work.key)
        self._output = work.output
        self._writers = ThreadPoolExecutor(_WRITERS, thread_name_prefix="clean-files")

    def __enter__(self) -> _Cleaning:
        return self

    def __exit__(self, *_: object) -> None:
        self._writers.shutdown(wait=True, cancel_futures=True)

    def many(self, found: Iterable[tuple[Path, str]]) -> Iterator[Outcome]:
        """What becomes of each file, in order."""
        waiting: deque[_Waiting] = deque()
        for path, problem in found:
            clean, problem = self._clean(path, problem)
            # Of two files of one instance the first is kept.
            while clean is not None and any(clean.place == other.place for other in waiting):
                yield waiting.popleft().outcome.result()
            waiting.append(self._submit(path, clean, problem))
            while len(waiting) > 2 * _WRITERS or sum(other.size for other in waiting) > _MOST_WAITING:
                yield waiting.popleft().outcome.result()
        while waiting:
            yield waiting.popleft().outcome.result()

    def _clean(self, path: Path, problem: str) -> tuple[CleanFile | None, str]:
        if problem:
            return None, problem
        try:
            return self._cleaner.clean(path), ""
        except (InputError, StorageError) as err:
            # Nor is a file that may not be read a reason to leave the others.
            return None, str(err)

    def _submit(self, path: Path, clean: CleanFile | None, problem: str) -> _Waiting:
        if clean is None:
            return _Waiting(outcome=self._writers.submit(_refused, path, problem))
        outcome = self._writers.submit(_written, path, clean, self._output)
        return _Waiting(outcome=outcome, place=clean.place, size=len(clean.content))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Waiting:
    """A file that is being written."""

    outcome: Future[Outcome]
    place: PurePosixPath | None = None
    size: int = 0


def _refused(path: Path, problem: str) -> Outcome:
    return Outcome(
        path=path, state="refused", reason=problem if str(path) in problem else f"{path}: {problem}"
    )


def _written(path: Path, clean: CleanFile, output: Path | None) -> Outcome:
    try:
        state: State = "checked" if output is None else write_new(output / clean.place, clean.content)
    except OutputConflictError as err:
        return _refused(path, f"{path}: {err}")
    return Outcome(
        path=path, state=state, identities=clean.identities, notes=clean.notes, size=len(clean.content)
    )


_Chunk = list[tuple[Path, str]]


def _chunks(found: Iterator[tuple[Path, str]]) -> Iterator[_Chunk]:
    while chunk := list(islice(found, _CHUNK)):
        yield chunk


def _in_processes(chunks: Iterator[_Chunk], work: Work, workers: int) -> Iterator[Outcome]:
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_begin, initargs=(work,))
    waiting: deque[Future[list[Outcome]]] = deque()
    try:
        for chunk in chunks:
            waiting.append(pool.submit(_many, chunk))
            if len(waiting) > 2 * workers:
                yield from waiting.popleft().result()
        while waiting:
            yield from waiting.popleft().result()
    except BrokenProcessPool as err:
        raise WorkerError(
            "a process that cleans files was ended by the system, perhaps for want of memory; try --workers 1"
        ) from err
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


_worker: _Cleaning | None = None


def _begin(work: Work) -> None:
    global _worker
    # Ctrl-C is for the process that waits for this one.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _worker = _Cleaning(work)


def _many(chunk: _Chunk) -> list[Outcome]:
    if _worker is None:
        raise WorkerError("a process that cleans files was not set up")
    return list(_worker.many(chunk))
