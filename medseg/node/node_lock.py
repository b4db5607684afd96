"""One node at a time in a folder, or one at a time at one file of it."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from medseg.errors import StorageError
from medseg.node.clock import Clock

FILE = "node.lock"


@contextlib.contextmanager
def node_lock(folder: Path, clock: Clock) -> Iterator[None]:
    """Hold the folder as long as the block; the kernel lets go of it when the process ends, however it does.

    Raises
    ------
    StorageError
        Another process holds it; the message says which, and since when.
    """
    path = folder / FILE
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as err:
        raise StorageError(f"cannot use {folder}: {err.strerror or err}; choose another `folder`") from err
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as err:
            raise StorageError(
                f"{folder} is in use by {_holder(path)}; stop it, or choose another `folder`"
            ) from err
        since = datetime.fromtimestamp(clock.now(), UTC).isoformat(timespec="seconds")
        os.ftruncate(handle, 0)
        os.pwrite(handle, json.dumps({"process": os.getpid(), "since": since}).encode(), 0)
        yield
    finally:
        os.close(handle)


@contextlib.contextmanager
def turn(path: Path) -> Iterator[None]:
    """Wait for other processes that hold the file, and hold it as long as the block.

    Raises
    ------
    StorageError
        It cannot be made.
    """
    try:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield
        finally:
            os.close(handle)
    except OSError as err:
        raise StorageError(f"cannot lock {path}: {err.strerror or err}") from err


def holder_of(folder: Path) -> tuple[bool, str]:
    """Whether a process holds a folder, and which; nothing is written."""
    path = folder / FILE
    try:
        with path.open("rb") as stream:
            try:
                fcntl.flock(stream, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return True, _holder(path)
    except OSError:
        pass
    return False, ""


def _holder(path: Path) -> str:
    try:
        said = json.loads(path.read_text())
        return f"process {said['process']} since {said['since']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"
