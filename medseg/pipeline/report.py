"""Stage `report`: the cohort page of the run and its tables, made from the files that the other stages wrote."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medseg import __version__
from medseg.config.load import resolved_yaml
from medseg.data.manifest import Case
from medseg.errors import MedsegError, StorageError
from medseg.labels import LabelTable
from medseg.pipeline import case_files
from medseg.pipeline.case_pages import write_pages
from medseg.pipeline.cohort_cards import checklist_facts, run_cards, split_counts
from medseg.pipeline.compare_runs import compare_folders
from medseg.pipeline.context import Context
from medseg.pipeline.predict import which
from medseg.pipeline.readers import image_reader, read_reference
from medseg.pipeline.run_folder import FOLDS
from medseg.pipeline.search import read_search
from medseg.pipeline.table_files import write_run_tables
from medseg.pipeline.target_evaluation import SUMMARY as DETECTION
from medseg.pipeline.thumbnails import draw_thumbnail, focus_of
from medseg.privacy import pseudonym, without_folders
from medseg.provenance import whole_file, write_text
from medseg.report.cohort import render
from medseg.report.cohort_text import Words, words
from medseg.report.page import CaseReport, CohortReport, Refusal, Structure
from medseg.report.run_tables import run_tables
from medseg.report.text import methods_text
from medseg.volume import Volume

STAGE = "report"
PAGE = "report.html"
PDF = "report.pdf"
CALIBRATION = "calibration.json"
_REGION_COLOUR = "#8a97a5"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Found:
    """What is known of a case before its picture is drawn."""

    case: Case
    record: dict[str, Any]
    evaluation: dict[str, Any] | None


def plan(context: Context) -> str:
    """One line for the dry run."""
    cases = context.settings.report.cases
    return f"one page of the cohort, {'none of cases' if cases == 'none' else f'one for each of the {cases} cases'}"


def run(context: Context) -> dict[str, Any]:
    """Write the page of each case, report.html and the tables, each whole or not at all; PDFs where asked for."""
    report = build(context)
    write_pages(context, report)
    files = write_run_tables(context.run.path, run_tables(report), context.config.report.tables)
    cases = tuple(replace(case, page=_own_page(context, case.case_id)) for case in report.cases)
    report = replace(report, tables=files, cases=cases)
    text = render(report)
    write_text(context.run.path / PAGE, text)
    if context.config.report.pdf:
        write_page_pdf(context.run.path / PDF, render(report, paper=True))
    pages, size = sum(bool(case.page) for case in cases), len(text.encode()) / 1000
    return {
        "text": f"{len(cases)} cases, {pages} with a page of their own, {size:.0f} kB",
        "cases": len(cases),
        "pages": pages,
        "kilobytes": round(size, 1),
    }


def write_page_pdf(path: Path, page: str) -> None:
    """Print a page as PDF, whole or not at all.

    Raises
    ------
    MissingPackageError
        WeasyPrint is not installed.
    """
    from medseg.export.encapsulated_pdf import html_to_pdf

    pdf = html_to_pdf(page)
    with whole_file(path) as part:
        part.write_bytes(pdf)


def build(context: Context) -> CohortReport:
    """Everything that the page says, read from the run folder and the images.

    Raises
    ------
    StorageError
        A file of the run is damaged.
    """
    said, config = words(context.config.report.language), context.config
    found, refused = _results(context)
    cases = _cases(context, found)
    summary = _read_json(context.run.path / "evaluation" / "summary.json")
    bundle = _read_json(context.model_folder / "bundle.json") if config.training else None
    curve, fold_curves = _curve(context.run.path / "training" / "metrics.csv"), _fold_curves(context)
    cleaning = _read_json(context.run.path / "postprocess.json") if config.postprocess == "auto" else None
    skipped = len((_read_json(context.run.path / "check.json") or {}).get("skipped", ()))
    return CohortReport(
        title=config.report.title or config.name.replace("_", " "),
        pipeline=config.name,
        about=config.about,
        run=context.run.path.name,
        settings_sha256=context.run.record["settings_sha256"],
        cards=run_cards(
            context, said, cases=cases, refused=len(refused), skipped=skipped, summary=summary, bundle=bundle
        ),
        structures=structures_of(context.table),
        cases=tuple(cases),
        summary=summary,
        refused=tuple(refused),
        notes=_check_notes(context),
        said=_missing(context, said, curve=bool(curve or fold_curves)),
        curve=curve,
        fold_curves=fold_curves,
        cleaning=cleaning,
        search=read_search(context.run.path),
        methods=_methods(context, cleaning),
        settings=without_folders(resolved_yaml(config)),
        versions={"medseg": __version__, **context.run.record["versions"]},
        stages=_stages(context),
        signoff=config.report.signoff,
        language=config.report.language,
        options=config.model_dump(mode="json"),
        facts=checklist_facts(context, said, bundle),
        splits=split_counts(context),
        training=context.run.stage("train").summary or None,
        **_judged(context),
    )


def _judged(context: Context) -> dict[str, Any]:
    """Detection, calibration and comparison, each None where the run has none."""
    folder, config = context.run.path / "evaluation", context.config
    found = (_read_json(place / CALIBRATION) for place in (folder, context.model_folder, context.run.path))
    comparison = _read_json(folder / "comparison.json")
    if config.report.compare_with is not None and (folder / "cases.json").exists():
        comparison = compare_folders(config.report.compare_with, context.run.path)
    return {
        "detection": _read_json(folder / DETECTION) if config.evaluation.detection else None,
        "calibration": next((value for value in found if value is not None), None),
        "comparison": comparison,
    }


def _methods(context: Context, cleaning: Mapping[str, Any] | None) -> str:
    settings = context.config.model_dump(mode="json")
    return methods_text(
        settings | ({} if cleaning is None else {"postprocess": cleaning["steps"]}),
        version=__version__,
        splits=split_counts(context),
        parameters=context.run.stage("plan").summary.get("parameters"),
        trained=context.run.stage("train").summary or None,
        tuned_on="" if cleaning is None else cleaning["data"],
        language=context.config.report.language,
    )


def _cases(context: Context, found: Sequence[_Found]) -> list[CaseReport]:
    """The cases, the worst first and with a small picture; `section` says whether a page of its own is wanted."""
    chosen = {case.case_id for case in context.chosen(context.config.report.cases)}
    exports = _read_json(context.run.path / "exports.json") or {"files": {}, "notes": {}}
    order = sorted(found, key=lambda f: _draft(f).rank)
    cases = []
    for done, item in enumerate(order, start=1):
        case = _case(context, item, exports=exports, wanted=item.case.case_id in chosen)
        cases.append(_pictured(context, item.case, case) if done <= context.config.report.worst else case)
        context.reporter.advanced(STAGE, done, len(order), case.case_id)
    return cases


def _own_page(context: Context, case_id: str) -> str:
    """Address of the case's own page, relative to the cohort's; "" where it has none."""
    folder = context.run.case_folder(case_id)
    return f"cases/{folder.name}/{PAGE}" if (folder / PAGE).is_file() else ""


def _results(context: Context) -> tuple[list[_Found], list[Refusal]]:
    """Cases with a result, and those without, with the reason."""
    evaluated = _read_json(context.run.path / "evaluation" / "cases.json") or []
    by_case = {item["case_id"]: item for item in evaluated}
    refused = [
        Refusal(case_id=f.case_id, stage=f.stage, text=without_folders(f.text)) for f in context.failures
    ]
    found = []
    for case in context.chosen(which(context)):
        record = case_files.read_record(context.run.case_folder(case.case_id))
        if record is None:
            text = "no result was written; see log.jsonl, or repeat the stage predict"
            refused.append(Refusal(case_id=case.case_id, stage="predict", text=text))
            continue
        evaluation = by_case.get(case.case_id)
        if evaluation is not None:
            evaluation = {**evaluation, "patient_id": pseudonym(case.patient_id)}
        found.append(_Found(case=case, record=record, evaluation=evaluation))
    return found, refused


def _draft(found: _Found) -> CaseReport:
    case = found.case
    return CaseReport(
        case_id=case.case_id,
        patient=pseudonym(case.patient_id),
        split=f"fold {found.record['fold']}" if "fold" in found.record else case.split or "",
        record=found.record,
        evaluation=found.evaluation,
    )


def _case(context: Context, found: _Found, *, exports: Mapping[str, Any], wanted: bool) -> CaseReport:
    case_id = found.case.case_id
    problems = [text for named, text in _check_notes(context) if named == case_id]
    return replace(
        _draft(found),
        files=exports["files"].get(case_id, {}),
        notes=(*problems, *exports["notes"].get(case_id, ())),
        section=wanted,
    )


def _pictured(context: Context, case: Case, draft: CaseReport) -> CaseReport:
    """The case with its small picture, or as it is where its files cannot be read any more."""
    try:
        read = partial(image_reader(context.config), case.images)
        volume = context.kept_images.image(case.case_id, read)
        label_map = case_files.read_mask_file(context.run.case_folder(case.case_id), context.table)
        label_map = label_map.reshape(volume.spatial_shape)
        reference = {} if case.label is None else _reference_masks(case, volume, context)
    except StorageError:
        raise
    except MedsegError as err:
        context.fail(case.case_id, STAGE, str(err))
        return replace(draft, no_picture=f"No picture: {without_folders(str(err))}")
    predicted = {label.name: label_map == index for index, label in enumerate(context.table.labels, start=1)}
    focus = focus_of(draft)
    return replace(
        draft, thumbnail=draw_thumbnail(volume, predicted=predicted, reference=reference, focus=focus)
    )


def _reference_masks(case: Case, volume: Volume, context: Context) -> dict[str, NDArray[np.bool_]]:
    """Reference masks by label; what is surely foreground but of no single label under ""."""
    table = context.table
    read = partial(read_reference, case, volume, context.config, table)
    sets = context.kept_images.reference(case.case_id, read)[0]
    masks = {name: sets == index for index, name in enumerate(table.names) if index > 0}
    either = [i for i, classes in enumerate(table.sets) if len(classes) > 1 and 0 not in classes]
    return {**masks, "": np.isin(sets, either)}


def structures_of(table: LabelTable) -> tuple[Structure, ...]:
    """Labels with their colours, then regions."""
    labels = [Structure(name=label.name, colour=label.colour) for label in table.labels]
    regions = [Structure(name=name, colour=_REGION_COLOUR, kind="region") for name in table.regions]
    return (*labels, *regions)


def _check_notes(context: Context) -> tuple[tuple[str, str], ...]:
    problems = (_read_json(context.run.path / "check.json") or {}).get("problems", ())
    return tuple((p["case_id"], without_folders(p["text"])) for p in problems if p["level"] != "error")


def _missing(context: Context, said: Words, *, curve: bool) -> tuple[str, ...]:
    """One sentence for each thing that a reader may look for in vain."""
    found = []
    if context.config.report.cases == "none":
        found.append(said["said.no_sections"])
    if context.config.training is not None and not curve:
        found.append(said["said.no_curve"])
    if not (context.run.path / "exports.json").exists():
        found.append(said["said.no_exports"])
    return tuple(found)


def _stages(context: Context) -> tuple[dict[str, Any], ...]:
    states = {name: context.run.stage(name) for name in context.run.record.get("stages", {}) if name != STAGE}
    return tuple(
        {
            "name": name,
            "text": without_folders(str(state.summary.get("text", "" if state.done else "not finished"))),
            "seconds": state.seconds,
            "peak_ram_mb": state.peak_ram_mb,
        }
        for name, state in states.items()
    )


def _fold_curves(context: Context) -> dict[str, tuple[dict[str, float | None], ...]]:
    """Curves of the folds of a cross-validation, by name."""
    found = {
        fold: _curve(context.run.path / FOLDS / str(fold) / "training" / "metrics.csv")
        for fold in sorted(set(context.folds.values()))
    }
    return {f"fold {fold}": rows for fold, rows in found.items() if rows}


def _curve(path: Path) -> tuple[dict[str, float | None], ...]:
    if not path.exists():
        return ()
    with path.open(encoding="utf-8", newline="") as stream:
        return tuple(
            {name: float(value) if value else None for name, value in row.items()}
            for row in csv.DictReader(stream)
        )


def _read_json(path: Path) -> Any:
    """A JSON file of the run, None where it was not written."""
    if not path.exists():
        return None
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as err:
        raise StorageError(f"{path} is damaged: {err}; remove it and run again") from err
