"""A watched folder: files that have come to rest are taken, once."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

from medseg.errors import ImageReadError, StorageError
from medseg.io.limits import open_regular
from medseg.node.arrival import Peer
from medseg.node.clock import Clock
from medseg.node.source_options import FolderSource as FolderOptions
from medseg.node.sources.marks import Marks
from medseg.node.sources.source import Taker, offer


class FolderSource:
    """See `Source`. Links are not followed, and nothing outside of the folder is touched.

    Parameters
    ----------
    options : FolderOptions
    intake : Taker
    marks : Marks
    clock : Clock
    file_limit : int
        Largest file that is read, bytes.
    """

    def __init__(
        self,
        options: FolderOptions,
        *,
        intake: Taker,
        marks: Marks,
        clock: Clock,
        file_limit: int,
    ) -> None:
        self.name, self.every_s = options.name, options.every
        self._options, self._intake, self._marks = options, intake, marks
        self._clock, self._limit = clock, file_limit
        self._resting: dict[str, tuple[str, float]] = {}

    def look(self) -> int:
        """Take the files that have not changed for `quiet`."""
        top = self._options.folder
        if not top.is_dir():
            raise StorageError(f"source {self.name}: the folder {top} is not there")
        now, taken = self._clock.monotonic(), 0
        seen: dict[str, tuple[str, float]] = {}
        for path, status in _files(top):
            name = path.relative_to(top).as_posix()
            state = _told(status)
            before, since = self._resting.get(name, (state, now))
            seen[name] = (state, since if before == state else now)
            if now - seen[name][1] >= self._options.quiet and self._marks.get(name) != state:
                taken += self._take(path, name, state)
        self._resting = seen
        return taken

    def _take(self, path: Path, name: str, state: str) -> int:
        """Offer a file to the intake; 1 where it was taken."""
        peer, receipt = Peer(route="folder", name=self.name), None
        try:
            content = self._content(path)
        except (OSError, StorageError):
            # It may be readable at the next look; the others do not wait for it.
            return 0
        except (ValueError, ImageReadError) as err:
            self._intake.reject(peer, str(err))
        else:
            receipt = offer(self._intake, content, peer)
        self._marks.set(name, state)
        acknowledged = receipt is not None and receipt.acknowledged
        if acknowledged and self._options.after == "remove" and _state(path) == state:
            path.unlink(missing_ok=True)
        return int(acknowledged)

    def _content(self, path: Path) -> bytes:
        with open_regular(path) as stream:
            # Memory for as much as is asked for is reserved before a byte is read.
            content = stream.read(min(os.fstat(stream.fileno()).st_size, self._limit) + 1)
        if len(content) > self._limit:
            raise ValueError(f"a file of more than {self._limit} bytes (storage.instance_limit)")
        return content


def _told(status: os.stat_result) -> str:
    """What changes when a file does."""
    return f"{status.st_size} {status.st_mtime_ns}"


def _state(path: Path) -> str:
    try:
        return _told(path.lstat())
    except OSError:
        return ""


def _files(top: Path) -> Iterator[tuple[Path, os.stat_result]]:
    """Regular files below a folder, by their names; hidden ones are somebody's temporary files."""
    for folder, folders, names in os.walk(top, followlinks=False):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            path = Path(folder) / name
            try:
                status = path.lstat()
            except OSError:
                continue
            if stat.S_ISREG(status.st_mode) and not name.startswith("."):
                yield path, status
