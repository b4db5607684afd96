"""How values are shown to people: ages, moments, sizes, states."""

from __future__ import annotations

from datetime import UTC, datetime
from functools import cache

from jinja2 import Environment, PackageLoader, StrictUndefined

from medseg.amounts import bytes_text

STATE_NAMES = {"given_up": "given up", "let_go": "let go", "asked": "at work"}
STATE_COLOURS = {
    "queued": "note",
    "running": "run",
    "done": "pass",
    "held": "review",
    "failed": "fail",
    "given_up": "fail",
    "waiting": "note",
    "sending": "run",
    "sent": "pass",
    "committed": "pass",
    "receiving": "run",
    "settled": "pass",
    "claiming": "note",
    "claimed": "run",
    "asked": "run",
    "finishing": "run",
    "completed": "pass",
    "canceled": "fail",
}
ACTION_NAMES = {
    "release": "Release",
    "hold": "Hold",
    "retry": "Retry",
    "repeat": "Run again",
    "cancel": "Cancel",
}
ACTION_HINTS = {
    "release": "Let its results go to the archives.",
    "hold": "Stop what was not sent yet.",
    "retry": "Try again from the first attempt.",
    "repeat": "Make a new job of the same series and model.",
    "cancel": "Stop it; nothing of it is sent.",
}


@cache
def environment() -> Environment:
    """Templates that escape whatever they show."""
    pages = Environment(
        loader=PackageLoader("medseg.node.web", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    pages.filters |= {
        "ago": span_text,
        "moment": moment,
        "machine_time": machine_time,
        "bytes": size_text,
        "state_name": state_name,
        "colour": lambda state: STATE_COLOURS.get(state, "none"),
    }
    pages.globals |= {"action_names": ACTION_NAMES, "action_hints": ACTION_HINTS}
    return pages


def state_name(state: str) -> str:
    """A state in words."""
    return STATE_NAMES.get(state, state)


def span_text(seconds: float) -> str:
    """A span of time with one unit: `12 s`, `5 min`, `3 h`, `9 d`."""
    seconds = max(0.0, seconds)
    for unit, size, most in (("s", 1, 90), ("min", 60, 90), ("h", 3600, 48)):
        if seconds < most * size:
            return f"{int(seconds // size)} {unit}"
    return f"{int(seconds // 86400)} d"


def size_text(count: float) -> str:
    """A size with a unit that leaves digits to read."""
    if count < 1000:
        return f"{int(count)} B"
    return f"{count / 1000:.0f} kB" if count < 10**6 else bytes_text(count)


def moment(seconds: float) -> str:
    """A point in time for people, with its zone."""
    return _utc(seconds).strftime("%Y-%m-%d %H:%M:%S UTC")


def machine_time(seconds: float) -> str:
    """A point in time for the `datetime` of a `time` element."""
    return _utc(seconds).isoformat(timespec="seconds")


def _utc(seconds: float) -> datetime:
    try:
        return datetime.fromtimestamp(seconds, UTC)
    except (OverflowError, OSError, ValueError):
        return datetime.fromtimestamp(0, UTC)
