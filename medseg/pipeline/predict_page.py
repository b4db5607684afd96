"""The page and the tables of `medseg predict`: what a run's page says, as far as masks without references tell it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from medseg import __version__
from medseg.errors import MedsegError
from medseg.models.bundle import Bundle
from medseg.pipeline import case_files
from medseg.pipeline.cohort_cards import named_model
from medseg.pipeline.cohort_case import CaseOutcome
from medseg.pipeline.cohort_inputs import CohortCase, read_case
from medseg.pipeline.cohort_settings import CohortSettings
from medseg.pipeline.report import PAGE, structures_of
from medseg.pipeline.table_files import write_run_tables
from medseg.pipeline.thumbnails import draw_thumbnail, focus_of
from medseg.privacy import without_folders
from medseg.provenance import versions, write_text
from medseg.report.cohort import MAX_DATA_CASES, render
from medseg.report.cohort_text import Words, words
from medseg.report.language import Language
from medseg.report.options import TableFormat
from medseg.report.page import Card, CaseReport, CohortReport, Refusal
from medseg.report.run_tables import run_tables

WORST = 12
_PAGE_ZH = "report.zh.html"
_FORMATS: tuple[TableFormat, ...] = ("csv", "json")
# A folder of tables could have the name of a case.
_PLACE = "report_"
_KEPT = ("verdict", "flags", "gate", "confidence", "image", "model", "engine", "instances")


def write_predict_page(
    settings: CohortSettings,
    outcomes: Sequence[CaseOutcome],
    cases: Sequence[CohortCase],
    *,
    bundle: Bundle,
    skipped: int,
    seconds: float,
    language: Language = "en",
) -> None:
    """Write report.html and its tables into the output folder.

    Parameters
    ----------
    settings : CohortSettings
    outcomes : sequence of CaseOutcome
    cases : sequence of CohortCase
        In the same order; the worst of them are read again for their small pictures, as far as they fit the ceiling.
    bundle : Bundle
    skipped : int
        Files that are no cases.
    seconds : float
        That the cases took.
    language : {"en", "zh"}

    Raises
    ------
    StorageError
        A record is damaged, or the files cannot be written.
    """
    said = words(language)
    reports = [
        r
        for outcome in outcomes
        if (r := _case(settings, outcome, slim=len(outcomes) > MAX_DATA_CASES, language=language))
    ]
    reports.sort(key=lambda case: case.rank)
    drawn, lacking = _with_pictures(settings, reports, cases, bundle, said)
    report = CohortReport(
        title=said["predicted_title"].format(model=bundle.name, n=len(outcomes)),
        about=said["predicted_about"],
        pipeline="",
        run="",
        settings_sha256="",
        cards=_cards(said, outcomes, drawn, bundle, skipped=skipped, seconds=seconds),
        structures=structures_of(bundle.table),
        cases=tuple(drawn),
        refused=tuple(
            Refusal(case_id=o.case_id, stage="predict", text=without_folders(o.error))
            for o in outcomes
            if o.state == "failed"
        ),
        said=tuple(said["said.no_pictures"].format(n=len(ids), why=why) for why, ids in lacking.items()),
        versions={"medseg": __version__, **versions()},
        signoff=False,
        language=language,
    )
    files = write_run_tables(settings.output, run_tables(report), _FORMATS, place=_PLACE)
    write_text(settings.output / PAGE, render(replace(report, tables=files)))


def _case(
    settings: CohortSettings, outcome: CaseOutcome, *, slim: bool, language: Language
) -> CaseReport | None:
    """A finished case, without what only its own page needs where there are many."""
    folder = settings.output / outcome.folder
    names = (PAGE, _PAGE_ZH) if language == "en" else (_PAGE_ZH, PAGE)
    record = None if outcome.state == "failed" else case_files.read_record(folder)
    if record is None:
        return None
    return CaseReport(
        case_id=outcome.case_id,
        patient="",
        split="",
        record=slim_record(record) if slim else record,
        section=False,
        page=next((f"{outcome.folder}/{name}" for name in names if (folder / name).is_file()), ""),
        notes=outcome.notes,
    )


def slim_record(record: Mapping[str, Any]) -> dict[str, Any]:
    """The parts of a measurements.json that the page of a cohort shows; thousands are held at once."""
    measures = record["measurements"]
    quantities = {name: {"quantities": item["quantities"]} for name, item in measures["structures"].items()}
    kept = {key: record[key] for key in _KEPT if key in record}
    return {**kept, "checks": [], "measurements": {"structures": quantities, "ratios": measures["ratios"]}}


def _with_pictures(
    settings: CohortSettings,
    reports: Sequence[CaseReport],
    cases: Sequence[CohortCase],
    bundle: Bundle,
    said: Words,
) -> tuple[list[CaseReport], dict[str, list[str]]]:
    """The cases, the worst with a small picture; and by reason those that have none."""
    inputs = {case.case_id: case for case in cases}
    found, lacking = list(reports), dict[str, list[str]]()
    for index, report in enumerate(reports[:WORST]):
        if not _fits(settings, report):
            lacking.setdefault(said["said.memory"], []).append(report.case_id)
            continue
        try:
            found[index] = _pictured(settings, report, inputs[report.case_id], bundle)
        except MedsegError:
            # The mask is there and right; that the image has gone since is no fault of the case.
            lacking.setdefault(said["said.unreadable"], []).append(report.case_id)
    return found, lacking


def _fits(settings: CohortSettings, report: CaseReport) -> bool:
    """Whether image and masks take no more than half of the ceiling."""
    image = report.record["image"]
    voxels = math.prod(image["shape"])
    return settings.max_bytes is None or voxels * (8 * image.get("channels", 1) + 8) <= settings.max_bytes / 2


def _pictured(settings: CohortSettings, report: CaseReport, case: CohortCase, bundle: Bundle) -> CaseReport:
    volume = read_case(case, bundle)
    label_map = case_files.read_mask_file(settings.output / case.folder, bundle.table)
    label_map = label_map.reshape(volume.spatial_shape)
    masks = {label.name: label_map == index for index, label in enumerate(bundle.table.labels, start=1)}
    picture = draw_thumbnail(volume, predicted=masks, reference={}, focus=focus_of(report))
    return replace(report, thumbnail=picture)


def _cards(
    said: Words,
    outcomes: Sequence[CaseOutcome],
    reports: Sequence[CaseReport],
    bundle: Bundle,
    *,
    skipped: int,
    seconds: float,
) -> tuple[Card, ...]:
    failed = sum(outcome.state == "failed" for outcome in outcomes)
    engine = next((str(r.record["engine"]["asked"]) for r in reports if r.record.get("engine")), "")
    left = (
        said["card.skipped_in"].format(n=skipped, file="predictions.json") if skipped else said["card.none"]
    )
    data = [
        (said["card.images"], str(len(outcomes))),
        (said["card.no_result"], said["card.listed"].format(n=failed) if failed else said["card.none"]),
        (said["card.skipped"], left),
        (said["card.time"], f"{seconds:.1f} s"),
        *([(said["card.engine"], engine)] if engine else []),
    ]
    return (
        Card(title=said["card.data"], rows=data),
        Card(title=said["card.model"], rows=[*named_model(bundle.facts, said), *_use(bundle, said)]),
    )


def _use(bundle: Bundle, said: Words) -> list[tuple[str, str]]:
    use = str(bundle.record.to_json().get("intended_use") or "")
    return [(said["card.use"], use)] if use else []
