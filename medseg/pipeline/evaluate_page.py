"""The page of two folders of masks: agreement, and the flags that masks tell without their images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from medseg import __version__
from medseg.evaluation.cases import CaseEvaluation
from medseg.evaluation.measure import measure_case
from medseg.labels import LabelTable
from medseg.pipeline.mask_pairs import MaskFiles
from medseg.pipeline.named_masks import MatchedMasks
from medseg.pipeline.report import PAGE, structures_of
from medseg.privacy import pseudonym, without_folders
from medseg.provenance import sha256_json, versions, write_text
from medseg.quality.flag import ResultFacts
from medseg.quality.flags import judge_result
from medseg.quality.options import FlagOptions
from medseg.report.cohort import render
from medseg.report.cohort_text import words
from medseg.report.language import Language
from medseg.report.page import Card, CaseReport, CohortReport, Refusal, Structure

_NOT_ABOUT_MASKS = ("Q102", "Q401", "Q402", "Q403")
"""Checks of the image and of the network, which are not here."""


def mask_record(files: MaskFiles, masks: MatchedMasks, evaluation: CaseEvaluation) -> dict[str, Any]:
    """Sizes and flags of one predicted mask, in the form of a case's measurements.json."""
    grid = masks.grid
    place: Any = {"affine": grid.affine, "patient_orientation": grid.patient_orientation}
    measures = measure_case(
        masks.prediction,
        table=masks.table,
        measures=("volume" if masks.prediction.ndim == 3 else "area",),
        case_id=files.case_id,
        spacing_mm=grid.spacing_mm,
        **place,
    )
    facts = ResultFacts(
        label_map=masks.prediction, table=masks.table, measures=measures, evaluation=evaluation, **place
    )
    told = judge_result(facts, FlagOptions(off=_NOT_ABOUT_MASKS, expected=_expected(masks, evaluation)))
    flags = told.to_json()
    return {
        "case_id": files.case_id,
        "verdict": told.verdict,
        "flags": flags["flags"],
        "checks": flags["checks"],
        "gate": {"level": "", "sentence": "", "findings": [], "checks": []},
        "confidence": {},
        "image": {
            "shape": list(masks.prediction.shape),
            "spacing_mm": None if grid.spacing_mm is None else list(grid.spacing_mm),
            "modality": "",
            "format": "",
        },
        "model": {},
        "notes": list(masks.notes),
        "measurements": measures.to_json(),
    }


def _expected(masks: MatchedMasks, evaluation: CaseEvaluation) -> tuple[str, ...]:
    """Labels that the reference has: without a model nothing else is expected."""
    held = {s.structure for s in evaluation.structures if s.state in ("judged", "missed")}
    return tuple(name for name in masks.table.names[1:] if name in held)


def write_evaluation_page(
    output: Path,
    evaluations: Sequence[CaseEvaluation],
    records: Mapping[str, Mapping[str, Any]],
    *,
    summary: Mapping[str, Any],
    tables: Sequence[LabelTable],
    settings: Mapping[str, Any],
    refused: Sequence[tuple[str, str]],
    names: tuple[str, str],
    language: Language,
) -> None:
    """Write report.html beside the tables of an evaluation.

    Parameters
    ----------
    output : Path
    evaluations : sequence of CaseEvaluation
    records : mapping of str to mapping
        Case id -> what `mask_record` made of it.
    summary : mapping
        summary.json.
    tables : sequence of LabelTable
        Of the cases.
    settings : mapping
        Of the evaluation.
    refused : sequence of (str, str)
        Case id and reason of those that could not be compared.
    names : (str, str)
        Of the folders of predictions and references.
    language : Language
    """
    said = words(language)
    rows = [
        (said["card.predictions"], names[0]),
        (said["card.references"], names[1]),
        (said["card.cases"], str(len(evaluations))),
        (said["card.no_result"], str(len(refused)) if refused else said["card.none"]),
    ]
    report = CohortReport(
        title=said["evaluated_title"].format(prediction=names[0], reference=names[1]),
        about=said["evaluated_about"],
        pipeline="",
        run="",
        settings_sha256=sha256_json(dict(settings)),
        cards=(Card(title=said["card.data"], rows=rows),),
        structures=_structures(tables),
        cases=tuple(_case(one, records[one.case_id]) for one in evaluations),
        summary=summary,
        refused=tuple(
            Refusal(case_id=case_id, stage="evaluate", text=without_folders(text))
            for case_id, text in refused
        ),
        said=(said["evaluated_said"],),
        versions={"medseg": __version__, **versions()},
        signoff=False,
        language=language,
    )
    write_text(output / PAGE, render(report))


def _structures(tables: Sequence[LabelTable]) -> tuple[Structure, ...]:
    """Structures of all cases, labels first, each with the colour that it has where it is met first."""
    found: dict[str, Structure] = {}
    for table in tables:
        for structure in structures_of(table):
            found.setdefault(structure.name, structure)
    return tuple(sorted(found.values(), key=lambda one: one.kind == "region"))


def _case(evaluation: CaseEvaluation, record: Mapping[str, Any]) -> CaseReport:
    patient = pseudonym(evaluation.patient_id)
    return CaseReport(
        case_id=evaluation.case_id,
        patient=patient,
        split="",
        record=record,
        evaluation={**evaluation.to_json(), "patient_id": patient},
        notes=tuple(record["notes"]),
        section=False,
    )
