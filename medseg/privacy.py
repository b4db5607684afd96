"""Which identifiers may leave the data: names made safe for paths, logs and reports."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

from medseg.errors import StorageError

_SAFE = re.compile(r"[^A-Za-z0-9._-]+")
_RESERVED = {"con", "prn", "aux", "nul", *(f"com{n}" for n in range(10)), *(f"lpt{n}" for n in range(10))}
# A folder path inside a sentence; the name after its last separator stays.
_FOLDERS = re.compile(r"(?<![\w.<])(?:[A-Za-z]:)?[/\\](?:[^/\\:;,\n'\"]+[/\\])+")
MAX_NAME = 80


def safe_name(text: str, *, max_length: int = MAX_NAME) -> str:
    """A file name for `text`: letters, digits, dot, dash, underscore; unique where it had to change.

    A name that needs no change comes back as it is. Any other gets a digest of the original, so
    that two different texts never share a name.
    """
    plain = _SAFE.sub("_", text).strip("._-")
    changed = plain != text or len(plain) > max_length or plain.split(".")[0].lower() in _RESERVED
    if plain and not changed:
        return plain
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:10]
    stem = plain[: max_length - 11].rstrip("._-")
    return f"{stem}-{digest}" if stem and stem.split(".")[0].lower() not in _RESERVED else f"case-{digest}"


def inside(folder: Path, name: str) -> Path:
    """Path of `name` in `folder`, refused where it would leave the folder."""
    path = folder / safe_name(name)
    if folder.resolve() not in path.resolve().parents:
        raise StorageError(f"{name!r} would be written outside {folder}")
    return path


def pseudonym(identifier: str) -> str:
    """A short stable stand-in for a patient or study identifier: `P-` and eight hex digits."""
    return "P-" + hashlib.sha256(b"medseg:" + identifier.encode("utf-8", "replace")).hexdigest()[:8].upper()


def without_folders(text: str) -> str:
    """Folder names may tell who a patient is; a page that leaves the machine does not carry them."""
    return _FOLDERS.sub("…/", text)
