"""What a cohort ends with: predictions.json, measurements.csv, and the sentences of the command."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from medseg.data.tables import csv_text
from medseg.errors import InputError, MedsegError
from medseg.export.options import TARGET_FILES
from medseg.io.walk import Skipped
from medseg.models.bundle import Bundle
from medseg.pipeline import case_files, recognition
from medseg.pipeline.cohort_case import CaseOutcome
from medseg.pipeline.cohort_settings import CohortSettings
from medseg.pipeline.result import Result
from medseg.provenance import versions, write_json, write_text

PREDICTIONS = "predictions.json"
COCO = TARGET_FILES["coco"]
_SHOWN = 10
_FAILURES_SHOWN = 50


def write_cohort(
    settings: CohortSettings,
    outcomes: Sequence[CaseOutcome],
    *,
    skipped: Sequence[Skipped],
    bundle: Bundle,
    seconds: float,
) -> Result:
    """Write the tables of a cohort; how the command ends.

    Parameters
    ----------
    settings : CohortSettings
    outcomes : sequence of CaseOutcome
        One for each case, in the order of the table.
    skipped : sequence of Skipped
        Files that are no cases.
    bundle : Bundle
    seconds : float
        That the cases took.

    Returns
    -------
    Result
        Exit code 1 where some cases failed; where all did, that of their errors if it is one, else 3.
    """
    output = settings.output
    _write_measurements(output, outcomes)
    tables = set() if settings.recognise is None else _write_targets(settings, outcomes)
    for name in sorted(_earlier_tables(output) - tables):
        (output / name).unlink(missing_ok=True)
    engine = _engine(output, outcomes)
    value = {
        "format": 1,
        "model": bundle.facts,
        **({} if engine is None else {"engine": engine}),
        "versions": versions(),
        "seconds": round(seconds, 3),
        **({"tables": sorted(tables)} if tables else {}),
        "cases": [outcome.to_json() for outcome in outcomes],
        "skipped": [{"file": item.path.name, "reason": item.reason} for item in skipped],
    }
    write_json(output / PREDICTIONS, value)
    failed = [outcome for outcome in outcomes if outcome.state == "failed"]
    lines = (*_skipped_lines(skipped), *_failed_lines(failed, len(outcomes)), *_engine_lines(engine))
    return Result(exit_code=_exit_code(failed, len(outcomes)), path=output, lines=lines, facts=value)


def _engine(output: Path, outcomes: Sequence[CaseOutcome]) -> dict[str, Any] | None:
    """What ran the networks, as the last case that was segmented tells."""
    done = [outcome for outcome in outcomes if outcome.state != "failed"]
    record = case_files.read_record(output / done[-1].folder) if done else None
    found: dict[str, Any] | None = None if record is None else record.get("engine")
    return found


def _engine_lines(engine: dict[str, Any] | None) -> Iterator[str]:
    """What runs the networks and why; nothing where that is torch as set."""
    if engine is not None and engine["asked"] != "torch":
        for choice in engine["choices"]:
            yield f"engine {choice['engine']}: {choice['because']}"


def _write_measurements(output: Path, outcomes: Sequence[CaseOutcome]) -> None:
    """One row a case. The records are read twice, so that those of thousands of cases are not held at once."""
    columns = list(dict.fromkeys(name for row in _rows(output, outcomes) for name in row))
    cells = ([row.get(name) for name in columns] for row in _rows(output, outcomes))
    write_text(output / "measurements.csv", csv_text(columns, cells))


def _earlier_tables(output: Path) -> set[str]:
    """Those that an earlier command wrote here, and no file of somebody else's."""
    try:
        said = json.loads((output / PREDICTIONS).read_text(encoding="utf-8")).get("tables", ())
        return set(said) & {recognition.INSTANCES, recognition.INSTANCES_JSON, COCO}
    except (OSError, ValueError, AttributeError, TypeError):
        return set()


def _write_targets(settings: CohortSettings, outcomes: Sequence[CaseOutcome]) -> set[str]:
    """The recognised targets of all images in one table, and in one COCO file; the names of the files."""
    output = settings.output
    folders = [output / outcome.folder for outcome in outcomes if outcome.state != "failed"]
    recognition.write_tables(output, (case_files.read_record(folder) or {} for folder in folders))
    tables = {recognition.INSTANCES, recognition.INSTANCES_JSON}
    paths = [folder / COCO for folder in folders if (folder / COCO).exists()]
    if "coco" not in settings.kinds or not paths:
        return tables
    recognition.join_coco_files(paths, output / COCO)
    return tables | {COCO}


def _rows(output: Path, outcomes: Sequence[CaseOutcome]) -> Iterator[dict[str, Any]]:
    for outcome in outcomes:
        row: dict[str, Any] = {
            "case_id": outcome.case_id,
            "verdict": outcome.verdict or "failed",
            "error": outcome.error,
        }
        record = None if outcome.state == "failed" else case_files.read_record(output / outcome.folder)
        yield row | _measured({} if record is None else record["measurements"])


def _measured(measurements: dict[str, Any]) -> dict[str, Any]:
    row: dict[str, Any] = {}
    for name, structure in measurements.get("structures", {}).items():
        for measure, quantity in structure["quantities"].items():
            row[f"{name} {measure}"] = quantity["value"]
            row[f"{name} {measure} unit"] = quantity["unit"]
        # Ends of the interval of the size, such as volume_ml_low, and its level.
        ends = [key for key in structure if key.endswith(("_low", "_high")) or key == "interval"]
        row |= {f"{name} {key}": structure[key] for key in ends}
    for name, quantity in measurements.get("ratios", {}).items():
        row[name] = quantity["value"]
    return row


def _skipped_lines(skipped: Sequence[Skipped]) -> Iterator[str]:
    for item in skipped[:_SHOWN]:
        yield f"left out {item.path.name}: {item.reason}"
    if len(skipped) > _SHOWN:
        yield f"left out {len(skipped) - _SHOWN} more files, listed in predictions.json"


def _failed_lines(failed: Sequence[CaseOutcome], count: int) -> Iterator[str]:
    if failed:
        yield f"{len(failed)} of {count} images failed:"
    for outcome in failed[:_FAILURES_SHOWN]:
        yield f"  {outcome.case_id}: {outcome.error}"
    if len(failed) > _FAILURES_SHOWN:
        yield f"  and {len(failed) - _FAILURES_SHOWN} more, listed in predictions.json"


def _exit_code(failed: Sequence[CaseOutcome], count: int) -> int:
    if not failed:
        return 0
    if len(failed) < count:
        return MedsegError.exit_code
    codes = {outcome.exit_code for outcome in failed}
    return codes.pop() if len(codes) == 1 else InputError.exit_code
