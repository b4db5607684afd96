"""Words of the stress page, from the catalogues of texts, by keys that begin with `stress.`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from importlib import resources
from typing import Literal

Language = Literal["en", "zh"]
_KEY = "stress."
_NAME = "stress.name."


@cache
def texts(language: Language) -> Mapping[str, str]:
    """Texts by key, without its beginning."""
    path = resources.files("medseg.report") / "language" / language / "stress.json"
    found: dict[str, str] = json.loads(path.read_text(encoding="utf-8"))
    return {key.removeprefix(_KEY): text for key, text in found.items()}


def word(language: Language, name: str) -> str:
    """Name of a test, a unit or a verdict; any other name with blanks for underscores."""
    return texts(language).get(f"{_NAME}{name}".removeprefix(_KEY), name.replace("_", " "))
