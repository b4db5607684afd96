"""Every file below the paths that a user names, in order, each once; nothing is opened."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath

from medseg.io.case_names import stem_of
from medseg.io.limits import reason_of

_MASK_ENDINGS = (
    "_mask",
    "-mask",
    "_masks",
    "_seg",
    "-seg",
    "_segmentation",
    "_label",
    "-label",
    "_labels",
    "_labelmap",
)
_MASK_FOLDER = re.compile(r"(masks?|labels?|segmentations?)([_-].*|tr|ts)?", re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Skipped:
    """A file or folder that is no image, and why."""

    path: Path
    reason: str


def walk(paths: Sequence[Path], skipped: list[Skipped]) -> Iterator[tuple[Path, PurePath]]:
    """Every file with its path below the folder that was named, in order of names."""
    seen: set[tuple[int, int]] = set()
    for path in sorted(set(paths), key=str):
        if _is_folder(path):
            yield from _walk_folder(path, PurePath(), seen, skipped)
        else:
            yield path, PurePath(path.name)


def _walk_folder(
    root: Path, below: PurePath, seen: set[tuple[int, int]], skipped: list[Skipped]
) -> Iterator[tuple[Path, PurePath]]:
    pending = [(root, below)]
    while pending:
        folder, relative = pending.pop()
        try:
            status = folder.stat()
            if (status.st_dev, status.st_ino) in seen:
                skipped.append(Skipped(path=folder, reason="a folder that was searched already"))
                continue
            seen.add((status.st_dev, status.st_ino))
            names = sorted(os.listdir(folder))
        except OSError as err:
            skipped.append(Skipped(path=folder, reason=f"the folder cannot be read: {reason_of(err)}"))
            continue
        folders = []
        for name in names:
            path = folder / name
            if name.startswith(".") or name == "__MACOSX":
                skipped.append(Skipped(path=path, reason="hidden"))
            elif _is_folder(path):
                folders.append((path, relative / name))
            elif (reason := _mask_reason(relative / name)) is not None:
                skipped.append(Skipped(path=path, reason=reason))
            else:
                yield path, relative / name
        pending.extend(reversed(folders))


def _is_folder(path: Path) -> bool:
    """Whether this is a folder; False where the system does not let us look."""
    try:
        return path.is_dir()
    except OSError:
        return False


def _mask_reason(relative: PurePath) -> str | None:
    if stem_of(relative.name).casefold().endswith(_MASK_ENDINGS):
        return "a mask by its name"
    folder = next((part for part in relative.parts[:-1] if _MASK_FOLDER.fullmatch(part)), None)
    return None if folder is None else f"in a folder of masks ({folder})"


def unique(files: Iterator[tuple[Path, PurePath]], skipped: list[Skipped]) -> Iterator[tuple[Path, PurePath]]:
    """Each file once, whichever of its links or names comes first."""
    seen: dict[tuple[int, int], Path] = {}
    for path, relative in files:
        try:
            status = path.stat()
        except OSError as err:
            skipped.append(Skipped(path=path, reason=f"cannot be read: {reason_of(err)}"))
            continue
        key = (status.st_dev, status.st_ino)
        if not stat.S_ISREG(status.st_mode):
            skipped.append(Skipped(path=path, reason="a pipe, socket or device"))
        elif key in seen:
            skipped.append(Skipped(path=path, reason=f"the same file as {seen[key]}"))
        else:
            seen[key] = path
            yield path, relative
