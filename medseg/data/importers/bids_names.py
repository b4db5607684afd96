"""BIDS: names made of entities, and tables with tabs."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from medseg.data.importers.file_names import NIFTI_ENDINGS, ending_of
from medseg.data.importers.json_file import read_text
from medseg.errors import ManifestError

#: Entities that say how a file was derived, not which image it was derived from.
DERIVED = frozenset({"space", "desc", "label", "res", "den", "seg", "atlas", "cohort", "from", "to", "mode"})
MAX_TABLE_BYTES = 16 << 20
_ENTITY = re.compile(r"([a-zA-Z0-9]+)-(.+)", re.DOTALL)


@dataclass(frozen=True, slots=True, kw_only=True)
class BidsFile:
    """A NIfTI file of a BIDS tree by its name.

    Parameters
    ----------
    path : Path
    entities : mapping of str to str
        `sub-01_ses-2_T1w` -> sub 01, ses 2.
    words : tuple of str
        The parts that are no entities, in their order; the last is the suffix.
    """

    path: Path
    entities: Mapping[str, str]
    words: tuple[str, ...]

    @property
    def suffix(self) -> str:
        """The last part of the name, such as T1w or dseg."""
        return self.words[-1] if self.words else ""

    @property
    def source(self) -> dict[str, str]:
        """The entities that name the image that the file was derived from."""
        return {key: value for key, value in self.entities.items() if key not in DERIVED}


def bids_file(path: Path) -> BidsFile | None:
    """The parts of a file name; None for what is no NIfTI file of a subject."""
    ending = ending_of(path.name, NIFTI_ENDINGS)
    if ending is None or not path.name.startswith("sub-"):
        return None
    entities, words = name_parts(path.name[: -len(ending)])
    return BidsFile(path=path, entities=entities, words=words)


def name_parts(stem: str) -> tuple[dict[str, str], tuple[str, ...]]:
    """Entities and words of a name without ending; of an entity that stands twice the first counts."""
    entities: dict[str, str] = {}
    words = []
    for part in stem.split("_"):
        match = _ENTITY.fullmatch(part)
        if match is not None:
            entities.setdefault(match[1], match[2])
        elif part:
            words.append(part)
    return entities, tuple(words)


def read_tsv(path: Path) -> list[dict[str, str]]:
    """The rows of a table with tabs and one header line, column -> cell; `n/a` becomes empty.

    Raises
    ------
    ManifestError
        The file is larger than 16 MiB, not UTF-8, names a column twice, or a row has another number
        of cells.
    """
    text = read_text(path, max_bytes=MAX_TABLE_BYTES)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter="\t", quoting=csv.QUOTE_NONE)
    try:
        lines = [[cell.strip() for cell in line] for line in reader if any(cell.strip() for cell in line)]
    except csv.Error as err:
        raise ManifestError(f"{path}: line {reader.line_num} cannot be read: {err}") from err
    if not lines:
        return []
    header = lines[0]
    if len(set(header)) < len(header) or not all(header):
        raise ManifestError(f"{path}: the header must name each column once, found {', '.join(header)[:200]}")
    uneven = next((n for n, line in enumerate(lines) if len(line) != len(header)), None)
    if uneven is not None:
        raise ManifestError(
            f"{path}: row {uneven} has {len(lines[uneven])} cells, the header has {len(header)}; "
            "cells are separated by tabs"
        )
    return [dict(zip(header, ("" if c == "n/a" else c for c in line), strict=True)) for line in lines[1:]]
