"""Where medseg keeps, for this user, what can be made again."""

from __future__ import annotations

import os
from pathlib import Path


def cache_home() -> Path:
    """MEDSEG_CACHE, or medseg in the user's cache folder (XDG_CACHE_HOME, else ~/.cache)."""
    given = os.environ.get("MEDSEG_CACHE")
    if given:
        return Path(given)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "medseg"
