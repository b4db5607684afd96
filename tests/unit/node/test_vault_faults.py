"""Files of patients when disks fail at any call, and while others remove folders."""

from __future__ import annotations

import contextlib
import errno
import os
from pathlib import Path

import pytest

pytest.importorskip("cryptography", reason="needs medseg[node]")
from medseg.errors import StorageError
from medseg.node import vault
from medseg.node.vault import Vault

KEY = bytes(range(32))
NAME = "instances/ab/cd.dcm"


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def fail_at(monkeypatch: pytest.MonkeyPatch, number: int) -> list[str]:
    """Let the n-th call of any of the calls that reach the disk fail; the calls that were made."""
    calls: list[str] = []

    def counted(owner: object, name: str) -> None:
        real = getattr(owner, name)

        def call(*given: object, **options: object) -> object:
            calls.append(name)
            if len(calls) == number:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return real(*given, **options)

        monkeypatch.setattr(owner, name, call)

    for owner, name in ((os, "fsync"), (os, "replace"), (Path, "mkdir"), (Path, "open"), (os, "open")):
        counted(owner, name)
    return calls


@pytest.mark.parametrize("key", [None, KEY], ids=["plain", "encrypted"])
def test_a_failing_call_leaves_the_old_file_or_the_new_one(tmp_path: Path, key: bytes | None):
    sentences: list[str] = []
    for number in range(1, 40):
        folder = tmp_path / str(number)
        Vault(folder, key).write(NAME, b"old")
        kept = Vault(folder, key)
        handles = len(os.listdir("/proc/self/fd"))
        with pytest.MonkeyPatch.context() as patch:
            calls = fail_at(patch, number)
            try:
                kept.write(NAME, b"new")
            except StorageError as err:
                sentences.append(str(err))
        assert list(files_of(folder)) == ["cd.dcm"]
        assert kept.read(NAME) in (b"old", b"new")
        assert len(os.listdir("/proc/self/fd")) == handles
        if len(calls) < number:
            assert kept.read(NAME) == b"new"
            break
    # mkdir, open, fsync, replace, and an open and an fsync of each of three folders
    assert len(sentences) == number - 1 == 10
    assert all(sentence.endswith(os.strerror(errno.ENOSPC)) for sentence in sentences)


@pytest.mark.parametrize("key", [None, KEY], ids=["plain", "encrypted"])
def test_a_failing_call_leaves_nothing_of_a_new_file(tmp_path: Path, key: bytes | None):
    kept, number = Vault(tmp_path, key), 0
    while not files_of(tmp_path):
        number += 1
        with pytest.MonkeyPatch.context() as patch:
            calls = fail_at(patch, number)
            with contextlib.suppress(StorageError):
                kept.add(NAME, b"head", b"data set")
        assert bool(files_of(tmp_path)) == (len(calls) < number)
    # mkdir of three folders, from below and then from above, open, fsync
    assert number > 3
    assert kept.read(NAME) == b"headdata set"


def test_a_new_file_does_not_replace_one(tmp_path: Path):
    kept = Vault(tmp_path)
    kept.add(NAME, b"first")
    with pytest.raises(StorageError, match="there is one"):
        kept.add(NAME, b"second")
    assert kept.read(NAME) == b"first"


@pytest.mark.parametrize("how", ["write", "add"])
def test_a_folder_that_is_removed_meanwhile_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
):
    real, calls = vault._write_through, []

    def write(path: Path, *given: object, **options: object) -> None:
        calls.append(path)
        if len(calls) == 1:
            raise FileNotFoundError(errno.ENOENT, "gone")
        real(path, *given, **options)

    monkeypatch.setattr(vault, "_write_through", write)
    getattr(Vault(tmp_path), how)(NAME, b"new")
    assert Vault(tmp_path).read(NAME) == b"new"


def test_plain_copies_live_as_long_as_they_are_needed(tmp_path: Path):
    kept = Vault(tmp_path, KEY)
    kept.write(NAME, b"content")
    assert files_of(tmp_path)["cd.dcm"] != b"content"
    with kept.plain([NAME]) as folder:
        assert [path.read_bytes() for path in folder.iterdir()] == [b"content"]
        assert folder.stat().st_mode & 0o077 == 0
    assert not folder.exists()
