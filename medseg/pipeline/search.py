"""Stage `search`: try settings of the training, keep the best. Light; the trainings import torch."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medseg import __version__
from medseg.config.load import resolved_yaml
from medseg.config.problems import SettingsError
from medseg.config.schema import RunConfig
from medseg.config.search_space import refusal_text
from medseg.config.yaml_model import with_values
from medseg.errors import ConfigError, ManifestError, StorageError
from medseg.evaluation.rows import rows_to_csv
from medseg.pipeline.context import Context
from medseg.pipeline.progress import SilentReporter
from medseg.pipeline.run_folder import StageState
from medseg.provenance import write_text
from medseg.search.options import SearchOptions
from medseg.search.records import ENDED, TrialRow, best_row
from medseg.search.results import (
    BEST,
    RECORD,
    best_text,
    counts_text,
    csv_rows,
    raw_text,
    settings_json,
    shown_table,
    table_columns,
    write_results,
)
from medseg.search.space import parameters
from medseg.search.storage import require_optuna

if TYPE_CHECKING:
    from medseg.search.study import SearchStudy

STAGE = "search"
SETTINGS = ("search", "model", "preprocess", "augment", "training", "inference")
TRIALS = "trials"
_WEIGHTS = ("state-*.pt", "*.safetensors")
# What a trial's outcome depends on; the data themselves count by their hash.
_DECIDING = ("labels", "regions", "ignore_value", "label_schemes", *SETTINGS[1:])


def plan(context: Context) -> str:
    """One line for the dry run."""
    options = _options(context.config)
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
    context.config = config
    return {
        "text": f"{counts_text(rows)}; best {options.metric} {best.value:.4f} in trial {best.number}",
        "best_trial": best.number,
        "best_value": best.value,
        "best_weights_sha256": best.facts.get("weights_sha256"),
        "values": values,
        "trials": len(rows),
    }


def recall(context: Context, state: StageState) -> None:
    """Take the best of an earlier search into the settings."""
    context.config = _with_best(context.config, state.summary["values"])


def _options(config: RunConfig) -> SearchOptions:
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
    if not context.labelled(context.in_split("validation")):
        raise ManifestError(
            "no usable case with a mask is in the validation split, and trials are compared on those; "
            "give data.split.validation a share, or check the list of cases"
        )


def _with_best(config: RunConfig, values: Mapping[str, Any]) -> RunConfig:
    """The settings with the values of the best trial and without the search."""
    return with_values(config.model_copy(update={"search": None}), values)


def _digest(context: Context, options: SearchOptions) -> str:
    from medseg.search.study import study_digest

    facts = {name: context.section(name) for name in _DECIDING}
    inputs = context.run.stage("check").summary.get("inputs_sha256", "")
    split = sorted(context.splits.items())
    return study_digest({**facts, "inputs": inputs, "split": split, "version": __version__}, options)


def _carry_out(context: Context, study: SearchStudy, options: SearchOptions) -> None:
    from medseg.pipeline.trial import TrialTraining
    from medseg.search.loop import Search, run_here
    from medseg.search.processes import TrialProcesses
    from medseg.training.surroundings import stop_request

    listener = _Listener(context, study, options)
    config = context.config.model_copy(update={"search": None})
    training = TrialTraining(
        config=_shared_threads(config, context, options.parallel),
        settings=options.settings,
        metric=options.metric,
        run=context.run.path,
        folder=_folder(context) / TRIALS,
        cases=context.cases,
        splits=context.splits,
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
        run_here(search, replace(training, reporter=_TrialReporter(context, listener)))
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
    )
    columns, cells = shown_table(rows, found, best, metric=options.metric)
    context.reporter.table("Trials (* best)", columns, cells)


def read_search(run: Path) -> dict[str, Any] | None:
    """search.json of a run, None where it has none.

    Raises
    ------
    StorageError
        It is damaged.
    """
    path = run / STAGE / RECORD
    if not path.exists():
        return None
    try:
        value: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as err:
        raise StorageError(f"{path} is damaged: {err}; remove it and run again with --only search") from err
    return value


class _Listener:
    """Tells people how the search gets on, and removes weights that no one needs."""

    def __init__(self, context: Context, study: SearchStudy, options: SearchOptions) -> None:
        self._context, self._study, self._options = context, study, options
        self._done = self._count(study.rows())

    def advanced(self, text: str) -> None:
        """Show a line about the trial that runs."""
        wanted = max(self._done, self._options.trials)
        self._context.reporter.advanced(STAGE, self._done, wanted, text)

    def validated(self, number: int, epoch: int, value: float) -> None:
        """A trial reached the end of an epoch."""
        self.advanced(f"trial {number}: epoch {epoch}, {self._options.metric} {value:.4f}")

    def ended(self, row: TrialRow) -> None:
        """A trial ended."""
        rows = self._study.rows()
        self._done = self._count(rows)
        best = best_row(rows, higher_is_better=self._options.higher_is_better)
        is_best = best is not None and best.number == row.number
        self._context.reporter.note(_ended_text(row, self._options, is_best=is_best))
        self._context.run.log("trial ended", trial=row.number, state=row.state, value=row.value)
        for other in rows:
            if other.state in ENDED and (best is None or other.number != best.number):
                _remove_weights(_folder(self._context) / TRIALS / str(other.number) / "training")

    @staticmethod
    def _count(rows: Sequence[TrialRow]) -> int:
        return sum(row.state in ENDED for row in rows)


def _ended_text(row: TrialRow, options: SearchOptions, *, is_best: bool) -> str:
    names = table_columns(parameters(options.space))
    values = ", ".join(f"{name} {raw_text(raw)}" for name, raw in zip(names, row.raw.values(), strict=True))
    how = f"{options.metric} {row.value:.4f}" if row.value is not None else row.state
    more = " (best so far)" if is_best else f" ({row.reason})" if row.reason else ""
    return f"trial {row.number}: {how}{more}; {values}"


def _remove_weights(folder: Path) -> None:
    for pattern in _WEIGHTS:
        for path in folder.glob(pattern):
            path.unlink(missing_ok=True)


class _TrialReporter(SilentReporter):
    """Shows the training of a trial as part of the search."""

    def __init__(self, context: Context, listener: _Listener) -> None:
        self._context, self._listener, self._trial = context, listener, ""

    def stage_started(self, name: str, text: str) -> None:
        """A trial begins; `name` says which."""
        self._trial = name

    def advanced(self, name: str, done: int, total: int, text: str) -> None:
        """A step of its training."""
        self._listener.advanced(f"{self._trial}: {text}")

    def note(self, text: str) -> None:
        """Pass it on."""
        self._context.reporter.note(f"{self._trial}: {text}")
