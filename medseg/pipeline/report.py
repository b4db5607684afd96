"""Stage `report`: the cohort page of the run, made from the files that the other stages wrote."""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medseg import __version__
from medseg.config.load import resolved_yaml
from medseg.data.manifest import Case
from medseg.errors import MedsegError, StorageError
from medseg.export.display import axis_directions, window_of
from medseg.export.picture import display_gray
from medseg.labels import LabelTable
from medseg.pipeline import case_files
from medseg.pipeline.case_pages import write_pages
from medseg.pipeline.context import Context
from medseg.pipeline.predict import which
from medseg.pipeline.readers import image_reader, read_reference
from medseg.pipeline.run_folder import FOLDS
from medseg.pipeline.search import read_search
from medseg.pipeline.target_evaluation import SUMMARY as DETECTION
from medseg.privacy import pseudonym, without_folders
from medseg.provenance import write_text
from medseg.report.case import draw_picture
from medseg.report.cohort import render
from medseg.report.page import Card, CaseReport, CohortReport, Picture, Refusal, Structure
from medseg.report.planes import draw_planes
from medseg.report.text import methods_text
from medseg.volume import Volume

STAGE = "report"
PAGE = "report.html"
MAX_SECTIONS = 200
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
    return f"one page, {'no sections of cases' if cases == 'none' else f'a section for each of the {cases} cases'}"


def run(context: Context) -> dict[str, Any]:
    """Write report.html, whole or not at all."""
    report = build(context)
    text = render(report)
    write_text(context.run.path / PAGE, text)
    write_pages(context, report)
    sections = sum(case.section for case in report.cases)
    size = len(text.encode()) / 1000
    return {
        "text": f"{len(report.cases)} cases, {sections} with a section, {size:.0f} kB",
        "cases": len(report.cases),
        "sections": sections,
        "kilobytes": round(size, 1),
    }


def build(context: Context) -> CohortReport:
    """Everything that the page says, read from the run folder and the images.

    Raises
    ------
    StorageError
        A file of the run is damaged.
    """
    config = context.config
    found, refused = _results(context)
    wanted = {case.case_id for case in context.chosen(context.config.report.cases)}
    order = sorted(found, key=lambda f: _draft(f).rank)
    sections = [f.case.case_id for f in order if f.case.case_id in wanted][:MAX_SECTIONS]
    side = 420 if len(sections) <= 24 else 300 if len(sections) <= 80 else 220
    exports = _read_json(context.run.path / "exports.json") or {"files": {}, "notes": {}}
    cases = []
    for done, item in enumerate(order, start=1):
        case_id = item.case.case_id
        cases.append(_case(context, item, exports=exports, section=case_id in sections, side=side))
        context.reporter.advanced(STAGE, done, len(order), case_id)
    summary = _read_json(context.run.path / "evaluation" / "summary.json")
    detection = (
        _read_json(context.run.path / "evaluation" / DETECTION) if config.evaluation.detection else None
    )
    curve = _curve(context.run.path / "training" / "metrics.csv")
    fold_curves = _fold_curves(context)
    cleaning = _read_json(context.run.path / "postprocess.json") if config.postprocess == "auto" else None
    said = _missing(
        context,
        wanted=wanted & {c.case_id for c in cases},
        sections=len(sections),
        curve=bool(curve or fold_curves),
    )
    return CohortReport(
        title=context.config.report.title or context.config.name.replace("_", " "),
        pipeline=context.config.name,
        about=context.config.about,
        run=context.run.path.name,
        settings_sha256=context.run.record["settings_sha256"],
        cards=_cards(context, cases, refused=len(refused)),
        structures=_structures(context.table),
        cases=tuple(cases),
        summary=summary,
        detection=detection,
        refused=tuple(refused),
        notes=_check_notes(context),
        said=said,
        curve=curve,
        fold_curves=fold_curves,
        cleaning=cleaning,
        search=read_search(context.run.path),
        methods=methods_text(
            config.model_dump(mode="json") | ({} if cleaning is None else {"postprocess": cleaning["steps"]}),
            version=__version__,
            splits=_splits(context),
            parameters=context.run.stage("plan").summary.get("parameters"),
            trained=context.run.stage("train").summary or None,
            tuned_on="" if cleaning is None else cleaning["data"],
        ),
        settings=without_folders(resolved_yaml(context.config)),
        versions={"medseg": __version__, **context.run.record["versions"]},
        stages=_stages(context),
        signoff=context.config.report.signoff,
    )


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


