"""The error of a validator that found settings which do not go together. Imports nothing heavy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

from pydantic_core import PydanticCustomError

CONFLICT = "settings_conflict"
Place: TypeAlias = tuple[str | int, ...]


def conflict(pairs: Sequence[tuple[Place, str]]) -> PydanticCustomError:
    """The error of a validator that found settings which do not go together.

    Parameters
    ----------
    pairs : sequence of (path, sentence)
        Each names the setting to change, from the model that is validated.
    """
    text = "; ".join(f"{'.'.join(str(part) for part in path)}: {sentence}" for path, sentence in pairs)
    return PydanticCustomError(CONFLICT, "{text}", {"text": text, "pairs": tuple(pairs)})
