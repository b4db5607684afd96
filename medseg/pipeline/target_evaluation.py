"""Recognised targets against those of the reference: the part of the stage `evaluate` that counts them one by one."""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray

from medseg.data.manifest import Case
from medseg.data.tables import write_csv
from medseg.evaluation.detect_case import detect_case
from medseg.evaluation.detection import DetectionSummary, Rate, summarise_detection
from medseg.evaluation.detection_records import COLUMNS, CaseDetection
from medseg.evaluation.image_facts import ImageFacts
from medseg.pipeline import case_files
from medseg.pipeline.context import Context
from medseg.pipeline.recognition import confidences_of
from medseg.provenance import write_json
from medseg.volume import Volume

SUMMARY = "detection_summary.json"


class TargetEvaluation:
    """Cases as they come, and the files once all are there; does nothing where the settings ask for nothing.

    Parameters
    ----------
    context : Context
    """

    def __init__(self, context: Context) -> None:
        self._context = context
        self._recognise, self._options = context.config.recognise, context.config.evaluation.detection
        self._cases: list[CaseDetection] = []

    def add(self, case: Case, volume: Volume, prediction: NDArray[Any], reference: NDArray[Any]) -> None:
        """Match the targets of a case."""
        if self._recognise is None or self._options is None:
            return
        record = case_files.read_record(self._context.run.case_folder(case.case_id)) or {}
        self._cases.append(
            detect_case(
                prediction,
                reference,
                ImageFacts.of(volume),
                table=self._context.table,
                recognise=self._recognise,
                options=self._options,
                case_id=case.case_id,
                patient_id=case.patient_id,
                confidences=confidences_of(record),
            )
        )

    def finish(self) -> str:
        """Write evaluation/detection.csv, detection.json, detection_summary.csv and .json; show the table.

        Returns
        -------
        str
            For the line of the stage; "" where nothing was asked for.
        """
        if self._options is None or not self._cases:
            return ""
        chosen = self._context.config.evaluation
        summary = summarise_detection(
            self._cases, self._options, samples=chosen.samples, level=chosen.level, seed=chosen.seed
        )
        folder = self._context.run.path / "evaluation"
        write_csv(
            folder / "detection.csv", [row for case in self._cases for row in case.rows()], columns=COLUMNS
        )
        write_json(folder / "detection.json", [case.to_json() for case in self._cases])
        write_csv(folder / "detection_summary.csv", summary.rows())
        write_json(folder / SUMMARY, summary.to_json())
        self._show(summary)
        found = sum(s.found for s in summary.structures.values())
        missed, invented = len(summary.missed), len(summary.invented)
        return f"; targets: {found} found, {missed} missed, {invented} invented"

    def _show(self, summary: DetectionSummary) -> None:
        columns = ["targets", "reference", "found", "missed", "invented", f"F1 ({summary.level:.0%})", "PQ"]
        rows = [
            (
                name,
                *(str(n) for n in (s.references, s.found, s.missed, s.invented)),
                _cell(s.rates["f1"]),
                _cell(s.rates["pq"]),
            )
            for name, s in summary.structures.items()
        ]
        self._context.reporter.table("", columns, rows)


def _cell(rate: Rate) -> str:
    if rate.value is None:
        return "not defined"
    if rate.interval is None:
        return f"{rate.value:.3f}"
    low, high = rate.interval
    return f"{rate.value:.3f} ({low:.3f}-{high:.3f})"
