"""The folder that an export goes to: whole or absent, and never over somebody's files."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from medseg.errors import StorageError
from medseg.provenance import TEMPORARY_SUFFIX

RECORD = "medseg-export.json"
"""What was exported and how it compared; marks a folder that an export may replace."""


@contextlib.contextmanager
def export_folder(folder: Path) -> Iterator[Path]:
    """Yield a new folder that takes the place of `folder` when the block ends well; else nothing changes.

    Raises
    ------
    StorageError
        `folder` holds something that is no export, or cannot be written.
    """
    part = folder.with_name(f".{folder.name}.{os.getpid()}{TEMPORARY_SUFFIX}")
    try:
        if folder.exists() and (
            not folder.is_dir() or (any(folder.iterdir()) and not (folder / RECORD).is_file())
        ):
            raise StorageError(
                f"{folder} exists and is no export of medseg; choose another folder or empty it"
            )
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        yield part
        if folder.exists():
            shutil.rmtree(folder)
        os.replace(part, folder)
    except OSError as err:
        raise StorageError(
            f"cannot write {folder}: {err.strerror or err}; free space or change --output"
        ) from err
    finally:
        shutil.rmtree(part, ignore_errors=True)
