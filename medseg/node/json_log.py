"""The log of a node: a line of JSON for each message, without what other packages may say about patients."""

from __future__ import annotations

import json
import logging
import traceback
from datetime import UTC, datetime
from typing import Literal

LogFormat = Literal["json", "text"]
_OURS = "medseg"
_HIDDEN = "not shown; it may name a patient"


def log_to_stderr(form: LogFormat) -> None:
    """From now on, messages of level INFO and above go to stderr; of other packages errors alone."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonLines() if form == "json" else TextLines())
    logging.basicConfig(level=logging.ERROR, handlers=[handler], force=True)
    logging.getLogger(_OURS).setLevel(logging.INFO)
    logging.captureWarnings(True)


class JsonLines(logging.Formatter):
    """One JSON table for each record, in ASCII, so that no text ends its line."""

    def format(self, record: logging.LogRecord) -> str:
        """The line of a record."""
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": _message(record),
        }
        if record.exc_info:
            line["error"] = _where(record)
        return json.dumps(line, ensure_ascii=True)


class TextLines(logging.Formatter):
    """The same for people."""

    def format(self, record: logging.LogRecord) -> str:
        """The line of a record."""
        time = datetime.fromtimestamp(record.created, UTC).strftime("%Y-%m-%d %H:%M:%S")
        error = f" ({_where(record)})" if record.exc_info else ""
        text = f"{time} {record.levelname:<7} {record.name}: {_message(record)}{error}"
        shown = text.encode("ascii", "backslashreplace").decode()
        return "".join(char if char.isprintable() else repr(char)[1:-1] for char in shown)


def _message(record: logging.LogRecord) -> str:
    """What was said; other packages put values of the data into their messages, so only their names are told."""
    ours = record.name == _OURS or record.name.startswith(f"{_OURS}.")
    return record.getMessage() if ours else _HIDDEN


def _where(record: logging.LogRecord) -> str:
    """Kind and places of an error; its text and the values in it are left out."""
    if not record.exc_info or record.exc_info[1] is None:
        return ""
    error = record.exc_info[1]
    frames = traceback.extract_tb(error.__traceback__)[-8:]
    return f"{type(error).__name__} at " + " > ".join(
        f"{frame.filename.rsplit('/', 1)[-1]}:{frame.lineno}" for frame in frames
    )
