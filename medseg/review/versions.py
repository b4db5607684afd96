"""Versions of a manifest: written beside each other, never over one another, each with its parent's digest.

Version N is masks-vN/ (the labels that are new in it), manifest-vN.csv and, written last, its record
manifest-vN.json. A number whose record is missing was begun and not finished: it is neither used nor written again.
Version 0 is the list that the results come from, as it was.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medseg.data.manifest import Case, manifest_error, read_manifest, write_manifest
from medseg.data.splits import patients_in_several
from medseg.errors import StorageError
from medseg.provenance import sha256_file, write_json

SCHEMA = "medseg.manifest-version/1"
_NUMBER = re.compile(r"(?:manifest|masks|fine_tune)-v([0-9]{1,6})(?:\.[a-z]+)?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Version:
    """A finished version."""

    number: int
    manifest: Path
    record: dict[str, Any]

    def rows(self) -> tuple[Case, ...]:
        """Its cases; files that are gone are found by the run that uses them.

        Raises
        ------
        StorageError
            The manifest is not the one that the record was written for.
        """
        if sha256_file(self.manifest) != self.record["manifest"]["sha256"]:
            raise StorageError(
                f"{self.manifest} was changed after it was written; keep versions as they are, and name a list of your "
                "own with --manifest and another --output"
            )
        return read_manifest(self.manifest, check_files=False)


def manifest_path(folder: Path, number: int) -> Path:
    """The CSV of a version."""
    return folder / f"manifest-v{number}.csv"


def masks_path(folder: Path, number: int) -> Path:
    """The folder of the labels that are new in a version."""
    return folder / f"masks-v{number}"


def latest_version(folder: Path) -> Version | None:
    """The finished version with the highest number, None where there is none.

    Raises
    ------
    StorageError
        Its record is damaged, or its manifest is gone.
    """
    numbers = [n for n in _numbers(folder) if _record_path(folder, n).is_file()]
    if not numbers:
        return None
    number = max(numbers)
    path = _record_path(folder, number)
    try:
        record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if record["schema"] != SCHEMA or not manifest_path(folder, number).is_file():
            raise ValueError(f"expected a record of {SCHEMA} with its manifest beside it")
        str(record["manifest"]["sha256"])
    except (OSError, ValueError, KeyError, TypeError) as err:
        raise StorageError(
            f"{path} cannot be read: {err}; move it away, and the version before it is used"
        ) from err
    return Version(number=number, manifest=manifest_path(folder, number), record=record)


def next_number(folder: Path) -> int:
    """A number that no file of the folder has, from 1."""
    return max(_numbers(folder), default=0) + 1


def write_version(folder: Path, number: int, rows: Sequence[Case], record: dict[str, Any]) -> Version:
    """Write the manifest and then the record of a version; its masks are there already.

    Raises
    ------
    ManifestError
        A case id that stands twice, or a patient in several splits or folds.
    StorageError
        A file cannot be written, or the version exists.
    """
    path = manifest_path(folder, number)
    if path.exists() or _record_path(folder, number).exists():
        raise StorageError(f"{path} exists; versions are never written over")
    _check(rows)
    write_manifest(path, rows)
    whole = {
        "schema": SCHEMA,
        "version": number,
        "manifest": {"file": path.name, "sha256": sha256_file(path), "cases": len(rows)},
        **record,
    }
    write_json(_record_path(folder, number), whole)
    return Version(number=number, manifest=path, record=whole)


def _check(rows: Sequence[Case]) -> None:
    """What would be found only when somebody trains on it."""
    ids = [row.case_id for row in rows]
    problems = [f"the case id {i} stands twice" for i in sorted({i for i in ids if ids.count(i) > 1})]
    for parts in (
        {r.case_id: r.split for r in rows if r.split},
        {r.case_id: r.fold for r in rows if r.fold is not None},
    ):
        torn = patients_in_several(rows, parts)
        problems += [f"patient {p} is in {', '.join(names)}" for p, names in sorted(torn.items())]
    if problems:
        raise manifest_error("the new list of cases", problems)


def _record_path(folder: Path, number: int) -> Path:
    return folder / f"manifest-v{number}.json"


def _numbers(folder: Path) -> list[int]:
    found = (_NUMBER.fullmatch(path.name) for path in folder.iterdir()) if folder.is_dir() else ()
    return [int(match[1]) for match in found if match is not None]
