"""Files that are whole or absent, hashes, and what made an artefact."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import platform
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

from medseg import __version__
from medseg.errors import StorageError

_BLOCK = 1 << 20
TEMPORARY_SUFFIX = ".medseg-part"


def sha256_file(path: Path) -> str:
    """SHA-256 of a file's bytes, hex."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def sha256_json(value: Any) -> str:
    """SHA-256 of a JSON value in canonical form, hex."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path in the same folder; it becomes `path` when the block ends well.

    The bytes are synced before the rename and the folder after it, so a reader sees the old file
    or the new one, also after a power loss. On an error the temporary file is removed.

    Raises
    ------
    StorageError
        The folder cannot be written, or there is no space left.
    """
    part = path.with_name(f".{path.name}.{os.getpid()}{TEMPORARY_SUFFIX}{''.join(path.suffixes[-2:])}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield part
        sync_path(part)
        os.replace(part, path)
        sync_path(path.parent)
    except OSError as err:
        raise StorageError(
            f"cannot write {path}: {err.strerror or err}; free space or change --output"
        ) from err
    finally:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)


def sync_path(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk.

    Raises
    ------
    OSError
    """
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_text(path: Path, text: str) -> None:
    """Write a text file, whole or not at all."""
    with whole_file(path) as part:
        part.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file, whole or not at all; NaN is refused."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def sweep_parts(folder: Path, *, deep: bool = True) -> int:
    """Remove temporary files that a killed process left in `folder`, and below it where `deep`; their number."""
    pattern = f".*{TEMPORARY_SUFFIX}*"
    parts = [p for p in (folder.rglob(pattern) if deep else folder.glob(pattern)) if p.is_file()]
    for part in parts:
        part.unlink(missing_ok=True)
    return len(parts)


def versions() -> dict[str, str]:
    """Versions of Python, the system and the packages a result depends on; imports none of them."""
    packages = (
        "medseg",
        "torch",
        "monai",
        "numpy",
        "scipy",
        "nibabel",
        "SimpleITK",
        "pydicom",
        "highdicom",
        "pillow",
    )
    found = {
        "medseg": __version__,
        "python": sys.version.split()[0],
        "system": f"{platform.system()} {platform.machine()}",
    }
    for name in packages:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found