def _case(
    context: Context, found: _Found, *, exports: Mapping[str, Any], section: bool, side: int
) -> CaseReport:
    case, draft = found.case, _draft(found)
    pictures, why = _pictures(context, case, side=side) if section else ((), "")
    problems = [text for case_id, text in _check_notes(context) if case_id == case.case_id]
    return CaseReport(
        case_id=draft.case_id,
        patient=draft.patient,
        split=draft.split,
        record=draft.record,
        evaluation=draft.evaluation,
        planes=pictures,
        no_picture=why,
        files=exports["files"].get(case.case_id, {}),
        notes=(*problems, *exports["notes"].get(case.case_id, ())),
        section=section,
    )


def _pictures(context: Context, case: Case, *, side: int) -> tuple[tuple[Picture, ...], str]:
    """The picture of a radiograph or those of a volume, or why there is none."""
    try:
        volume = image_reader(context.config)(case.images)
        label_map = case_files.read_mask_file(context.run.case_folder(case.case_id), context.table)
        label_map = label_map.reshape(volume.spatial_shape)
        reference = {} if case.label is None else _reference_masks(case, volume, context)
    except StorageError:
        raise
    except MedsegError as err:
        context.fail(case.case_id, STAGE, str(err))
        return (), f"No picture: {without_folders(str(err))}"
    predicted = {label.name: label_map == index for index, label in enumerate(context.table.labels, start=1)}
    return draw_case(volume, predicted=predicted, reference=reference, side=side), ""


def draw_case(
    volume: Volume,
    *,
    predicted: Mapping[str, NDArray[np.bool_]],
    reference: Mapping[str, NDArray[np.bool_]],
    side: int,
) -> tuple[Picture, ...]:
    """The picture of a radiograph, or slices of a volume along each axis, with the contours of masks."""
    if volume.spatial_dims == 2:
        return (
            draw_picture(
                display_gray(volume),
                predicted=predicted,
                reference=reference,
                spacing_mm=volume.spacing_mm,
                orientation=volume.patient_orientation,
                max_side=side,
            ),
        )
    window = window_of(volume)
    i, j, k = volume.spatial_shape
    return draw_planes(
        lambda axis, index: window.gray(volume.array.take(index, axis + 1).mean(axis=0, dtype=np.float32)),
        predicted=predicted,
        reference=reference,
        shape=(i, j, k),
        spacing_mm=volume.spacing_mm,
        directions=None if volume.affine is None else axis_directions(volume.affine),
        max_side=round(0.7 * side),
    )


def _reference_masks(case: Case, volume: Volume, context: Context) -> dict[str, NDArray[np.bool_]]:
    """Reference masks by label; what is surely foreground but of no single label under ""."""
    table = context.table
    sets = read_reference(case, volume, context.config, table)[0]
    masks = {name: sets == index for index, name in enumerate(table.names) if index > 0}
    either = [i for i, classes in enumerate(table.sets) if len(classes) > 1 and 0 not in classes]
    return {**masks, "": np.isin(sets, either)}


def _structures(table: LabelTable) -> tuple[Structure, ...]:
    labels = [Structure(name=label.name, colour=label.colour) for label in table.labels]
    regions = [Structure(name=name, colour=_REGION_COLOUR, kind="region") for name in table.regions]
    return (*labels, *regions)


def _cards(context: Context, cases: Sequence[CaseReport], *, refused: int) -> tuple[Card, ...]:
    record, config = context.run.record, context.config
    stages = [context.run.stage(name) for name in record.get("stages", {})]
    peak = max((state.peak_ram_mb for state in stages), default=0.0)
    run = [
        ("Pipeline", config.name),
        ("Run", context.run.path.name),
        ("Started", record["created"]),
        ("Time", f"{sum(state.seconds for state in stages):.1f} s in {len(stages)} stages"),
        ("Device", _device(context)),
        ("Threads", str(context.threads)),
        ("Peak RAM", f"{peak:.0f} MB"),
        ("medseg", __version__),
        ("Settings", f"SHA-256 {record['settings_sha256'][:16]}…"),
    ]
    splits = [(name, f"{count} cases") for name, count in _splits(context).items() if count]
    source = config.data.source
    data = [
        (
            "Source",
            {"phantom": "synthetic studies", "manifest": "a list of cases", "folder": "a folder"}[source.use],
        ),
        ("Usable", f"{len(context.cases)} cases of {len({c.patient_id for c in context.cases})} patients"),
        *((name.capitalize(), text) for name, text in splits),
        ("With reference", f"{len(context.labelled(context.cases))} cases"),
        ("On this page", f"{len(cases)} cases"),
        ("Without result", f"{refused} cases, listed below" if refused else "none"),
        ("Files left out", _skipped(context)),
    ]
    return (
        Card(title="Run", rows=run),
        Card(title="Model", rows=_model_rows(context, cases)),
        Card(title="Data", rows=data),
        *_mean_iou_card(context),
    )


