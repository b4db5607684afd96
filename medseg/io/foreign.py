"""The border to parsers of other packages: whatever they raise on a bad file becomes one sentence."""

from __future__ import annotations

import contextlib
import logging
import struct
import threading
import warnings
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from pydicom.errors import BytesLengthException

from medseg.errors import EnvironmentFailure, ImageReadError, MedsegError

#: What pydicom, nibabel, Pillow, SimpleITK and the codecs raise on files that are not as they expect.
PARSER_ERRORS = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    BytesLengthException,
    EOFError,
    LookupError,
    OSError,
    RuntimeError,
    SyntaxError,
    TypeError,
    ValueError,
    struct.error,
    zlib.error,
)
_MAX_REASON = 160


@contextlib.contextmanager
def foreign_parser(path: Path | str, what: str, *, quote: bool = True) -> Iterator[None]:
    """Turn what a parser raises inside the block into an `ImageReadError`.

    Parameters
    ----------
    path : Path or str
        The file, for the message, and the frame in it where that is to be said.
    what : str
        What could not be done, such as "the pixels cannot be decoded".
    quote : bool
        Whether the parser's own words may be shown. False for headers of DICOM files, whose parser
        quotes values that may identify a person.
    """
    try:
        yield
    except MedsegError:
        raise
    except MemoryError as err:
        raise EnvironmentFailure(f"{path}: {what}: not enough memory") from err
    except PARSER_ERRORS as err:
        reason = first_line(err) if quote else type(err).__name__
        if isinstance(err, RecursionError):
            reason = "it is nested too deeply"
        raise ImageReadError(f"{path}: {what}: {reason}") from err


def first_line(err: BaseException) -> str:
    """The last line with text of an error, which in wrapped errors is the cause, cut to a sentence."""
    lines = [line.strip() for line in str(err).splitlines() if line.strip()]
    return lines[-1][:_MAX_REASON] if lines else type(err).__name__


@contextlib.contextmanager
def recorded_warnings() -> Iterator[list[warnings.WarningMessage]]:
    """Keep warnings of parsers off the screen and hand them to the caller, who judges them.

    Any number of threads may do so at a time, and each hears of its own warnings alone.
    """
    caught: list[warnings.WarningMessage] = []
    recorders = _recording.begin()
    recorders.append(caught)
    try:
        yield caught
    finally:
        recorders.pop()
        _recording.end()


class _Recording(threading.local):
    """The recorders of this thread, the innermost last."""

    def __init__(self) -> None:
        self.recorders: list[list[warnings.WarningMessage]] = []


class _Recordings:
    """Filters and output of warnings belong to the process: the first thread changes them, the last puts them back."""

    def __init__(self) -> None:
        self._own, self._lock, self._count = _Recording(), threading.Lock(), 0
        self._before = warnings.catch_warnings()
        self._show: Callable[..., None] = warnings.showwarning

    def begin(self) -> list[list[warnings.WarningMessage]]:
        """The recorders of the thread, to which it adds one."""
        with self._lock:
            if self._count == 0:
                self._before = warnings.catch_warnings()
                self._before.__enter__()
                self._show = warnings.showwarning
            # Others may have put back what they found, an earlier output among it.
            if warnings.showwarning != self._hear:
                warnings.simplefilter("always")
                warnings.showwarning = self._hear
            self._count += 1
        return self._own.recorders

    def end(self) -> None:
        """The thread has taken its recorder away."""
        with self._lock:
            self._count -= 1
            if self._count == 0:
                self._before.__exit__(None, None, None)

    def _hear(self, message: Any, category: Any, *place: Any, **named: Any) -> None:
        if self._own.recorders:
            self._own.recorders[-1].append(warnings.WarningMessage(message, category, *place, **named))
        else:
            self._show(message, category, *place, **named)


_recording = _Recordings()


def silence_logger(name: str) -> None:
    """Keep a package's log quiet: pydicom writes header values, and so names of persons, into it."""
    logging.getLogger(name).setLevel(logging.CRITICAL + 1)
