"""Where engines keep what can be made again: compiled networks, and the answers of `engine: auto`.

The folder `engines` of `cache_home`; never inside a bundle. What lies there is checked by its
hash before use, and the oldest goes where it grows too large.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from medseg.errors import StorageError
from medseg.provenance import sha256_file, sha256_json, write_json
from medseg.user_cache import cache_home

_RECORD = "files.json"
MOST_BYTES = 4 << 30
"""All that is kept; a network of nnU-Net's size takes 0.25 GB."""


def cache_folder() -> Path | None:
    """The folder of this user; None where there is none, and nothing is kept."""
    try:
        return cache_home() / "engines"
    except StorageError:
        return None


def machine() -> dict[str, Any]:
    """What the speed of an engine depends on, besides its threads: processor and cores."""
    return {
        "processor": _processor(),
        "system": f"{platform.system()} {platform.machine()}",
        "cores": len(os.sched_getaffinity(0)),
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return platform.processor()
    wanted = ("model name", "flags", "Features")
    found = {line.split(":")[0].strip(): line.split(":", 1)[1].strip() for line in lines if ":" in line}
    name = found.get("model name", platform.processor())
    return f"{name} {sha256_json([found.get(key, '') for key in wanted])[:8]}"


def kept(folder: Path | None, key: dict[str, Any], names: tuple[str, ...]) -> Path | None:
    """The folder of files that were kept under a key, whole and unchanged; None where they must be made."""
    if folder is None:
        return None
    place = folder / sha256_json(key)[:24]
    try:
        hashes = json.loads((place / _RECORD).read_text(encoding="utf-8"))
        whole = all(sha256_file(place / name) == hashes[name] for name in names)
    except (OSError, ValueError, KeyError, TypeError):
        return None
    if whole:
        # It may lie where nothing can be written.
        with contextlib.suppress(OSError):
            os.utime(place)
    return place if whole else None


def keep(
    folder: Path | None, key: dict[str, Any], names: tuple[str, ...], write: Callable[[Path], None]
) -> Path | None:
    """Let `write` write files into a folder of its own, and keep them under a key.

    Returns
    -------
    Path or None
        None where nothing is kept, because `folder` is None or cannot be written: the next process makes it again.
    """
    if folder is None:
        return None
    place = folder / sha256_json(key)[:24]
    part = place.with_name(f".{place.name}.{os.getpid()}")
    try:
        part.mkdir(parents=True, exist_ok=True)
        write(part)
        write_json(part / _RECORD, {name: sha256_file(part / name) for name in names})
        shutil.rmtree(place, ignore_errors=True)
        os.replace(part, place)
        prune(folder, keep=place)
    except (OSError, StorageError):
        return place if (place / _RECORD).exists() else None
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return place


def prune(folder: Path, *, keep: Path, most_bytes: int = MOST_BYTES) -> None:
    """Remove what was used longest ago until the rest is small enough; never `keep`."""
    places = [path for path in folder.iterdir() if (path / _RECORD).is_file()]
    newest_first = sorted(places, key=lambda path: (path != keep, -path.stat().st_mtime))
    taken = 0
    for place in newest_first:
        taken += sum(path.stat().st_size for path in place.rglob("*") if path.is_file())
        if taken > most_bytes and place != keep:
            shutil.rmtree(place, ignore_errors=True)


def read_answer(folder: Path | None, key: dict[str, Any]) -> Any:
    """What was measured under a key; None where it was not, or is damaged."""
    if folder is None:
        return None
    try:
        value = json.loads(_answer(folder, key).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return value.get("tried") if isinstance(value, dict) and value.get("key") == key else None


def write_answer(folder: Path, key: dict[str, Any], tried: Any) -> None:
    """Keep what was measured.

    Raises
    ------
    StorageError
        The folder cannot be written.
    """
    write_json(_answer(folder, key), {"key": key, "tried": tried})


def _answer(folder: Path, key: dict[str, Any]) -> Path:
    return folder / "answers" / f"{sha256_json(key)[:24]}.json"
