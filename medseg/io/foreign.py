"""The border to parsers of other packages: whatever they raise on a bad file becomes one sentence."""

from __future__ import annotations

import contextlib
import logging
import struct
import threading
import warnings
import zlib
from collections.abc import Iterator
from pathlib import Path

from medseg.errors import EnvironmentFailure, ImageReadError, MedsegError

#: What pydicom, nibabel, Pillow, SimpleITK and the codecs raise on files that are not as they expect.
PARSER_ERRORS = (
    ArithmeticError,
    AssertionError,
    AttributeError,
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
_filters = threading.RLock()


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

    One thread at a time: the filters belong to the process, and two that leave in the order in which they came would
    leave those of the second behind for good.
    """
    with _filters, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield caught


def silence_logger(name: str) -> None:
    """Keep a package's log quiet: pydicom writes header values, and so names of persons, into it."""
    logging.getLogger(name).setLevel(logging.CRITICAL + 1)
