"""The output folder of a cohort: one command at a time in it, and folders of cases that are whole or not counted."""

from __future__ import annotations

import contextlib
import fnmatch
import os
import shutil
import uuid
from collections.abc import Collection, Iterator
from pathlib import Path

from medseg.errors import StorageError
from medseg.pipeline.run_folder import held
from medseg.provenance import TEMPORARY_SUFFIX, sync_path


@contextlib.contextmanager
def cohort_folder(output: Path) -> Iterator[str]:
    """Hold an output folder for this command, and remove what a killed one left there.

    Yields
    ------
    str
        What the lock file says. A worker that reads the same sees the same folder.

    Raises
    ------
    StorageError
        Another command works in it, or it cannot be written.
    """
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as err:
        raise StorageError(f"cannot make {output}: {err.strerror or err}; change --output") from err
    with held(output) as text:
        _sweep(output)
        yield text


def _sweep(output: Path) -> None:
    for part in output.glob(f".*{TEMPORARY_SUFFIX}*"):
        if part.is_dir():
            shutil.rmtree(part, ignore_errors=True)
        else:
            part.unlink(missing_ok=True)


@contextlib.contextmanager
def whole_case(path: Path, *, last: str, own: Collection[str]) -> Iterator[Path]:
    """Yield a temporary folder beside `path`; its files are there, all of them, when the block ends well.

    Where `path` is there already, its file `last` goes first and the new one comes last, so that files of two
    results never count as one. Files in it that are not `own` are somebody else's and stay.

    Parameters
    ----------
    path : Path
    last : str
        The file that says that the folder is whole.
    own : collection of str
        Names that results have; * stands for anything.

    Raises
    ------
    StorageError
        The folder cannot be written, or there is no space left.
    """
    part = path.with_name(f".{path.name}.{uuid.uuid4().hex[:12]}{TEMPORARY_SUFFIX}")
    try:
        part.mkdir(parents=True)
        yield part
        _put(part, path, last=last, own=own)
    except OSError as err:
        raise StorageError(
            f"cannot write {path}: {err.strerror or err}; free space or change --output"
        ) from err
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _put(part: Path, path: Path, *, last: str, own: Collection[str]) -> None:
    if path.exists():
        _put_into(part, path, last=last, own=own)
        return
    try:
        os.rename(part, path)
    except OSError:
        # Somebody was quicker: a worker that was given up for dead.
        if not path.is_dir():
            raise
        _put_into(part, path, last=last, own=own)
    sync_path(path.parent)


def _put_into(part: Path, path: Path, *, last: str, own: Collection[str]) -> None:
    (path / last).unlink(missing_ok=True)
    sync_path(path)
    names = sorted((child.name for child in part.iterdir()), key=lambda name: (name == last, name))
    for child in path.iterdir():
        if child.name not in names and any(fnmatch.fnmatchcase(child.name, pattern) for pattern in own):
            child.unlink(missing_ok=True)
    for name in names:
        os.replace(part / name, path / name)
    sync_path(path)
