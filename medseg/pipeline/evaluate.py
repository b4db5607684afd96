"""Stage `evaluate`: predictions against reference masks, on the grid of the images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from medseg.calibration.sizes import SizePair, size_pairs
from medseg.data.manifest import Case, manifest_error
from medseg.data.tables import write_csv
from medseg.errors import MedsegError, StorageError
from medseg.evaluation.cases import CaseEvaluation, evaluate_case
from medseg.evaluation.options import EvaluationOptions
from medseg.evaluation.statistic import Statistic
from medseg.evaluation.summary import Summary, summarise
from medseg.io.content import pixel_digest
from medseg.models.bundle_record import MetricRecord
from medseg.pipeline import bundling, case_files
from medseg.pipeline.context import Context
from medseg.pipeline.leakage import Seen, find_leaks
from medseg.pipeline.predict import groups_of, load_model
from medseg.pipeline.readers import image_reader, read_reference
from medseg.pipeline.summary_table import statistic_cell, summary_table
from medseg.pipeline.target_evaluation import TargetEvaluation
from medseg.provenance import write_json

STAGE = "evaluate"
FOLD = "fold"
Groups = Mapping[str, Mapping[str, Mapping[str, Statistic]]]


def plan(context: Context) -> str:
    """One line for the dry run."""
    options = context.settings.evaluation
    targets = "" if options.detection is None else ", and their targets one by one"
    return f"{', '.join(options.metric_names)} of the {options.cases} cases{targets}"


def run(context: Context) -> dict[str, Any]:
    """Write evaluation/cases.csv, cases.json, summary.csv and summary.json; show the table."""
    options = _options(context)
    cases = context.labelled(context.chosen(options.cases))
    read, kept = image_reader(context.config), context.kept_images
    found: list[CaseEvaluation] = []
    seen: list[Seen] = []
    targets = TargetEvaluation(context)
    sizes: list[tuple[str, Mapping[str, SizePair]]] = []
    for done, case in enumerate(cases, start=1):
        folder = context.run.case_folder(case.case_id)
        try:
            volume = kept.image(case.case_id, partial(read, case.images))
            digest = volume.pixel_sha256 or pixel_digest(volume.array)
            seen.append(Seen(case_id=case.case_id, patient_id=case.patient_id, digest=digest))
            prediction = case_files.read_mask_file(folder, context.table)
            reference = kept.reference(
                case.case_id, partial(read_reference, case, volume, context.config, context.table)
            )
            evaluation = evaluate_case(
                prediction,
                reference,
                table=context.table,
                case_id=case.case_id,
                patient_id=case.patient_id,
                spacing_mm=volume.spacing_mm,
                options=options,
                columns=_columns(context, case, options),
                affine=volume.affine,
            )
            targets.add(case, volume, prediction, reference)
            if options.calibration:
                sizes.append((case.patient_id, size_pairs(prediction, reference[0], context.table)))
            found.append(evaluation)
        except StorageError:
            raise
        except MedsegError as err:
            context.fail(case.case_id, STAGE, str(err))
        context.reporter.advanced(STAGE, done, len(cases), case.case_id)
    if not found:
        return {"text": "no case has a reference mask", "unmet": [], "cases": 0}
    leakage = _leakage(context, seen)
    summary = summarise(found, options)
    _write(context, found, summary, leakage)
    _show(context, summary)
    said = targets.finish()
    what = "out-of-fold" if context.every_fold else options.cases
    if context.config.training is not None:
        data = f"{what} predictions" if context.every_fold else f"{what} split"
        bundling.with_metrics(context, metric_records(summary, data=f"{data} of {context.config.name}"))
    said += _calibration(context, cases, sizes, what=what)
    pooled = f", {summary.mean_iou.text}" if summary.mean_iou is not None else ""
    return {
        "text": f"{len(found)} {what} cases of {summary.patients} patients{pooled}{said}",
        "cases": len(found),
        "unmet": [requirement.text for requirement in summary.unmet],
    }


def _calibration(
    context: Context,
    cases: Sequence[Case],
    sizes: Sequence[tuple[str, Mapping[str, SizePair]]],
    *,
    what: str,
) -> str:
    """Hold the probabilities of the cases against their references; in words, "" where that is not asked for."""
    if not context.config.evaluation.calibration:
        return ""
    from medseg.pipeline.calibrating import evaluate_probabilities

    summary = evaluate_probabilities(
        context,
        groups_of(context, cases),
        partial(load_model, context),
        sizes=sizes,
        what=f"{what} predictions" if context.every_fold else f"{what} split",
    )
    ece = None if summary is None else summary.calibrated[""].measures["ece"]
    return "" if ece is None else f", calibration error {ece:.3f}"


def _options(context: Context) -> EvaluationOptions:
    """The settings; a cross-validation is summed up fold by fold too."""
    options = context.config.evaluation
    if not context.every_fold or FOLD in options.by:
        return options
    return options.model_copy(update={"by": (FOLD, *options.by)})


def _columns(context: Context, case: Case, options: EvaluationOptions) -> dict[str, str]:
    columns = {name: case.columns.get(name, "") for name in options.by}
    return columns | ({FOLD: str(context.folds[case.case_id])} if context.every_fold else {})


def _leakage(context: Context, seen: Sequence[Seen]) -> dict[str, Any]:
    """What the evaluated images were held against, by the pixels that were just read.

    Raises
    ------
    ManifestError
        An image or a patient that the network was trained on is among them.
    """
    if context.settings.training is None:
        return {"checked": False, "reason": "the model was not trained in this run"}
    kept = [c for c in context.cases if c.case_id in context.facts]
    known = {
        c.case_id: Seen(
            case_id=c.case_id, patient_id=c.patient_id, digest=context.facts[c.case_id]["pixel_sha256"]
        )
        for c in kept
    }
    leaks: list[str] = []
    against: set[str] = set()
    for one in seen:
        trained = _trained_on(context, one.case_id)
        against |= trained
        leaks += [] if one.case_id in trained else find_leaks(one, [known[i] for i in trained if i in known])
    if leaks:
        raise manifest_error("evaluated cases that the network was trained on", leaks)
    own = sum(one.case_id in _trained_on(context, one.case_id) for one in seen)
    return {"checked": True, "evaluated": len(seen), "against": len(against), "training_cases_evaluated": own}


def _trained_on(context: Context, case_id: str) -> set[str]:
    """Cases that the network which predicted this one was fitted to or chosen by."""
    if context.every_fold:
        return {i for i, fold in context.folds.items() if fold != context.folds[case_id]}
    return {i for i, split in context.splits.items() if split in ("train", "validation")}


def _write(
    context: Context, found: list[CaseEvaluation], summary: Summary, leakage: Mapping[str, Any]
) -> None:
    folder = context.run.path / "evaluation"
    write_csv(folder / "cases.csv", [row for case in found for row in case.rows()])
    write_json(folder / "cases.json", [case.to_json() for case in found])
    write_csv(folder / "summary.csv", summary.rows())
    settings = context.config.evaluation.model_dump(mode="json")
    write_json(folder / "summary.json", summary.to_json() | {"settings": settings, "leakage": leakage})


def _show(context: Context, summary: Summary) -> None:
    options = context.config.evaluation
    columns, rows = summary_table(summary, options.metric_names, level=options.level)
    context.reporter.table("", columns, rows)
    for gap in summary.gaps:
        if gap.finding == "worse":
            context.reporter.note(
                f"{gap.column} {gap.group}: {gap.metric} of {gap.structure} is worse than in the other cases "
                f"({gap.mean:.3g} and {gap.mean_others:.3g}, adjusted p {gap.p_holm:.2g})"
            )
    folds = summary.groups.get(FOLD, {}) if context.every_fold else {}
    if folds and "dice" in options.metric_names:
        _show_folds(context, folds, list(summary.structures))


def _show_folds(context: Context, folds: Groups, structures: Sequence[str]) -> None:
    """One row for each fold: the mean Dice of each structure; the other metrics are in summary.csv."""
    rows = []
    for fold, found in folds.items():
        count = max((s.count for metrics in found.values() for s in metrics.values()), default=0)
        cells = [statistic_cell(found.get(s, {}), "dice", interval=False) for s in structures]
        rows.append((fold, str(count), *cells))
    context.reporter.table("", ["fold", "cases", *(f"dice {s}" for s in structures)], rows)


def metric_records(summary: Summary, *, data: str) -> tuple[MetricRecord, ...]:
    """Means with intervals as a bundle keeps them: all metrics of all cases, Dice of each group."""
    records = [
        _record(structure, name, statistic, data)
        for structure, metrics in summary.structures.items()
        for name, statistic in metrics.items()
    ]
    for column, groups in summary.groups.items():
        for value, structures in groups.items():
            records += [
                _record(structure, "dice", metrics["dice"], f"{data}, {column} {value or 'not given'}")
                for structure, metrics in structures.items()
                if "dice" in metrics
            ]
    return tuple(record for record in records if record is not None)


def _record(structure: str, name: str, statistic: Statistic, data: str) -> MetricRecord | None:
    if statistic.mean is None or statistic.count == 0:
        return None
    low, high = statistic.mean_interval or (None, None)
    return MetricRecord(
        structure=structure,
        metric=name,
        unit="" if statistic.unit == "1" else statistic.unit,
        data=f"{data}: {statistic.count} images of {statistic.patients} patients",
        cases=statistic.count,
        value=statistic.mean,
        low=low,
        high=high,
        level=statistic.level,
    )
