"""Earlier examinations of the same patient, and sizes of other cases, read from results that were written before."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medseg.errors import ConfigError
from medseg.pipeline import case_files
from medseg.report.case_data import LEAST_COHORT, Previous
from medseg.report.language import days_between

__all__ = ["FACTS", "LEAST_COHORT", "Earlier", "Examination", "read_results", "read_sizes", "whole_sizes"]

FACTS = "report.json"
"""Beside measurements.json: pseudonym of the patient and date of the examination."""
_SIZES = {"volume": "ml", "area": "mm2"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Examination:
    """Where the result of an examination lies; `patient` is a pseudonym, both it and `date` may be ""."""

    case_id: str
    patient: str
    date: str
    folder: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Earlier:
    """Examinations that a case may be compared with.

    Parameters
    ----------
    given : sequence of Examination
        Of the folder that the settings name.
    own : sequence of Examination
        Of this run.
    """

    given: Sequence[Examination]
    own: Sequence[Examination]

    def before(self, case_id: str, patient: str, date: str) -> Previous | None:
        """The latest earlier examination of the patient, or that of the same name where patients are not known."""
        if self.given:
            same = [e for e in self.given if patient and e.patient == patient]
            found = _latest(same, date) if same else None
            if found is None:
                found = next((e for e in self.given if not e.patient and e.case_id == case_id), None)
            if found is None:
                # Without dates, a folder that the user calls previous is taken at its word.
                found = next((e for e in same if not e.date or not date), None)
            return None if found is None else _previous(found)
        others = [e for e in self.own if e.case_id != case_id and patient and e.patient == patient]
        found = _latest(others, date)
        return None if found is None else _previous(found)


def _latest(found: Sequence[Examination], date: str) -> Examination | None:
    """The latest of those that are surely earlier."""
    gaps = [(days, e) for e in found if (days := days_between(e.date, date)) is not None and days > 0]
    return min(gaps, key=lambda item: (item[0], item[1].case_id))[1] if gaps else None


def _previous(found: Examination) -> Previous | None:
    record = case_files.read_record(found.folder)
    return None if record is None else Previous(case_id=found.case_id, date=found.date, record=record)


def read_results(folder: Path) -> tuple[Examination, ...]:
    """Examinations of a run, or of an output folder of `medseg predict`.

    Raises
    ------
    ConfigError
        The folder is not there, or holds no results.
    """
    root = folder / "cases" if (folder / "cases").is_dir() else folder
    found = []
    for path in sorted(root.iterdir()) if root.is_dir() else ():
        record = case_files.read_record(path) if path.is_dir() else None
        if record is not None:
            facts = _facts(path / FACTS)
            found.append(
                Examination(
                    case_id=str(record["case_id"]),
                    patient=str(facts.get("patient", "")),
                    date=str(facts.get("date", "")),
                    folder=path,
                )
            )
    if not found:
        raise ConfigError(
            f"report.previous: {folder} holds no results (measurements.json in a folder for each case); "
            "name a run, or the output of medseg predict"
        )
    return tuple(found)


def _facts(path: Path) -> Mapping[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        # A result without the page of its case is compared by name.
        return {}
    return value if isinstance(value, dict) else {}


def whole_sizes(records: Iterable[Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """Structure -> case -> volume (ml) or area (mm2), of structures that are not cut off."""
    found: dict[str, dict[str, float]] = {}
    for record in records:
        for name, item in record["measurements"]["structures"].items():
            for measure, unit in _SIZES.items():
                q = item["quantities"].get(measure)
                if q and q["value"] is not None and q["unit"] == unit and q["bound"] == "exact":
                    found.setdefault(name, {})[str(record["case_id"])] = float(q["value"])
    return found


def read_sizes(path: Path) -> tuple[dict[str, list[float]], int]:
    """Sizes by structure of a measurements.csv, cut-off ones left out, and the number of its cases.

    Raises
    ------
    ConfigError
        There is no such table, or it lacks a column.
    """
    needed = ("case_id", "structure", "measure", "value", "unit", "bound")
    try:
        with path.open(encoding="utf-8", newline="") as stream:
            reader = csv.DictReader(stream)
            missing = [name for name in needed if name not in (reader.fieldnames or ())]
            rows = [] if missing else list(reader)
    except (OSError, UnicodeDecodeError) as err:
        raise ConfigError(f"report.normal_values: {path} cannot be read: {err}") from err
    if missing:
        raise ConfigError(f"report.normal_values: {path} lacks the columns {', '.join(missing)}")
    values: dict[str, list[float]] = {}
    for row in rows:
        if _SIZES.get(row["measure"]) == row["unit"] and row["bound"] == "exact" and row["value"]:
            try:
                values.setdefault(row["structure"], []).append(float(row["value"]))
            except ValueError as err:
                raise ConfigError(
                    f"report.normal_values: {path} has the value {row['value']!r}, expected a number"
                ) from err
    return values, len({row["case_id"] for row in rows})
