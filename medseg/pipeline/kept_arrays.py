"""Arrays of a case that are kept in the cache of a run, with a key of all that they depend on."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from medseg.privacy import safe_name
from medseg.provenance import whole_file

Arrays = Mapping[str, NDArray[Any]]
MadeT = TypeVar("MadeT")


def read_arrays(
    folder: Path, case_id: str, key: str, make: Callable[[Arrays, Mapping[str, Any]], MadeT]
) -> MadeT | None:
    """What `make` makes of the arrays and facts that were written with this key.

    None where there are none, or they are damaged: they can be made again.
    """
    path = _path(folder, case_id)
    if not path.is_file():
        return None
    try:
        # numpy leaves a damaged file open that it opened itself.
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as stored:
            said = json.loads(bytes(stored["said"]))
            return make(stored, said) if said["key"] == key else None
    except (ValueError, KeyError, OSError, EOFError, zipfile.BadZipFile):
        return None


def write_arrays(folder: Path, case_id: str, key: str, arrays: Arrays, facts: Mapping[str, Any]) -> None:
    """Keep arrays and facts (JSON values) of a case, whole or not at all."""
    said = np.frombuffer(json.dumps({**facts, "key": key}).encode(), dtype=np.uint8)
    with whole_file(_path(folder, case_id)) as part, part.open("wb") as stream:
        np.savez_compressed(stream, said=said, **arrays)  # type: ignore[arg-type]


def _path(folder: Path, case_id: str) -> Path:
    return folder / f"{safe_name(case_id)}.npz"
