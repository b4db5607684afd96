"""Files of patients: whole or absent, sealed where a key is given, never outside of the folder."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import pytest

pytest.importorskip("cryptography", reason="needs medseg[pacs]")
from hypothesis import given
from hypothesis import strategies as st

from medseg.errors import ConfigError, StorageError
from medseg.node import sealing
from medseg.node.disk_space import DiskSpace
from medseg.node.vault import Vault
from tests.unit.node.turned_clock import TurnedClock

KEY = b"k" * 32
SECRET = b"PATIENT^NAME" * 10


@pytest.mark.parametrize("key", [None, KEY], ids=["plain", "sealed"])
@pytest.mark.parametrize("size", [0, 1, (1 << 20) - 1, 1 << 20, (1 << 20) + 1, 3 << 20])
def test_what_is_written_is_read(tmp_path: Path, key, size: int):
    vault, content = Vault(tmp_path, key), os.urandom(1) * size
    vault.write("instances/ab/cd.dcm", content)
    assert vault.read("instances/ab/cd.dcm") == content


def test_nothing_of_a_sealed_file_can_be_read_on_disk(tmp_path: Path):
    vault = Vault(tmp_path, KEY)
    vault.write("a/b", SECRET)
    assert all(b"PATIENT" not in path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    with vault.plain(["a/b"]) as folder:
        (copy,) = folder.iterdir()
        assert copy.read_bytes() == SECRET
    assert not folder.exists()


@given(st.integers(0, 200), st.integers(1, 255))
def test_a_changed_byte_is_noticed(at: int, change: int):
    sealed = bytearray(sealing.seal(SECRET, KEY, "name"))
    sealed[at % len(sealed)] ^= change
    with pytest.raises(StorageError):
        sealing.unseal(bytes(sealed), KEY, "name")


def test_a_file_cannot_be_cut_renamed_or_put_together(tmp_path: Path):
    content = b"x" * (2 << 20)
    sealed = sealing.seal(content, KEY, "one")
    head, step = 24, (1 << 20) + 16
    for spoilt, name in (
        (sealed[: head + step], "one"),
        (sealed, "two"),
        (sealed[:head] + sealed[head + step :] + sealed[head : head + step], "one"),
    ):
        with pytest.raises(StorageError, match="changed on disk"):
            sealing.unseal(spoilt, KEY, name)
    with pytest.raises(StorageError, match=r"storage\.key is another one"):
        sealing.unseal(sealed, b"o" * 32, "one")
    with pytest.raises(StorageError, match=r"set storage\.key"):
        sealing.unseal(sealed, None, "one")
    with pytest.raises(StorageError, match="not encrypted"):
        sealing.unseal(b"plain", KEY, "one")


def test_the_same_content_never_looks_the_same():
    assert sealing.seal(SECRET, KEY, "one") != sealing.seal(SECRET, KEY, "one")


@pytest.mark.parametrize("text", ["", "short", "A" * 43, "!" * 44])
def test_a_key_that_is_none_is_refused_without_quoting_it(text: str):
    with pytest.raises(ConfigError, match=r"storage\.key: expected a key of 32 bytes") as refused:
        sealing.parse_key(text, field="storage.key")
    assert not text or text not in str(refused.value)


@pytest.mark.parametrize("name", ["", "/etc/passwd", "../out", "a/../../out", "a//b", "a/./b", "a\0b"])
def test_no_name_leads_out_of_the_folder(tmp_path: Path, name: str):
    with pytest.raises(StorageError, match="no name of a file"):
        Vault(tmp_path).write(name, b"x")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("call", ["fsync", "replace", "open"])
def test_a_write_that_fails_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str):
    vault = Vault(tmp_path)
    vault.write("a/b", b"before")

    def fail(*_args, **_kwargs):
        raise OSError(28, "No space left on device")

    if call == "open":
        monkeypatch.setattr(Path, "open", fail)
    else:
        monkeypatch.setattr(os, call, fail)
    with pytest.raises(StorageError, match="No space left on device"):
        vault.write("a/b", b"after")
    monkeypatch.undo()
    assert vault.read("a/b") == b"before"
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["b"]


def test_what_a_kill_left_half_written_is_swept(tmp_path: Path):
    vault = Vault(tmp_path)
    vault.write("a/b", b"whole")
    (tmp_path / "a" / ".c.123.medseg-part").write_bytes(b"half")
    (tmp_path / "scratch" / "job-1").mkdir(parents=True)
    assert vault.sweep() == 1
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["a", "b"]


def test_plain_copies_of_dead_nodes_are_removed_and_those_of_others_stay(tmp_path: Path):
    own, other, dead = (Vault(tmp_path, KEY, shared=True, owner=name) for name in ("own", "other", "dead"))
    with contextlib.ExitStack() as stack:
        kept = [stack.enter_context(one.scratch()) for one in (own, other)]
        lost = stack.enter_context(dead.scratch())
        (lost / "000000.dcm").write_bytes(SECRET)
        own.remove_scratch_of(["dead", "never seen", ""])
        assert [path.exists() for path in (*kept, lost)] == [True, True, False]
        # It was frozen, not dead.
        with dead.scratch() as folder:
            assert folder.exists()


def test_a_sweep_beside_other_nodes_leaves_the_copies_that_they_work_with(tmp_path: Path):
    vault = Vault(tmp_path, shared=True)
    names = ("node-a/job-old", "node-a/job-young", "worker-0")
    for name in names:
        (tmp_path / "scratch" / name).mkdir(parents=True)
    for name in ("node-a/job-old", "worker-0"):
        os.utime(tmp_path / "scratch" / name, (0, 0))
    assert vault.sweep(86400.0) == 0
    assert [(tmp_path / "scratch" / name).exists() for name in names] == [False, True, True]


def test_a_removed_file_takes_its_empty_folders_along(tmp_path: Path):
    vault = Vault(tmp_path)
    vault.write("a/b/c", b"1")
    vault.write("a/d", b"2")
    vault.remove("a/b/c")
    vault.remove("a/b/c")
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["a", "d"]


def test_reserve_and_quota_say_why_nothing_is_taken(tmp_path: Path):
    clock, held = TurnedClock(), [0]
    space = DiskSpace(tmp_path, reserve=1, quota=1000, held=lambda: held[0], clock=clock)
    assert space.take(600).full == ""
    assert "storage.quota" in space.take(600).full
    clock.turn(2.0)
    assert space.take(600).full == ""
    huge = DiskSpace(tmp_path, reserve=1 << 60, quota=None, held=lambda: 0, clock=clock)
    assert "storage.reserve" in huge.state().full


def test_a_quota_is_reached_when_what_comes_does_not_fit(tmp_path: Path):
    clock, held = TurnedClock(), [900]
    space = DiskSpace(tmp_path, reserve=1, quota=1000, held=lambda: held[0], clock=clock)
    assert space.state().full == ""
    assert space.state(200).full
    assert "storage.quota" in space.state().full
    # One that fits, room that is made, and time let it be forgotten.
    assert space.take(50).full == ""
    assert space.state().full == ""
    assert space.state(200).full
    held[0] = 0
    clock.turn(2.0)
    assert space.state().full == ""
    held[0] = 900
    clock.turn(60.0)
    assert space.state().full == ""
