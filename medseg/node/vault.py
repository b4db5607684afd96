"""Files of patients on disk: whole or absent, encrypted at rest where a key is given."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Literal

from medseg.errors import StorageError
from medseg.node import sealing
from medseg.node.folder_sync import FolderSync
from medseg.provenance import TEMPORARY_SUFFIX, sync_path

SCRATCH = "scratch"
_OWNED = "node-"
ASIDE = "set_aside"
"""Folder of files of instances that no row names and that cannot be taken back; see `leftovers`."""

KEPT = ("instances", "jobs")
"""Folders of files that rows of the database name."""


class Vault:
    """Files below one folder, by names such as `instances/ab/cd.dcm`.

    Parameters
    ----------
    folder : Path
        Of the node.
    key : bytes or None
        32 bytes; every file is then encrypted, see `sealing`.
    shared : bool
        Whether other processes write into the folder.
    owner : str
        Whose plain copies are in `scratch_folder`, so that they can be removed when it is dead.
    """

    def __init__(
        self, folder: Path, key: bytes | None = None, *, shared: bool = False, owner: str = "alone"
    ) -> None:
        self.folder = folder.absolute()
        self.scratch_folder = self.folder / SCRATCH / f"{_OWNED}{owner}"
        self._key = key
        self._folders = FolderSync(self.folder, alone=not shared)

    @property
    def encrypted(self) -> bool:
        """Whether files are encrypted."""
        return self._key is not None

    def place(self, name: str) -> Path:
        """Where a file lies.

        Raises
        ------
        StorageError
            The name leads out of the folder.
        """
        parts = name.split("/")
        if not name or name.startswith("/") or any(part in ("", ".", "..") for part in parts) or "\0" in name:
            raise StorageError(f"{name!r} is no name of a file in {self.folder}")
        return self.folder / name

    def write(self, name: str, content: bytes) -> None:
        """Write a file, whole or not at all; it is on disk when this returns.

        Raises
        ------
        StorageError
            No space, no permission; nothing is left behind.
        """
        path = self.place(name)
        sealed = content if self._key is None else sealing.seal(content, self._key, name)
        part = path.with_name(f".{path.name}.{secrets.token_hex(6)}{TEMPORARY_SUFFIX}")
        try:
            try:
                _write_through(part, (sealed,))
            except FileNotFoundError:
                # `remove` of the last file of a folder takes the folder away at any moment.
                _write_through(part, (sealed,))
            os.replace(part, path)
            self._folders.sync([path.parent])
        except OSError as err:
            raise StorageError(f"cannot write {name} of the node: {err.strerror or err}") from err
        finally:
            with contextlib.suppress(OSError):
                part.unlink(missing_ok=True)

    def add(self, name: str, *parts: bytes) -> None:
        """Write a file under a new name; its bytes are on disk when this returns, its name after `sync_folders`.

        It is written in its place: until a row names it nobody reads it, and what a kill leaves half-written has
        no row, see `leftovers`.

        Raises
        ------
        StorageError
            No space, no permission, or the name is taken; nothing is left behind.
        """
        path = self.place(name)
        if self._key is not None:
            parts = (sealing.seal(b"".join(parts), self._key, name),)
        try:
            try:
                _write_through(path, parts, mode="xb")
            except FileNotFoundError:
                # As in `write`.
                _write_through(path, parts, mode="xb")
        except FileExistsError as err:
            raise StorageError(f"cannot write {name} of the node: there is one") from err
        except OSError as err:
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)
            raise StorageError(f"cannot write {name} of the node: {err.strerror or err}") from err

    def sync_folders(self, names: Iterable[str]) -> None:
        """Make the names of written files survive a power failure.

        Raises
        ------
        StorageError
            The disk fails.
        """
        try:
            self._folders.sync({self.place(name).parent for name in names})
        except OSError as err:
            raise StorageError(f"cannot sync the folder of the node: {err.strerror or err}") from err

    def read(self, name: str) -> bytes:
        """The content of a file.

        Raises
        ------
        StorageError
            It is not there, was changed, or is encrypted with another key.
        """
        try:
            content = self.place(name).read_bytes()
        except OSError as err:
            raise StorageError(f"cannot read {name} of the node: {err.strerror or err}") from err
        return sealing.unseal(content, self._key, name)

    def remove(self, name: str) -> None:
        """Remove a file, and the folders that it leaves empty; one that is not there is no error."""
        path = self.place(name)
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)
        self._remove_empty_above(path)

    def _remove_empty_above(self, path: Path) -> None:
        for folder in path.parents:
            if folder == self.folder or not self._folders.remove_empty(folder):
                break

    def set_aside(self, name: str) -> None:
        """Move a file out of the way; where that fails it stays. Under the name that it has it could be read again."""
        path, target = self.place(name), self.folder / ASIDE / name
        with contextlib.suppress(OSError):
            target.parent.mkdir(parents=True, exist_ok=True)
            os.replace(path, target)
        self._remove_empty_above(path)

    def remove_aside(self, before: float) -> int:
        """Remove files that were set aside and last written before then; their number."""
        above = self.folder / ASIDE
        old = [path for path in above.rglob("*") if path.is_file() and path.stat().st_mtime < before]
        for path in old:
            self.remove(path.relative_to(self.folder).as_posix())
        return len(old)

    def sync_removed(self, names: Iterable[str]) -> None:
        """Make the removal of files survive a power failure.

        Raises
        ------
        StorageError
            The disk fails.
        """
        above = {folder for name in names for folder in self.place(name).parents}
        for folder in above:
            if folder == self.folder or self.folder in folder.parents:
                try:
                    sync_path(folder)
                except FileNotFoundError:
                    continue
                except OSError as err:
                    raise StorageError(f"cannot sync the folder of the node: {err.strerror or err}") from err

    @contextlib.contextmanager
    def scratch(self) -> Iterator[Path]:
        """A folder for plain files that lives as long as the block; only this user may look in."""
        above = self.scratch_folder
        try:
            above.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            above.mkdir(mode=0o700, exist_ok=True)
            folder = Path(tempfile.mkdtemp(prefix="job-", dir=above))
        except OSError as err:
            raise StorageError(f"cannot make a folder in {above}: {err.strerror or err}") from err
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    @contextlib.contextmanager
    def plain(self, names: Iterable[str]) -> Iterator[Path]:
        """Plain copies of files, numbered in their order, in a folder that lives as long as the block.

        Raises
        ------
        StorageError
            One of them cannot be read.
        """
        with self.scratch() as folder:
            for index, name in enumerate(names):
                copy = folder / f"{index:06d}{Path(name).suffix}"
                if self._key is None:
                    _link_or_copy(self.place(name), copy)
                else:
                    copy.write_bytes(self.read(name))
            yield folder

    def remove_scratch_of(self, owners: Iterable[str]) -> None:
        """Remove the plain copies of nodes that are dead, which a kill has left."""
        dead = {f"{_OWNED}{owner}" for owner in owners}
        for path in (self.folder / SCRATCH).glob(f"{_OWNED}*"):
            if path.name in dead:
                shutil.rmtree(path, ignore_errors=True)

    def sweep(self, older_than_s: float = 0.0) -> int:
        """Remove what a killed process left half-written; the number of files. Called when nobody else writes."""
        scratch = self.folder / SCRATCH
        # Working folders of the workers of other nodes stay.
        for path in scratch.glob(f"{_OWNED}*/job-*") if older_than_s else [scratch]:
            if is_older(path, older_than_s):
                shutil.rmtree(path, ignore_errors=True)
        left = [
            path
            for path in self.folder.rglob(f".*{TEMPORARY_SUFFIX}*")
            if path.is_file() and is_older(path, older_than_s)
        ]
        for path in left:
            path.unlink(missing_ok=True)
        return len(left)


def is_older(path: Path, seconds: float) -> bool:
    """Whether a file was last written that long ago by the clock of its disk; False where it is gone."""
    if seconds <= 0:
        return True
    try:
        return time.time() - path.stat().st_mtime > seconds
    except OSError:
        return False


def _link_or_copy(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except FileNotFoundError as err:
        raise StorageError(f"{source.name} of the node is not there") from err
    except OSError:
        shutil.copyfile(source, target)


def _write_through(path: Path, parts: Iterable[bytes], *, mode: Literal["wb", "xb"] = "wb") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open(mode) as stream:
        for part in parts:
            stream.write(part)
        stream.flush()
        os.fsync(stream.fileno())
