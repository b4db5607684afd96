"""Files of patients: whole or absent at every failing call, and unreadable where anything was changed."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

pytest.importorskip("cryptography", reason="needs medseg[node]")
from medseg.errors import ConfigError, StorageError
from medseg.node import sealing, vault
from medseg.node.vault import Vault

KEY = bytes(range(32))
NAME = "instances/ab/cd.dcm"
CHUNK = 1 << 20


@pytest.mark.parametrize("size", [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK])
def test_what_was_sealed_comes_back_and_shows_nothing(size: int):
    content = (b"Doe^Jane" * (size // 8 + 1))[:size]
    sealed = sealing.seal(content, KEY, NAME)
    assert sealing.unseal(sealed, KEY, NAME) == content
    assert b"Doe" not in sealed
    assert sealing.seal(content, KEY, NAME) != sealed


def test_a_change_anywhere_is_noticed():
    sealed = sealing.seal(bytes(100), KEY, NAME)
    for place in range(len(sealed)):
        changed = bytearray(sealed)
        changed[place] ^= 1
        with pytest.raises(StorageError, match=r"was changed on disk|is not encrypted"):
            sealing.unseal(bytes(changed), KEY, NAME)


@pytest.mark.parametrize(
    ("key", "name", "keep"),
    [
        (bytes(32), NAME, None),
        (KEY, "instances/ab/other.dcm", None),
        (KEY, NAME, -1),
        (KEY, NAME, 8 + 16 + CHUNK + 16),
        (KEY, NAME, 8 + 16),
        (KEY, NAME, 10),
    ],
    ids=["other key", "other name", "cut", "cut at a chunk", "no chunk", "no salt"],
)
def test_another_key_another_name_and_a_cut_are_noticed(key: bytes, name: str, keep: int | None):
    sealed = sealing.seal(bytes(CHUNK + 5), KEY, NAME)
    with pytest.raises(StorageError, match=r"was changed on disk, or storage\.key is another one"):
        sealing.unseal(sealed[:keep], key, name)


def test_chunks_of_one_file_cannot_change_places():
    sealed = sealing.seal(bytes(3 * CHUNK), KEY, NAME)
    head, step = 24, CHUNK + 16
    first, second, last = (sealed[head + i * step : head + (i + 1) * step] for i in range(3))
    with pytest.raises(StorageError, match="was changed"):
        sealing.unseal(sealed[:head] + second + first + last, KEY, NAME)


def test_a_key_too_few_or_too_many_is_said():
    with pytest.raises(StorageError, match=r"is encrypted; set storage\.key"):
        sealing.unseal(sealing.seal(b"x", KEY, NAME), None, NAME)
    with pytest.raises(StorageError, match=r"not encrypted although storage\.key is set"):
        sealing.unseal(b"plain", KEY, NAME)


@pytest.mark.parametrize("text", ["", "short", "AAAA", "!" * 44])
def test_a_key_that_is_none_is_refused_without_being_told(text: str):
    with pytest.raises(ConfigError, match="expected a key of 32 bytes in base64") as caught:
        sealing.parse_key(text, field="storage.key")
    assert not text or text not in str(caught.value)


@pytest.mark.parametrize("name", ["", "/etc/passwd", "a/../../b", "..", "a//b", "a/./b", "a\0b"])
def test_no_name_leads_out_of_the_folder(tmp_path: Path, name: str):
    with pytest.raises(StorageError, match="is no name of a file"):
        Vault(tmp_path).place(name)


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
        kept = Vault(folder, key)
        kept.write(NAME, b"old")
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


def test_a_folder_that_is_removed_meanwhile_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    real, calls = vault._write_through, []

    def write(path: Path, content: bytes) -> None:
        calls.append(path)
        if len(calls) == 1:
            raise FileNotFoundError(errno.ENOENT, "gone")
        real(path, content)

    monkeypatch.setattr(vault, "_write_through", write)
    Vault(tmp_path).write(NAME, b"new")
    assert Vault(tmp_path).read(NAME) == b"new"


def test_plain_copies_live_as_long_as_they_are_needed(tmp_path: Path):
    kept = Vault(tmp_path, KEY)
    kept.write(NAME, b"content")
    assert files_of(tmp_path)["cd.dcm"] != b"content"
    with kept.plain([NAME]) as folder:
        assert [path.read_bytes() for path in folder.iterdir()] == [b"content"]
        assert folder.stat().st_mode & 0o077 == 0
    assert not folder.exists()


def test_a_sweep_takes_the_halves_and_leaves_the_whole(tmp_path: Path):
    kept = Vault(tmp_path)
    kept.write(NAME, b"whole")
    half = kept.place(NAME).with_name(f".cd.dcm.0123{vault.TEMPORARY_SUFFIX}")
    half.write_bytes(b"ha")
    (tmp_path / "scratch" / "job-1").mkdir(parents=True)
    assert kept.sweep() == 1
    assert list(files_of(tmp_path)) == ["cd.dcm"]
    assert not (tmp_path / "scratch").exists()


def test_the_last_file_takes_its_folders_with_it(tmp_path: Path):
    kept = Vault(tmp_path)
    kept.write(NAME, b"1")
    kept.write("instances/xy/z.dcm", b"2")
    kept.remove(NAME)
    kept.remove(NAME)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["instances", "xy", "z.dcm"]
