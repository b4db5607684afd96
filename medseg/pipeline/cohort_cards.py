"""The cards at the top of a run's page: run, model, data; in the language of the page."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from medseg import __version__
from medseg.pipeline.context import Context
from medseg.privacy import without_folders
from medseg.report.cohort_text import Words, split_title
from medseg.report.language import day
from medseg.report.page import Card, CaseReport

Rows = list[tuple[str, str]]


def run_cards(
    context: Context,
    words: Words,
    *,
    cases: Sequence[CaseReport],
    refused: int,
    skipped: int,
    summary: Mapping[str, Any] | None,
    bundle: Mapping[str, Any] | None,
) -> tuple[Card, ...]:
    """Cards of a run.

    Parameters
    ----------
    context : Context
    words : mapping
    cases : sequence of CaseReport
    refused, skipped : int
        Cases without a result, and files that are no cases.
    summary : mapping or None
        evaluation/summary.json.
    bundle : mapping or None
        bundle.json of the run's own model.
    """
    return (
        Card(title=words["card.run"], rows=_run_rows(context, words)),
        Card(title=words["card.model"], rows=_model_rows(context, words, cases, bundle)),
        Card(title=words["card.data"], rows=_data_rows(context, words, len(cases), refused, skipped)),
        *_pooled_card(summary, words),
    )


def checklist_facts(context: Context, words: Words, bundle: Mapping[str, Any] | None) -> dict[str, str]:
    """What the checklist takes from the settings and the bundle."""
    trained = context.run.stage("train").summary
    facts = {
        "network": context.config.model.use,
        "source": words[f"card.{context.config.data.source.use}"],
        "start": context.config.model.start_from or words["card.random"],
    }
    if "folds" in trained:
        facts["members"] = words["card.members_of"].format(n=len(trained["folds"]))
    if bundle is not None and bundle["intended_use"]:
        facts["intended_use"] = bundle["intended_use"]
    return {name: without_folders(str(value)) for name, value in facts.items()}


def split_counts(context: Context) -> dict[str, int]:
    """Usable cases by split, or by fold."""
    if context.every_fold:
        sizes = Counter(context.folds[case.case_id] for case in context.cases)
        return {f"fold {fold}": count for fold, count in sorted(sizes.items())}
    return {name: len(context.in_split(name)) for name in ("train", "validation", "test")}


def _run_rows(context: Context, words: Words) -> Rows:
    record, config = context.run.record, context.config
    stages = [context.run.stage(name) for name in record.get("stages", {})]
    seconds, peak = sum(s.seconds for s in stages), max((s.peak_ram_mb for s in stages), default=0.0)
    return [
        (words["card.pipeline"], config.name),
        (words["card.run"], context.run.path.name),
        (words["card.started"], day(config.report.language, record["created"])),
        (words["card.time"], words["card.time_of"].format(seconds=f"{seconds:.1f}", n=len(stages))),
        (words["card.device"], _device(context, words)),
        (words["card.threads"], str(context.threads)),
        (words["card.peak"], f"{peak:.0f} MB"),
        ("medseg", __version__),
        (words["card.settings"], f"SHA-256 {record['settings_sha256'][:16]}…"),
    ]


def _device(context: Context, words: Words) -> str:
    wanted = context.config.compute.device
    if wanted == "auto" and str(context.run.record["versions"].get("torch", "")).endswith("+cpu"):
        return words["card.cpu_only"]
    return {"cpu": "CPU", "auto": words["card.auto_device"]}.get(wanted, wanted)


def _data_rows(context: Context, words: Words, shown: int, refused: int, skipped: int) -> Rows:
    language = context.config.report.language

    def count(n: int) -> str:
        return words["case_one"] if n == 1 else words["cases_n"].format(n=n)

    patients = len({case.patient_id for case in context.cases})
    left = words["card.skipped_in"].format(n=skipped, file="check.json") if skipped else words["card.none"]
    return [
        (words["card.source"], words[f"card.{context.config.data.source.use}"]),
        (words["card.usable"], words["card.of_patients"].format(n=len(context.cases), patients=patients)),
        *(
            (split_title(name, language).capitalize(), count(n))
            for name, n in split_counts(context).items()
            if n
        ),
        (words["card.with_reference"], count(len(context.labelled(context.cases)))),
        (words["card.on_page"], count(shown)),
        (words["card.no_result"], words["card.listed"].format(n=refused) if refused else words["card.none"]),
        (words["card.skipped"], left),
    ]


def _model_rows(
    context: Context, words: Words, cases: Sequence[CaseReport], bundle: Mapping[str, Any] | None
) -> Rows:
    facts = cases[0].record["model"] if cases else {}
    trained = context.run.stage("train").summary
    parameters = context.run.stage("plan").summary.get("parameters")
    size = f", {words['card.parameters'].format(n=f'{parameters / 1e6:.2f}')}" if parameters else ""
    rows = [
        *named_model(facts, words),
        (words["card.network"], context.config.model.use + size),
        (words["card.start"], context.config.model.start_from or words["card.random"]),
    ]
    if trained:
        rows += _trained_rows(trained, words)
    if bundle is not None:
        rows.append((words["card.use"], bundle["intended_use"]))
    return [(name, without_folders(str(value))) for name, value in rows]


def named_model(facts: Mapping[str, Any], words: Words) -> Rows:
    """Name, version, licence and weights of a model."""
    return [
        (words["card.name"], facts.get("name", words["card.no_case"])),
        (words["card.version"], facts.get("version", "–")),
        (words["card.licence"], facts.get("licence", "–")),
        (words["card.weights"], f"SHA-256 {facts['weights_sha256'][:16]}…" if facts else "–"),
    ]


def _trained_rows(trained: Mapping[str, Any], words: Words) -> Rows:
    said = words["card.trained_of"].format(
        epochs=trained.get("epochs", "?"), seconds=f"{trained.get('seconds', 0):.0f}"
    )
    rows = [(words["card.trained"], said), (words["card.best"], _best(trained, words))]
    if "folds" in trained:
        rows.append((words["card.members"], words["card.members_of"].format(n=len(trained["folds"]))))
    return rows


def _best(trained: Mapping[str, Any], words: Words) -> str:
    value, epoch = trained.get("best_metric"), trained.get("best_epoch")
    if value is None:
        return words["card.no_best"]
    key = "card.best_epoch" if epoch is not None else "card.best_folds"
    return words[key].format(value=f"{value:.3f}", epoch=epoch)


def _pooled_card(summary: Mapping[str, Any] | None, words: Words) -> tuple[Card, ...]:
    """IoU over all cases together, where the settings ask for its mean."""
    found = (summary or {}).get("mean_iou")
    if not found:
        return ()
    mean = words["not_defined"] if found["mean"] is None else f"{found['mean']:.3f}"
    if found["mean_interval"]:
        low, high = (f"{v:.3f}" for v in found["mean_interval"])
        mean = words["card.mean_of"].format(
            mean=mean, low=low, high=high, level=f"{found['level']:.0%}", patients=found["patients"]
        )
    rows = [
        (name, words["card.nowhere"] if iou is None else f"{iou:.3f}")
        for name, iou in found["structures"].items()
    ]
    return (Card(title=words["card.pooled"], rows=[(words["card.mean"], mean), *rows]),)
