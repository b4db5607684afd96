"""The numbers of a cohort as flat tables: cases, measurements, flags, agreement, targets."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from medseg.evaluation.instance_records import instance_row
from medseg.evaluation.rows import Cell
from medseg.report.cohort_series import case_numbers, evaluated, lowest
from medseg.report.page import CaseReport, CohortReport

Row = dict[str, Cell]


def run_tables(report: CohortReport) -> dict[str, list[Row]]:
    """Rows by name of the table; a table without rows is left out.

    cases : one row for each case, its verdict, numbers of flags and sizes side by side.
    measurements : case, structure, measure, value, unit, bound, reason, note.
    flags : case, code, level, structure, text, measured, limit, advice.
    agreement : case, structure, state, metric, value, unit, worst_case, reason, counts of voxels.
    targets : what instances.csv of each case says, where targets were recognised.
    """
    tables: dict[str, list[Row]] = {
        "cases": [case_row(case) for case in report.ordered],
        "measurements": [row for row in long_rows(report) if row["kind"] != "agreement"],
        "flags": [row for case in report.ordered for row in _flag_rows(case)],
        "agreement": [row for case in report.ordered for row in _agreement_rows(case)],
        "targets": [row for case in report.ordered for row in _target_rows(case)],
    }
    return {name: rows for name, rows in tables.items() if rows}


def case_row(case: CaseReport) -> Row:
    """One case: what it is, its verdict, flags by level, sizes and ratios, lowest Dice."""
    record = case.record
    levels = [flag["level"] for flag in record["flags"]]
    row: Row = {
        "case_id": case.case_id,
        "patient": case.patient,
        "split": case.split,
        "verdict": case.verdict,
        "codes": " ".join(sorted({flag["code"] for flag in record["flags"]})),
        **{level: levels.count(level) for level in ("fail", "review", "note")},
        "modality": record["image"]["modality"],
        "shape": " ".join(map(str, record["image"]["shape"])),
        "spacing_mm": " ".join(f"{step:g}" for step in record["image"]["spacing_mm"] or ()),
        "gate": record["gate"]["level"],
        "model": record["model"]["name"],
        "model_version": record["model"]["version"],
    }
    for kind, structure, measure, unit, number in case_numbers(case):
        if kind == "measurement":
            name = f"{structure} {measure}".strip()
            row[name] = number.value
            row[f"{name} unit"] = unit
    least = lowest(case)
    if least is not None:
        row |= {"lowest_dice": least[1], "lowest_dice_structure": least[0]}
    return row


def long_rows(report: CohortReport) -> list[Row]:
    """Every number of every case, one a row."""
    return [
        {
            "case_id": case.case_id,
            "split": case.split,
            "verdict": case.verdict,
            "kind": kind,
            "structure": structure,
            "measure": measure,
            "value": number.value,
            "unit": unit,
            "bound": number.bound if kind == "measurement" else "",
            "reason": number.reason,
            "note": number.note,
        }
        for case in report.ordered
        for kind, structure, measure, unit, number in case_numbers(case)
    ]


def _flag_rows(case: CaseReport) -> Iterator[Row]:
    for flag in case.record["flags"]:
        yield {"case_id": case.case_id, **{key: _cell(value) for key, value in flag.items()}}


def _agreement_rows(case: CaseReport) -> Iterator[Row]:
    for structure, item in evaluated(case).items():
        for metric, value in item["metrics"].items():
            yield {
                "case_id": case.case_id,
                "patient": case.patient,
                "structure": structure,
                "state": item["state"],
                "metric": metric,
                **{key: value[key] for key in ("value", "unit", "worst_case", "reason")},
                **{key: item["counts"][key] for key in ("tp", "fp", "fn", "tn", "unknown")},
            }


def _target_rows(case: CaseReport) -> Iterator[Row]:
    for target in (case.record.get("instances") or {}).get("instances", ()):
        yield {"case_id": case.case_id, **instance_row(target)}


def _cell(value: Any) -> Cell:
    return value if value is None or isinstance(value, str | int | float) else str(value)
