"""One trial of a search: the train stage's training with other settings, in a folder of its own. Imports torch."""

from __future__ import annotations

import contextlib
import fcntl
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from medseg.config.load import resolved_yaml
from medseg.config.schema import RunConfig
from medseg.config.yaml_model import with_values
from medseg.data.dataset import PreparedSet
from medseg.data.manifest import Case, Split
from medseg.pipeline.context import Context
from medseg.pipeline.fit import prepare, train_once
from medseg.pipeline.progress import Reporter, SilentReporter
from medseg.pipeline.run_folder import RunFolder
from medseg.provenance import sha256_json, write_json, write_text
from medseg.search.loop import TrialResult, Watch
from medseg.search.records import TrialJob
from medseg.training.options import TrainingOptions
from medseg.training.records import TrainingResult

_RECORD = "trial.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialTraining:
    """Trains with the values of a trial; picklable without its reporter, for processes of their own.

    Parameters
    ----------
    config : RunConfig
        Without its section search.
    settings : dict
        Dotted key -> value that all trials have.
    metric : str
    run : Path
        Folder of the run, whose prepared cases the trials share.
    folder : Path
        Folder of the trials.
    cases, splits, facts
        As in the context of the run.
    reporter : Reporter
        Is told how a training gets on.
    """

    config: RunConfig
    settings: dict[str, Any]
    metric: str
    run: Path
    folder: Path
    cases: tuple[Case, ...]
    splits: dict[str, Split]
    facts: dict[str, dict[str, Any]]
    reporter: Reporter = field(default_factory=SilentReporter)
    _sets: dict[str, tuple[PreparedSet, PreparedSet]] = field(default_factory=dict)

    def __call__(self, job: TrialJob, watch: Watch) -> TrialResult:
        """Train, or go on where the trial's checkpoint stands."""
        context = self._context(job)
        folder = self.folder / str(job.number)
        record = {"number": job.number, "values": dict(job.values), "settings": self.settings}
        resume = _read(folder / _RECORD) == record
        self.reporter.stage_started(f"trial {job.number}", "")
        write_text(folder / "pipeline.yaml", resolved_yaml(context.config))
        write_json(folder / _RECORD, record)
        done = train_once(
            context,
            folder=folder / "training",
            resume=resume,
            sets=self._prepared(context),
            on_validation=watch,
        )
        return _result(done.result, context.config.training or TrainingOptions(), self.metric)

    def _context(self, job: TrialJob) -> Context:
        return Context(
            settings=with_values(self.config, {**self.settings, **job.values}),
            run=RunFolder(self.run),
            reporter=self.reporter,
            cases=self.cases,
            splits=dict(self.splits),
            facts=self.facts,
        )

    def _prepared(self, context: Context) -> tuple[PreparedSet, PreparedSet]:
        """The cases as this trial's preprocessing makes them, once for all trials that have the same."""
        key = sha256_json(context.section("preprocess"))
        if key not in self._sets:
            with _alone(self.folder):
                self._sets[key] = prepare(context, "train"), prepare(context, "validation")
        return self._sets[key]


def _result(result: TrainingResult, options: TrainingOptions, metric: str) -> TrialResult:
    """The metric of the epoch whose weights came out."""
    validated = [row for row in result.history if metric in row]
    if options.keep == "best":
        validated = [row for row in validated if row["epoch"] == result.best_epoch]
    return TrialResult(
        value=validated[-1][metric] if validated else math.nan,
        facts={
            "weights_sha256": result.weights_sha256,
            "epoch": int(validated[-1]["epoch"]) if validated else None,
            "epochs": result.epochs_run,
            "updates": result.updates,
            "training_seconds": round(result.seconds, 3),
            "stopped_by": result.stopped_by,
        },
    )


def _read(path: Path) -> Any:
    """A JSON file, None where it is not there or not whole."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Wait until no other trial prepares cases: the cache is swept of what looks half written."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("a") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield
