"""Words of the stress page, from the catalogues of texts, by keys that begin with `stress.`."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

from medseg.report.language import Language, text

_KEY = "stress."
_NAME = "stress.name."


@cache
def texts(language: Language) -> Mapping[str, str]:
    """Texts by key, without its beginning."""
    return {key.removeprefix(_KEY): words for key, words in text(language).items() if key.startswith(_KEY)}


def word(language: Language, name: str) -> str:
    """Name of a test, a unit or a verdict; any other name with blanks for underscores."""
    return texts(language).get(f"{_NAME}{name}".removeprefix(_KEY), name.replace("_", " "))
