"""What a program wrote, from its system calls, and what of it a power loss at any moment would have left.

The disk is as forgetful as POSIX allows: bytes of a file last since its fsync, a name in a folder since that of the
folder. Of what came later everything, nothing or any part may be there.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

CALLS = (
    "openat,write,pwrite64,writev,pwritev,ftruncate,fallocate,lseek,close,rename,renameat,renameat2,link,linkat,unlink,"
    "unlinkat,mkdir,mkdirat,rmdir,fsync,fdatasync,copy_file_range,sendfile"
)
_LINE = re.compile(r"^(?P<pid>\d+) +(?P<rest>.*)$")
_CALL = re.compile(r"^(?P<name>\w+)\((?P<arguments>.*)\) += (?P<answer>-?\d+)(?P<told><[^>]*>)?")
_RESUMED = re.compile(r"^<\.\.\. (?P<name>\w+) resumed>(?P<rest>.*)$")
_CLOSING = re.compile(r"^close\((?P<number>\d+)")
_DESCRIPTOR = re.compile(r"^(?P<number>-?\d+|AT_FDCWD)<(?P<path>[^>]*)>")
_HEX = re.compile(r"\\x([0-9a-f]{2})")

Write = Callable[[bytearray], None]


@dataclass(slots=True)
class File:
    """Bytes on the disk, and changes that are not."""

    synced: bytes = b""
    later: list[Write] = field(default_factory=list)

    def sync(self) -> None:
        self.synced, self.later = self.left(self.later), []

    def left(self, writes: list[Write]) -> bytes:
        content = bytearray(self.synced)
        for write in writes:
            write(content)
        return bytes(content)


Entries = dict[str, "File | Folder"]


@dataclass(slots=True)
class Folder:
    """Names now, names on the disk, and the states between."""

    now: Entries = field(default_factory=dict)
    synced: Entries = field(default_factory=dict)
    later: list[Entries] = field(default_factory=list)

    def change(self, name: str, entry: File | Folder | None) -> None:
        self.now = {key: value for key, value in self.now.items() if key != name}
        if entry is not None:
            self.now[name] = entry
        self.later.append(self.now)

    def sync(self) -> None:
        self.synced, self.later = self.now, []


@dataclass(slots=True)
class TracedDisk:
    """The files below a folder, as the calls of a trace change them."""

    top: str
    root: Folder = field(default_factory=Folder)
    opened: dict[int, tuple[File | Folder, int | None]] = field(default_factory=dict)
    said: list[bytes] = field(default_factory=list)
    """What was written to standard output."""

    def replay(self, trace: str) -> Iterator[str]:
        """Apply the calls, one a step; the name of each."""
        waiting: dict[str, str] = {}
        for line in trace.splitlines():
            found = _LINE.match(line)
            if found is None:
                continue
            pid, rest = found["pid"], found["rest"]
            if rest.endswith("<unfinished ...>"):
                waiting[pid] = rest.removesuffix("<unfinished ...>")
                if (closing := _CLOSING.match(rest)) is not None:
                    # Another thread may be given the number before this one is told that it is free.
                    self.opened.pop(int(closing["number"]), None)
                continue
            if (resumed := _RESUMED.match(rest)) is not None:
                if resumed["name"] == "close":
                    del waiting[pid]
                    continue
                rest = waiting.pop(pid) + resumed["rest"]
            call = _CALL.match(rest)
            if call is not None and int(call["answer"]) >= 0:
                self._apply(call["name"], call["arguments"].split(", "), int(call["answer"]))
                yield call["name"]

    def _apply(self, name: str, given: list[str], answer: int) -> None:
        if name == "openat":
            self._open(given, answer)
        elif name in ("rename", "renameat", "renameat2", "link", "linkat"):
            self._move(name, given)
        elif name in ("unlink", "rmdir", "unlinkat"):
            self._set(_path(given, 0), None)
        elif name in ("mkdir", "mkdirat"):
            self._set(_path(given, 0), Folder())
        elif (found := _DESCRIPTOR.match(given[0])) is not None:
            self._write(name, int(found["number"]), given, answer)

    def _open(self, given: list[str], number: int) -> None:
        path, flags = _path(given, 0), given[2]
        self.opened.pop(number, None)
        if not self._mine(path):
            return
        entry = self._at(path)
        if entry is None:
            entry = File()
            self._set(path, entry)
        elif "O_TRUNC" in flags and isinstance(entry, File):
            entry.later.append(bytearray.clear)
        self.opened[number] = (entry, None if "O_APPEND" in flags else 0)

    def _write(self, name: str, number: int, given: list[str], answer: int) -> None:
        if name == "write" and number == 1:
            self.said.append(_bytes(given[1]))
        if number not in self.opened:
            return
        entry, place = self.opened[number]
        if name == "close":
            del self.opened[number]
        elif name in ("fsync", "fdatasync"):
            entry.sync()
        elif isinstance(entry, File):
            self._change(entry, number, name, given, answer, place)

    def _change(
        self, file: File, number: int, name: str, given: list[str], answer: int, place: int | None
    ) -> None:
        if name == "lseek":
            self.opened[number] = (file, answer)
        elif name == "ftruncate":
            file.later.append(_resized(int(given[1])))
        elif name == "pwrite64":
            file.later.append(_written(_bytes(given[1])[:answer], int(given[3])))
        elif name == "write":
            file.later.append(_written(_bytes(given[1])[:answer], place))
            self.opened[number] = (file, None if place is None else place + answer)
        elif name != "fallocate":
            raise AssertionError(f"the trace has a call that is not understood: {name}")

    def _move(self, name: str, given: list[str]) -> None:
        paths = [argument for argument in given if argument.startswith('"')]
        source, target = (_bytes(path).decode() for path in paths)
        if not self._mine(target):
            return
        entry = self._at(source)
        assert entry is not None
        self._set(target, entry)
        if "link" not in name:
            self._set(source, None)

    def _set(self, path: str, entry: File | Folder | None) -> None:
        if self._mine(path):
            folder = self._at(str(Path(path).parent))
            assert isinstance(folder, Folder)
            folder.change(Path(path).name, entry)

    def _at(self, path: str) -> File | Folder | None:
        entry: File | Folder | None = self.root
        for part in Path(path).relative_to(self.top).parts:
            entry = entry.now.get(part) if isinstance(entry, Folder) else None
        return entry

    def _mine(self, path: str) -> bool:
        return Path(path).is_relative_to(self.top)

    def after_power_loss(self, place: Path, chance: random.Random | None) -> None:
        """Write to a folder what is left: with `chance` any part of what was not synced, else nothing of it."""
        _leave(self.root, place, chance)


def _leave(folder: Folder, place: Path, chance: random.Random | None) -> None:
    place.mkdir()
    entries = chance.choice([folder.synced, *folder.later]) if chance else folder.synced
    for name, entry in entries.items():
        if isinstance(entry, Folder):
            _leave(entry, place / name, chance)
        else:
            writes = [write for write in entry.later if chance and chance.random() < 0.5]
            (place / name).write_bytes(entry.left(writes))


def _written(data: bytes, place: int | None) -> Write:
    def write(content: bytearray) -> None:
        begin = len(content) if place is None else place
        content.extend(bytes(max(0, begin - len(content))))
        content[begin : begin + len(data)] = data

    return write


def _resized(size: int) -> Write:
    def write(content: bytearray) -> None:
        content.extend(bytes(max(0, size - len(content))))
        del content[size:]

    return write


def _path(given: list[str], number: int) -> str:
    return [_bytes(argument).decode() for argument in given if argument.startswith('"')][number]


def _bytes(argument: str) -> bytes:
    """Of a text that strace wrote in hexadecimal."""
    assert not argument.endswith("..."), "strace cut a text off"
    return bytes(int(pair, 16) for pair in _HEX.findall(argument))
