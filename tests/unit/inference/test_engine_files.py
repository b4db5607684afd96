"""What engines keep on disk: whole and unchanged, or made again."""

import errno
import json
import os
from pathlib import Path

import pytest

from medseg.errors import StorageError
from medseg.inference.engine_files import cache_folder, keep, kept, prune, read_answer, write_answer
from medseg.user_cache import cache_home

KEY = {"engine": "test", "weights": "abc"}
NAMES = ("model.bin",)


def write(text="weights"):
    return lambda folder: (folder / "model.bin").write_text(text)


def test_the_folder_is_the_users_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "medseg" / "engines"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "me"))
    assert cache_folder() == tmp_path / "me" / ".cache" / "medseg" / "engines"


def test_a_user_without_a_home_keeps_nothing(monkeypatch):
    def nobody():
        raise RuntimeError("Could not determine home directory.")

    for name in ("MEDSEG_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Path, "home", nobody)
    assert cache_folder() is None
    with pytest.raises(StorageError, match="set MEDSEG_CACHE to a folder"):
        cache_home()


def test_what_lies_on_a_read_only_disk_is_used(monkeypatch, tmp_path):
    def refuse(*_):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    place = keep(tmp_path, KEY, NAMES, write())
    monkeypatch.setattr(os, "utime", refuse)
    assert kept(tmp_path, KEY, NAMES) == place


def test_what_was_kept_is_found_under_its_key_alone(tmp_path):
    assert kept(tmp_path, KEY, NAMES) is None
    place = keep(tmp_path, KEY, NAMES, write())
    assert kept(tmp_path, KEY, NAMES) == place
    assert (place / "model.bin").read_text() == "weights"
    assert kept(tmp_path, KEY | {"weights": "abd"}, NAMES) is None
    assert sorted(path.name for path in tmp_path.iterdir()) == [place.name], "nothing half-written stays"


@pytest.mark.parametrize("text", ["weightz", ""])
def test_what_was_changed_is_not_used(tmp_path, text):
    place = keep(tmp_path, KEY, NAMES, write())
    (place / "model.bin").write_text(text)
    assert kept(tmp_path, KEY, NAMES) is None
    assert keep(tmp_path, KEY, NAMES, write("new")) == place
    assert kept(tmp_path, KEY, NAMES) == place


@pytest.mark.parametrize("record", ["", "[]", "{}", '{"model.bin": 3}'])
def test_a_damaged_record_is_not_used(tmp_path, record):
    place = keep(tmp_path, KEY, NAMES, write())
    (place / "files.json").write_text(record)
    assert kept(tmp_path, KEY, NAMES) is None


def test_a_folder_that_cannot_be_written_keeps_nothing(tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("")
    assert keep(blocked, KEY, NAMES, write()) is None
    assert keep(None, KEY, NAMES, write()) is None


def test_a_failure_while_writing_leaves_nothing(tmp_path):
    def fail(folder):
        (folder / "model.bin").write_text("half")
        raise RuntimeError("cannot")

    with pytest.raises(RuntimeError, match="cannot"):
        keep(tmp_path, KEY, NAMES, fail)
    assert list(tmp_path.iterdir()) == []


def test_the_oldest_goes_first_and_the_newest_stays(tmp_path):
    places = [keep(tmp_path, KEY | {"n": n}, NAMES, write("x" * 1000)) for n in range(4)]
    for age, place in enumerate(places):
        os.utime(place, (1000 + age, 1000 + age))
    prune(tmp_path, keep=places[0], most_bytes=2600)
    assert [place.exists() for place in places] == [True, False, False, True]
    prune(tmp_path, keep=places[0], most_bytes=10)
    assert [place.exists() for place in places] == [True, False, False, False]


def test_answers_round_trip_and_a_damaged_one_is_none(tmp_path):
    assert read_answer(tmp_path, KEY) is None
    write_answer(tmp_path, KEY, [{"engine": "openvino"}])
    assert read_answer(tmp_path, KEY) == [{"engine": "openvino"}]
    assert read_answer(tmp_path, KEY | {"weights": "x"}) is None
    assert read_answer(None, KEY) is None
    (path,) = (tmp_path / "answers").iterdir()
    path.write_text("{")
    assert read_answer(tmp_path, KEY) is None
    path.write_text(json.dumps({"key": KEY}))
    assert read_answer(tmp_path, KEY) is None
