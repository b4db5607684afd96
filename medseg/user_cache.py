"""Where medseg keeps, for this user, what can be made again."""

from __future__ import annotations

import os
from pathlib import Path

from medseg.errors import StorageError


def cache_home() -> Path:
    """MEDSEG_CACHE, or medseg in the user's cache folder (XDG_CACHE_HOME, else ~/.cache).

    Raises
    ------
    StorageError
        None of these is known, as for a user without a home folder.
    """
    given = os.environ.get("MEDSEG_CACHE")
    if given:
        return Path(given)
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "medseg"
    except RuntimeError as err:
        raise StorageError(
            "this user has no home folder; set MEDSEG_CACHE to a folder for what can be made again"
        ) from err
