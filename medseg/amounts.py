"""Amounts with units as settings write them: times such as `30min`, memory such as `8GB`."""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

_SECONDS = {"s": 1, "sec": 1, "min": 60, "m": 60, "h": 3600, "d": 86400}
_BYTES = {
    "B": 1,
    "kB": 10**3,
    "KB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "TB": 10**12,
    "KiB": 2**10,
    "MiB": 2**20,
    "GiB": 2**30,
    "TiB": 2**40,
}
_PART = re.compile(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([A-Za-z]+)")


def parse_seconds(text: str) -> float:
    """Seconds of a time such as ``90s``, ``30min``, ``1.5h`` or ``1h 30min``.

    Raises
    ------
    ValueError
        Anything else; the message says what is expected.
    """
    return _total(text, _SECONDS, "a time such as 90s, 30min or 1h 30min")


def parse_bytes(text: str) -> int:
    """Bytes of a size such as ``512MB``, ``8GB`` (powers of ten) or ``8GiB`` (powers of two).

    Raises
    ------
    ValueError
        Anything else; the message says what is expected.
    """
    return round(_total(text, _BYTES, "a size such as 512MB, 8GB or 8GiB"))


def time_text(seconds: float) -> str:
    """A time for people: ``45 s``, ``12 min``, ``1 h 30 min``."""
    if seconds < 100:
        return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60:02d} min"


def bytes_text(count: float) -> str:
    """A size for people: ``52 kB``, ``640 MB``, ``2.1 GB``."""
    if abs(count) < 1e6:
        return f"{count / 1e3:.0f} kB"
    return f"{count / 1e6:.0f} MB" if count < 1e9 else f"{count / 1e9:.1f} GB"


def counted(count: int, noun: str) -> str:
    """A number with its noun: ``1 file``, ``3 files``."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def _total(text: str, units: dict[str, int], expected: str) -> float:
    total, place = 0.0, 0
    while match := _PART.match(text, place):
        if match[2] not in units:
            raise ValueError(f"expected {expected}, found {text!r}")
        total += float(match[1]) * units[match[2]]
        place = match.end()
    if place == 0 or text[place:].strip():
        raise ValueError(f"expected {expected}, found {text!r}")
    return total


def _seconds(value: Any) -> Any:
    return parse_seconds(value) if isinstance(value, str) else value


def _bytes(value: Any) -> Any:
    return parse_bytes(value) if isinstance(value, str) else value


Duration = Annotated[
    float,
    BeforeValidator(_seconds, json_schema_input_type=float | str),
    Field(gt=0, allow_inf_nan=False),
]
"""A time in seconds; settings may write it with a unit."""

Wait = Annotated[
    float,
    BeforeValidator(_seconds, json_schema_input_type=float | str),
    Field(ge=0, allow_inf_nan=False),
]
"""As `Duration`; 0 is no wait."""

MemorySize = Annotated[int, BeforeValidator(_bytes, json_schema_input_type=int | str), Field(gt=0)]
"""A size in bytes; settings may write it with a unit."""
