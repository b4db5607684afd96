"""Every file below a path that a user names, whatever it is; see `walk` for images. Nothing is left out in silence."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from medseg.errors import StorageError
from medseg.io.limits import reason_of


def files_below(top: Path) -> Iterator[tuple[Path, str]]:
    """Each file, hidden ones, too, in order of names, with ""; folders that are not searched, with the reason.

    Raises
    ------
    StorageError
        The path does not exist, or the system does not let us look.
    """
    try:
        top.stat()
    except FileNotFoundError as err:
        raise StorageError(f"{top} does not exist; correct the path") from err
    except (OSError, ValueError) as err:
        raise StorageError(f"{top} cannot be looked at: {reason_of(err)}; correct the path") from err
    if top.is_dir():
        yield from _in_folder(top)
    else:
        yield top, ""


def _in_folder(top: Path) -> Iterator[tuple[Path, str]]:
    closed: list[OSError] = []
    for where, folders, names in os.walk(top, onerror=closed.append):
        folders.sort()
        for name in folders:
            if (link := Path(where, name)).is_symlink():
                yield link, "a link to a folder, which is not followed; name the folder itself"
        for name in sorted(names):
            yield Path(where, name), ""
    for err in closed:
        yield Path(err.filename or top), f"the folder cannot be read: {reason_of(err)}"
