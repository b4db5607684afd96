"""Arrays of prepared cases on disk: one entry per case, checked by hash before it is used.

An entry is `<case>-<key>.json` and the arrays `.image.npy`, `.label.npy` and `.places.npy` of the same
stem; the JSON holds the hashes of the arrays and its own, so that a damaged or half-written entry is seen.
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
import os
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medseg.errors import StorageError
from medseg.provenance import TEMPORARY_SUFFIX, sha256_file, sha256_json

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class PreparedEntry:
    """Where the arrays of one case lie, and their hashes.

    `minima` holds the least value of each channel; `sets`, `counts` and `offsets` are those of
    `medseg.data.patches.Places`, whose voxels are in `places`.
    """

    case_id: str
    image: Path
    label: Path | None
    places: Path | None
    image_sha256: str
    label_sha256: str | None
    places_sha256: str | None
    shape: tuple[int, ...]
    spacing_mm: tuple[float, ...] | None
    minima: tuple[float, ...]
    sets: tuple[int, ...] = ()
    counts: tuple[int, ...] = ()
    offsets: tuple[int, ...] = (0,)


# Fields of the JSON, apart from the paths, which follow from its name.
_KEPT = tuple(f.name for f in fields(PreparedEntry) if f.name not in ("image", "label", "places"))


def map_array(path: Path, case_id: str) -> NDArray[Any]:
    """The array of a cache file, read from disk only where it is looked at.

    Copy-on-write: PyTorch takes writable arrays only, and nothing that is written reaches the file.
    """
    try:
        return np.load(path, mmap_mode="c", allow_pickle=False)  # type: ignore[no-any-return]
    except (OSError, ValueError) as err:
        raise StorageError(f"the prepared array {path.name} of case {case_id} cannot be read: {err}") from err


def _write_bytes(path: Path, content: bytes) -> None:
    # Not synced, unlike results: an entry lost to a power cut fails its hash and is made again.
    part = path.with_name(f".{path.name}.{os.getpid()}{TEMPORARY_SUFFIX}")
    try:
        part.write_bytes(content)
        os.replace(part, path)
    except OSError as err:
        part.unlink(missing_ok=True)
        raise StorageError(f"cannot write {path}: {err.strerror}; free space or change --output") from err


def write_array(path: Path, array: NDArray[Any]) -> str:
    """Write one .npy file; the SHA-256 of its bytes."""
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    _write_bytes(path, buffer.getvalue())
    return hashlib.sha256(buffer.getbuffer()).hexdigest()


def write_entry(path: Path, entry: PreparedEntry) -> None:
    kept = {name: getattr(entry, name) for name in _KEPT}
    value: dict[str, Any] = {n: list(v) if isinstance(v, tuple) else v for n, v in kept.items()}
    value["entry_sha256"] = sha256_json(value)
    _write_bytes(path, json.dumps(value, allow_nan=False).encode())


def read_entry(folder: Path, stem: str, case_id: str) -> PreparedEntry | None:
    """The entry, or None where it is absent or does not match its hashes."""
    try:
        value = json.loads((folder / f"{stem}.json").read_text(encoding="utf-8"))
        whole = value.pop("entry_sha256") == sha256_json(value)
        paths = {what: folder / f"{stem}.{what}.npy" for what in ("image", "label", "places")}
        hashes = {what: value[f"{what}_sha256"] for what in paths}
        there = {what: path if hashes[what] is not None else None for what, path in paths.items()}
        kept = {n: tuple(v) if isinstance(v, list) else v for n, v in value.items()}
        arguments: dict[str, Any] = {**kept, **there}
        entry = PreparedEntry(**arguments)
        intact = whole and all(
            path is None or sha256_file(path) == hashes[what] for what, path in there.items()
        )
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        intact, entry = False, None
    if entry is None or not intact or entry.case_id != case_id:
        _LOG.warning("the prepared arrays of case %s are damaged; they are made again", case_id)
        return None
    return entry


def sweep_cache(folder: Path) -> None:
    """Remove what a killed process left; other processes' files are younger than this one needs."""
    own = f".{os.getpid()}{TEMPORARY_SUFFIX}"
    for part in folder.glob(f".*{TEMPORARY_SUFFIX}"):
        if part.name.endswith(own) or not _alive(part.name):
            part.unlink(missing_ok=True)


def _alive(name: str) -> bool:
    """Whether the process whose number stands in a temporary file's name still runs."""
    number = name.removesuffix(TEMPORARY_SUFFIX).rsplit(".", 1)[-1]
    try:
        os.kill(int(number), 0)
    except ProcessLookupError:
        return False
    except (ValueError, PermissionError, OverflowError):
        return True
    return True
