"""Which folders are synced so that the name of a file survives a power failure."""

from __future__ import annotations

from pathlib import Path

import pytest

from medseg.node import folder_sync
from medseg.node.folder_sync import FolderSync


class Disk:
    """Folders below one, and the names of those that were synced."""

    def __init__(self, top: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.top, self.synced = top, []
        real = folder_sync.sync_path

        def sync(folder: Path) -> None:
            self.synced.append(folder.relative_to(top).as_posix())
            real(folder)

        monkeypatch.setattr(folder_sync, "sync_path", sync)

    def synced_by(self, folders: FolderSync, *names: str) -> set[str]:
        for name in names:
            (self.top / name).mkdir(parents=True, exist_ok=True)
        self.synced.clear()
        folders.sync([self.top / name for name in names])
        assert len(self.synced) == len(set(self.synced))
        return set(self.synced)


@pytest.fixture
def disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Disk:
    return Disk(tmp_path, monkeypatch)


def test_a_new_folder_is_synced_with_all_that_hold_its_name_and_then_alone(disk: Disk):
    folders = FolderSync(disk.top, alone=True)
    assert disk.synced_by(folders, "a/b") == {"a/b", "a", "."}
    assert disk.synced_by(folders, "a/b") == {"a/b"}
    assert disk.synced_by(folders, "a/b", "a/c") == {"a/b", "a/c", "a"}


def test_who_is_not_alone_remembers_nothing(disk: Disk):
    folders = FolderSync(disk.top, alone=False)
    assert disk.synced_by(folders, "a/b") == disk.synced_by(folders, "a/b") == {"a/b", "a", "."}


def test_a_folder_that_was_removed_is_new_again(disk: Disk):
    folders = FolderSync(disk.top, alone=True)
    disk.synced_by(folders, "a/b")
    assert folders.remove_empty(disk.top / "a" / "b")
    assert disk.synced_by(folders, "a/b") == {"a/b", "a"}


def test_a_folder_that_holds_something_is_not_removed(disk: Disk):
    folders = FolderSync(disk.top, alone=True)
    disk.synced_by(folders, "a/b")
    assert not folders.remove_empty(disk.top / "a")
    assert disk.synced_by(folders, "a/b") == {"a/b"}


def test_a_removal_during_a_sync_is_not_forgotten(disk: Disk, monkeypatch: pytest.MonkeyPatch):
    folders, real = FolderSync(disk.top, alone=True), folder_sync.sync_path

    def sync(folder: Path) -> None:
        real(folder)
        if folder.name == "b":
            folders.remove_empty(folder)
            folder.mkdir()

    with monkeypatch.context() as patch:
        patch.setattr(folder_sync, "sync_path", sync)
        disk.synced_by(folders, "a/b")
    assert disk.synced_by(folders, "a/b") == {"a/b", "a", "."}


def test_a_failing_disk_leaves_the_folder_new(disk: Disk, monkeypatch: pytest.MonkeyPatch):
    folders = FolderSync(disk.top, alone=True)

    def sync(folder: Path) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(folder_sync, "sync_path", sync)
        with pytest.raises(OSError, match="Input/output"):
            disk.synced_by(folders, "a")
    assert disk.synced_by(folders, "a") == {"a", "."}
