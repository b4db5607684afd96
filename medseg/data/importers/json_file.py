"""JSON files of others: bounded in size and depth, nothing named twice, no path that leads out."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any, NoReturn

from medseg.errors import ImageReadError, ManifestError
from medseg.io.limits import open_regular

MAX_BYTES = 32 << 20
MAX_DEPTH = 16
_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|[\[\]{}]', re.DOTALL)
_CONTROL = re.compile("[\x00-\x1f\x7f\ud800-\udfff]")


def read_text(path: Path, *, max_bytes: int = MAX_BYTES) -> str:
    """The text of a small UTF-8 file, with or without a byte order mark.

    Raises
    ------
    ManifestError
        No such file, larger than `max_bytes`, not UTF-8.
    StorageError
        The file may not be read.
    """
    try:
        with open_regular(path) as stream:
            data = stream.read(max_bytes + 1)
    except ImageReadError as err:
        raise ManifestError(str(err)) from err
    if len(data) > max_bytes:
        raise ManifestError(f"{path}: the file is larger than {max_bytes >> 10} KiB, so it is not read")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as err:
        raise ManifestError(
            f"{path}: byte {err.start} (0x{data[err.start]:02x}) is not UTF-8; save the file as UTF-8"
        ) from err


def read_json(path: Path) -> Any:
    """The value of a JSON file.

    Raises
    ------
    ManifestError
        The file cannot be read, is no JSON, is larger than 32 MiB, is nested deeper than 16 levels,
        holds NaN, or names a key twice, of which parsers keep the last in silence.
    """
    text = read_text(path)
    if _depth(text) > MAX_DEPTH:
        raise ManifestError(f"{path}: lists and objects are nested deeper than {MAX_DEPTH} levels")
    try:
        return json.loads(text, object_pairs_hook=_no_doubles, parse_constant=_no_constant)
    except ValueError as err:
        raise ManifestError(f"{path} is not valid JSON: {err}") from err


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object of a file; anything else is refused."""
    value = read_json(path)
    if not isinstance(value, dict):
        raise ManifestError(f"{path}: expected a JSON object {{...}}, found {type(value).__name__}")
    return value


def path_inside(folder: Path, text: object) -> Path | str:
    """The file that a data set names, or a sentence that says why it is refused.

    Parameters
    ----------
    folder : Path
        Root of the data set; links inside it are followed.
    text : object
        What stands in the JSON.
    """
    if not isinstance(text, str) or not text.strip():
        return f"expected a file name, found {str(text)[:80]!r}"
    if _CONTROL.search(text):
        return f"the file name {text[:80]!r} holds control characters"
    base = os.path.abspath(folder)
    found = Path(os.path.normpath(os.path.join(base, text)))
    if not found.is_relative_to(base) or found == Path(base):
        return f"the file name {text[:200]!r} leads out of {folder}; only files inside the data set are taken"
    return found


def _depth(text: str) -> int:
    level = deepest = 0
    for match in _TOKEN.finditer(text):
        token = match.group()
        if token in "[{":
            level += 1
            deepest = max(deepest, level)
        elif token in "]}":
            level -= 1
    return deepest


def _no_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"the key {key[:80]!r} stands twice in one object")
        found[key] = value
    return found


def _no_constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is no JSON number")