def _mean_iou_card(context: Context) -> tuple[Card, ...]:
    """IoU over all cases together, where the settings ask for its mean."""
    found = (_read_json(context.run.path / "evaluation" / "summary.json") or {}).get("mean_iou")
    if not found:
        return ()
    mean = "not defined" if found["mean"] is None else f"{found['mean']:.3f}"
    if found["mean_interval"]:
        low, high = found["mean_interval"]
        mean += f" ({low:.3f}-{high:.3f}, {found['level']:.0%} over {found['patients']} patients)"
    rows = [
        (name, "occurs nowhere" if iou is None else f"{iou:.3f}") for name, iou in found["structures"].items()
    ]
    return (Card(title="IoU over all cases", rows=[("Mean", mean), *rows]),)


def _device(context: Context) -> str:
    wanted = context.config.compute.device
    if wanted == "auto" and str(context.run.record["versions"].get("torch", "")).endswith("+cpu"):
        return "CPU (torch without CUDA)"
    return {"cpu": "CPU", "auto": "chosen at run time (auto)"}.get(wanted, wanted)


def _model_rows(context: Context, cases: Sequence[CaseReport]) -> list[tuple[str, str]]:
    facts = cases[0].record["model"] if cases else {}
    plan_found = context.run.stage("plan").summary
    trained = context.run.stage("train").summary
    bundle = _read_json(context.model_folder / "bundle.json") if context.config.training else None
    parameters = plan_found.get("parameters")
    rows = [
        ("Name", facts.get("name", "no case was predicted")),
        ("Version", facts.get("version", "–")),
        ("Licence", facts.get("licence", "–")),
        ("Weights", f"SHA-256 {facts['weights_sha256'][:16]}…" if facts else "–"),
        (
            "Network",
            context.config.model.use + (f", {parameters / 1e6:.2f} M parameters" if parameters else ""),
        ),
        ("Started from", context.config.model.start_from or "random weights"),
    ]
    if trained:
        rows += [
            ("Trained", f"{trained.get('epochs', '?')} epochs in {trained.get('seconds', 0):.0f} s"),
            ("Best validation", _best(trained)),
        ]
        if "folds" in trained:
            rows.append(("Members", f"{len(trained['folds'])} networks, one for each fold"))
    if bundle is not None:
        rows.append(("Intended use", bundle["intended_use"]))
    return [(name, without_folders(str(value))) for name, value in rows]


def _best(trained: Mapping[str, Any]) -> str:
    value, epoch = trained.get("best_metric"), trained.get("best_epoch")
    if value is None:
        return "no epoch was chosen; the last one is kept"
    return f"{value:.3f} in epoch {epoch}" if epoch is not None else f"{value:.3f}, mean of the folds"


def _splits(context: Context) -> dict[str, int]:
    if context.every_fold:
        sizes = Counter(context.folds[case.case_id] for case in context.cases)
        return {f"fold {fold}": count for fold, count in sorted(sizes.items())}
    return {name: len(context.in_split(name)) for name in ("train", "validation", "test")}


def _skipped(context: Context) -> str:
    count = len((_read_json(context.run.path / "check.json") or {}).get("skipped", ()))
    return f"{count}, named in check.json" if count else "none"


def _check_notes(context: Context) -> tuple[tuple[str, str], ...]:
    problems = (_read_json(context.run.path / "check.json") or {}).get("problems", ())
    return tuple((p["case_id"], without_folders(p["text"])) for p in problems if p["level"] != "error")


def _missing(context: Context, *, wanted: set[str], sections: int, curve: bool) -> tuple[str, ...]:
    """One sentence for each thing that a reader may look for in vain."""
    said = []
    if sections < len(wanted):
        said.append(
            f"{sections} of {len(wanted)} cases have a section here, those with the worst flags first; the table, "
            "the statistics and the saved files hold all cases, and each case's folder has its own files."
        )
    if context.config.report.cases == "none":
        said.append("No case has a section of its own (report.cases is none); the table holds all cases.")
    if context.config.training is not None and not curve:
        said.append("No training curve: training/metrics.csv is not in the run folder.")
    if not (context.run.path / "exports.json").exists():
        said.append("No list of exported files: the stage export was not run.")
    return tuple(said)


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
