"""Names of files that survive a power failure: a folder is synced after a name was put into it."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from pathlib import Path

from medseg.provenance import sync_path

_MOST = 4096


class FolderSync:
    """Syncs folders, and those above whose names are new.

    Parameters
    ----------
    top : Path
        No folder above it is synced.
    alone : bool
        Whether no other process removes folders; then a folder whose name is on disk is remembered.
    """

    def __init__(self, top: Path, *, alone: bool) -> None:
        self._top, self._alone = top, alone
        self._lock = threading.Lock()
        self._settled: set[Path] = set()
        self._removals = 0

    def sync(self, folders: Iterable[Path]) -> None:
        """Make the names in the folders, and their own, durable.

        Raises
        ------
        OSError
            The disk fails.
        """
        leaves = set(folders)
        with self._lock:
            new = {one for leaf in leaves for one in self._unsettled(leaf)}
            removals = self._removals
        for folder in leaves | {one.parent for one in new}:
            sync_path(folder)
        with self._lock:
            # Who removed a folder meanwhile may have removed one of these, and somebody made it again.
            if self._alone and removals == self._removals:
                if len(self._settled) > _MOST:
                    self._settled.clear()
                self._settled |= new

    def _unsettled(self, folder: Path) -> list[Path]:
        """A folder and those above it, up to the first whose name is on disk."""
        found = []
        while folder != self._top and folder not in self._settled:
            found.append(folder)
            folder = folder.parent
        return found

    def remove_empty(self, folder: Path) -> bool:
        """Remove a folder if nothing is in it; whether it is gone."""
        with self._lock:
            try:
                folder.rmdir()
            except OSError:
                return False
            self._settled.discard(folder)
            self._removals += 1
            return True
