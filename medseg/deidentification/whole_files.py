"""Files that are written whole or not at all and never replace another."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
from pathlib import Path
from typing import Literal

from medseg.errors import InputError, StorageError
from medseg.io.limits import reason_of

_NO_LINKS = frozenset({errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EINVAL})


class OutputConflictError(InputError):
    """A file of that name is there with other content."""


def write_new(path: Path, content: bytes) -> Literal["written", "same"]:
    """Write a file; `same` where it is there with this content.

    Raises
    ------
    OutputConflictError
        It is there with other content, which stays.
    StorageError
        It cannot be written; nothing is left behind.
    """
    part = path.with_name(f".{secrets.token_hex(8)}.part")
    try:
        if _is_there(path, content):
            return "same"
        path.parent.mkdir(parents=True, exist_ok=True)
        _write_through(part, content)
        _name(part, path)
    except FileExistsError:
        # Another process was faster.
        _is_there(path, content)
        return "same"
    except OSError as err:
        raise StorageError(f"cannot write {path}: {reason_of(err)}; free space or change --output") from err
    finally:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
    return "written"


def _is_there(path: Path, content: bytes) -> bool:
    if not path.exists():
        return False
    if path.stat().st_size == len(content) and path.read_bytes() == content:
        return True
    raise OutputConflictError(f"{path} is there with other content, which is kept; choose another --output")


def _write_through(part: Path, content: bytes) -> None:
    with part.open("xb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())


def _name(part: Path, path: Path) -> None:
    """Give the finished file its name, which nobody else has taken meanwhile."""
    try:
        os.link(part, path)
    except OSError as err:
        if err.errno not in _NO_LINKS:
            raise
        # A file system without hard links: no other process of this run writes the same name at the same moment
        # unless two inputs are the same instance.
        if path.exists():
            raise FileExistsError(path) from err
        os.replace(part, path)
