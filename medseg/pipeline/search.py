"""Stage `search`: try settings of the training, keep the best. Light; the trainings import torch."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medseg import __version__
from medseg.config.load import resolved_yaml
from medseg.config.problems import SettingsError
from medseg.config.schema import PipelineConfig, RunConfig
from medseg.config.search_space import refusal_text
from medseg.config.yaml_model import with_values
from medseg.errors import ConfigError, ManifestError, StorageError
from medseg.evaluation.rows import rows_to_csv
from medseg.pipeline.context import Context
from medseg.pipeline.folds import fold_context
from medseg.privacy import without_folders
from medseg.provenance import write_text
from medseg.search.options import SearchOptions
from medseg.search.records import best_row
from medseg.search.results import (
    BEST,
    RECORD,
    best_text,
    counts_text,
    csv_rows,
    settings_json,
    shown_table,
    write_results,
)
from medseg.search.space import parameters
from medseg.search.storage import require_optuna

if TYPE_CHECKING:
    from medseg.search.study import SearchStudy

STAGE = "search"
SETTINGS = ("search", "model", "preprocess", "augment", "training", "inference")
TRIALS, PAGE = "trials", "search.html"
# What a trial's outcome depends on; the data themselves count by their hash.
_DECIDING = ("labels", "regions", "ignore_value", "label_schemes", *SETTINGS[1:])


def plan(context: Context) -> str:
    """One line for the dry run."""
    options = _options(context.settings)
    names = ", ".join(options.space)
    return f"{options.trials} trials of {names} by {options.sampler.use}, the best by {options.metric}"


def run(context: Context) -> dict[str, Any]:
    """Carry out the trials, or the rest of them; write the results and take the best into the settings.

    Raises
    ------
    ConfigError
        The database has another search of this name; the search was started by torchrun.
    ManifestError
        There are no cases to compare trials on.
    TrainingError
        No trial ran to its end.
    Interrupted, EnvironmentFailure
        What stopped the search; the same command goes on.
    """
    options = _options(context.config)
    _check(context)
    from medseg.search.loop import best_of
    from medseg.search.study import SearchStudy

    digest = _digest(context, options)
    study = SearchStudy(options, folder=_folder(context), name=context.config.name, digest=digest)
    try:
        _carry_out(context, study, options)
        rows = study.rows()
        _write(context, study, options, digest)
    finally:
        study.close()
    best = best_of(rows, options)
    values = settings_json(best, parameters(options.space))
    config = _with_best(context.config, values)
    write_text(_folder(context) / BEST, best_text(best, options) + resolved_yaml(config))
    _take(context, config)
    return {
        "text": f"{counts_text(rows)}; best {options.metric} {best.value:.4f} in trial {best.number}",
        "best_trial": best.number,
        "best_value": best.value,
        "best_weights_sha256": best.facts.get("weights_sha256"),
        "values": values,
        "trials": len(rows),
    }


def recall(context: Context) -> None:
    """Take the best of an earlier search into the settings."""
    _take(context, _with_best(context.config, context.run.stage(STAGE).summary["values"]))


def _take(context: Context, config: RunConfig) -> None:
    # What the plan expects is about the settings before the search.
    context.settings, context.prediction = config, None


def _options(config: PipelineConfig) -> SearchOptions:
    if config.search is None:
        raise ConfigError("the YAML has no section search; add one, or leave the stage out")
    return config.search


def _folder(context: Context) -> Path:
    return context.run.path / STAGE


def _check(context: Context) -> None:
    """What can be known before the first trial."""
    require_optuna()
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ConfigError(
            "a search was started by torchrun; start it plainly: search.parallel trains several trials at a "
            "time, and search.storage_env shares a search among machines"
        )
    compared = _compared(context)
    if not compared.labelled(compared.in_split("validation")):
        raise ManifestError(
            "no usable case with a mask is in the validation split, and trials are compared on those; "
            "give it cases (data.split.validation: a share, for folds: next), or check the list of cases"
        )


def _compared(context: Context) -> Context:
    """The context whose split the trials train and are compared on: of a cross-validation, the first fold."""
    return fold_context(context, 0) if context.every_fold else context


def _with_best(config: RunConfig, values: Mapping[str, Any]) -> RunConfig:
    """The settings with the values of the best trial and without the search."""
    return with_values(config.model_copy(update={"search": None}), values)


def _digest(context: Context, options: SearchOptions) -> str:
    from medseg.search.study import study_digest

    facts = {name: context.section(name) for name in _DECIDING}
    inputs = context.run.stage("check").summary.get("inputs_sha256", "")
    split = sorted(_compared(context).splits.items())
    return study_digest({**facts, "inputs": inputs, "split": split, "version": __version__}, options)


def _carry_out(context: Context, study: SearchStudy, options: SearchOptions) -> None:
    from medseg.pipeline.search_progress import SearchListener, TrialReporter
    from medseg.pipeline.trial import TrialTraining
    from medseg.search.loop import Search, run_here
    from medseg.search.processes import TrialProcesses
    from medseg.training.surroundings import stop_request

    listener = SearchListener(context, study, options, trials=_folder(context) / TRIALS)
    config = context.config.model_copy(update={"search": None})
    compared = _compared(context)
    training = TrialTraining(
        config=_shared_threads(config, context, options.parallel),
        settings=options.settings,
        metric=options.metric,
        run=context.run.path,
        folder=_folder(context) / TRIALS,
        cases=compared.cases,
        splits=compared.splits,
        facts=context.facts,
    )

    def refused(values: Mapping[str, Any]) -> str | None:
        try:
            with_values(config, {**options.settings, **values})
        except SettingsError as err:
            return refusal_text(err, values)
        return None

    search = Search(study, options, refused=refused, listener=listener)
    if options.parallel == 1:
        run_here(search, replace(training, reporter=TrialReporter(context, listener)))
        return
    with stop_request() as stop:
        TrialProcesses(objective=training, count=options.parallel, stopped=lambda: stop.signal).run(search)


def _shared_threads(config: RunConfig, context: Context, parallel: int) -> RunConfig:
    """The settings of trials that run at the same time: each has its share of the threads."""
    if parallel == 1:
        return config
    return with_values(config, {"compute.threads": max(1, context.threads // parallel)})


def _write(context: Context, study: SearchStudy, options: SearchOptions, digest: str) -> None:
    """Write the files and print the table."""
    rows, found = study.rows(), parameters(options.space)
    best = best_row(rows, higher_is_better=options.higher_is_better)
    write_results(
        _folder(context),
        options=options,
        parameters=found,
        rows=rows,
        best=best,
        importances=study.importances(),
        digest=digest,
        table=rows_to_csv(csv_rows(rows)),
        compared_on_fold=_compared(context).fold,
    )
    write_text(_folder(context) / PAGE, _page(context))
    columns, cells = shown_table(rows, found, best, metric=options.metric)
    context.reporter.table("Trials (* best)", columns, cells)


def _page(context: Context) -> str:
    from medseg.report.search import render_search_page

    record = read_search(context.run.path) or {}
    return render_search_page(record, title=context.config.name.replace("_", " "))


def read_search(run: Path) -> dict[str, Any] | None:
    """search.json of a run without the folders that its texts name; None where it has none.

    Raises
    ------
    StorageError
        It is damaged.
    """
    path = run / STAGE / RECORD
    if not path.exists():
        return None
    try:
        value: dict[str, Any] = _without_folders(json.loads(path.read_text(encoding="utf-8")))
    except ValueError as err:
        raise StorageError(f"{path} is damaged: {err}; remove it and run again with --only search") from err
    return value


def _without_folders(value: Any) -> Any:
    """The same JSON value, its texts without folders."""
    if isinstance(value, dict):
        return {key: _without_folders(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_without_folders(inner) for inner in value]
    return without_folders(value) if isinstance(value, str) else value
