"""Cross-validation in one run folder: every fold is trained in `folds/<k>/`, the model is their ensemble.

A fold has a record and a lock of its own, so that several machines that share the folder can train one each;
what is done is used again. Prepared cases are shared by all folds. Imports no torch until something is trained.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from medseg.data.manifest import Split
from medseg.data.options import FoldSplit, SplitOptions
from medseg.data.splits import splits_of_fold
from medseg.errors import (
    ConfigError,
    EnvironmentFailure,
    InputError,
    Interrupted,
    MedsegError,
    TrainingError,
)
from medseg.pipeline.context import Context
from medseg.pipeline.progress import Reporter
from medseg.pipeline.run_folder import FOLDS, RunFolder, StageState
from medseg.pipeline.runner import Stage, run_stages

if TYPE_CHECKING:
    from medseg.models.bundle import Bundle

STAGE = "train"
_KINDS: Mapping[int, type[MedsegError]] = {2: ConfigError, 3: InputError, 4: EnvironmentFailure}


class FoldFolder(RunFolder):
    """`folds/<k>/` of a run: a record, a lock and a training of its own, the cache of the run."""

    def __init__(self, run: Path, fold: int) -> None:
        super().__init__(run / FOLDS / str(fold))
        self._run = run

    @property
    def cache(self) -> Path:
        """The cache of the whole run."""
        return self._run / "cache"

    @property
    def model(self) -> Path:
        """Folder of the fold's own bundle."""
        return self.path / "model"

    def reread(self) -> None:
        """Take what another process wrote since this one looked."""
        super().__init__(self.path)


class FoldReporter:
    """Passes on what one fold tells, and says which fold it is."""

    def __init__(self, reporter: Reporter, fold: int) -> None:
        self._reporter, self._fold = reporter, fold

    def title(self, text: str) -> None:
        """Leave the title to the run."""

    def stage_started(self, name: str, text: str) -> None:
        """Leave the stage to the run."""

    def advanced(self, name: str, done: int, total: int, text: str) -> None:
        """Name the fold."""
        self._reporter.advanced(name, done, total, f"fold {self._fold}: {text}")

    def stage_done(self, name: str, text: str, seconds: float | None) -> None:
        """Tell how the fold ended."""
        self._reporter.note(f"fold {self._fold}: {text}{' (reused)' if seconds is None else ''}")

    def table(self, title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Pass it on."""
        self._reporter.table(title, columns, rows)

    def note(self, text: str) -> None:
        """Name the fold."""
        self._reporter.note(f"fold {self._fold}: {text}")


@dataclass(frozen=True, slots=True, kw_only=True)
class FoldOutcome:
    """How the training of a fold ended: its state, or why there is none."""

    fold: int
    state: StageState | None = None
    error: MedsegError | None = None


def fold_split(split: SplitOptions) -> FoldSplit:
    """The settings of the folds.

    Raises
    ------
    ConfigError
        The run does not test every fold in its turn.
    """
    if not isinstance(split, FoldSplit) or split.fold != "all":
        raise ConfigError("--fold needs data.split: {use: folds, fold: all}; found another split")
    return split


def watched_split(split: SplitOptions) -> Split:
    """The split whose Dice is shown while training; the tested fold, where the settings say so, chooses nothing."""
    return "test" if isinstance(split, FoldSplit) and split.validation == "tested" else "validation"


def checked_fold(split: SplitOptions, fold: int) -> int:
    """The number of a fold that the split has.

    Raises
    ------
    ConfigError
        The split has no such fold, or does not test every fold in its turn.
    """
    count = fold_split(split).count
    if not 0 <= fold < count:
        raise ConfigError(f"--fold is 0 to {count - 1} for {count} folds, found {fold}")
    return fold


def fold_context(context: Context, fold: int) -> Context:
    """The context of one fold: its folder, and the cases as they are split for it."""
    splits = splits_of_fold(context.folds, fold_split(context.settings.data.split), fold=fold)
    return replace(
        context,
        run=FoldFolder(context.run.path, fold),
        fold=fold,
        splits=dict(splits),
        cases=tuple(replace(case, split=splits[case.case_id]) for case in context.cases),
        failures=[],
    )


def train_folds(context: Context) -> dict[str, Any]:
    """Train every fold that is not done, then make the bundle of the run from all.

    Raises
    ------
    MedsegError
        Some fold failed; all others were trained, and the message names each with its reason.
    Interrupted
        SIGINT or SIGTERM; the state of every fold is saved.
    """
    split = fold_split(context.config.data.split)
    wanted = context.parallel_folds or context.config.compute.parallel_folds
    processes = min(wanted, split.count)
    prepare_all(context)
    if processes > 1:
        from medseg.pipeline.fold_processes import train_parallel

        outcomes = train_parallel(context, range(split.count), processes=processes)
    else:
        outcomes = [_attempt(context, fold) for fold in range(split.count)]
    _refuse_failed(outcomes)
    states = [outcome.state for outcome in outcomes if outcome.state is not None]
    _recall_failures(context, states)
    return _summary(states, gather(context, split.count))


def train_fold(context: Context, fold: int) -> StageState:
    """Train one fold and write its bundle, or go on, or use what is there.

    Raises
    ------
    StorageError
        Another process trains this fold.
    MedsegError
        What ended the training.
    """
    part = fold_context(context, fold)
    folder = FoldFolder(context.run.path, fold)
    part.run, part.reporter = folder, FoldReporter(context.reporter, fold)
    with folder.locked():
        folder.reread()
        folder.record |= {
            "format": 1,
            "fold": fold,
            "settings_sha256": context.run.record["settings_sha256"],
            "versions": context.run.record["versions"],
        }
        run_stages(part, (_STAGE,), upstream=f"{context.stage_key}: fold {fold}")
        return folder.stage(STAGE)


def _fit(context: Context) -> dict[str, Any]:
    from medseg.pipeline.fit import fit

    return fit(context)


_STAGE = Stage(name="train", settings=(), run=_fit, wanted=lambda _: True, plan=lambda _: "one fold")


def _attempt(context: Context, fold: int) -> FoldOutcome:
    try:
        return FoldOutcome(fold=fold, state=train_fold(context, fold))
    except Interrupted:
        raise
    except MedsegError as err:
        from medseg.training.distributed import processes

        if processes().world_size > 1:
            # The other processes of this training have ended with it; none is left for the next fold.
            raise
        context.reporter.note(f"fold {fold} failed: {err}")
        return FoldOutcome(fold=fold, error=err)


def _refuse_failed(outcomes: Sequence[FoldOutcome]) -> None:
    failed = [outcome for outcome in outcomes if outcome.error is not None]
    if not failed:
        return
    reasons = "; ".join(f"fold {outcome.fold}: {outcome.error}" for outcome in failed)
    done = ", ".join(str(outcome.fold) for outcome in outcomes if outcome.error is None)
    codes = {outcome.error.exit_code for outcome in failed if outcome.error is not None}
    kind = failure_kind(codes.pop()) if len(codes) == 1 else TrainingError
    raise kind(
        f"{len(failed)} of {len(outcomes)} folds were not trained: {reasons} "
        f"(folds that are done and will be used again: {done or 'none'}; the same command goes on)"
    )


def failure_kind(exit_code: int) -> type[MedsegError]:
    """The class of error that ends the program with an exit code."""
    return _KINDS.get(exit_code, TrainingError)


def prepare_all(context: Context) -> None:
    """Prepare every labelled case, so that a bad one is told once and folds side by side only read the cache."""
    from medseg.pipeline.fit import prepare

    prepare(context, "train")


def _recall_failures(context: Context, states: Sequence[StageState]) -> None:
    known = {failure.case_id for failure in context.failures}
    for state in states:
        for case_id, text in state.summary.get("failed", {}).items():
            if case_id not in known:
                known.add(case_id)
                context.fail(case_id, STAGE, text)


def gather(context: Context, count: int) -> Bundle:
    """Write the bundle of the run, whose members are the folds."""
    from medseg.models.bundle import read_bundle
    from medseg.models.ensemble_writer import write_ensemble

    members = {fold: read_bundle(FoldFolder(context.run.path, fold).model) for fold in range(count)}
    patients = len({case.patient_id for case in context.labelled(context.cases)})
    return write_ensemble(
        context.model_folder,
        members,
        cases=len(context.labelled(context.cases)),
        patients=patients,
        settings_sha256=context.run.record["settings_sha256"],
    )


def member_of(context: Context, case_id: str) -> Path:
    """The bundle that never saw the patient of a case."""
    return FoldFolder(context.run.path, context.folds[case_id]).model


def _summary(states: Sequence[StageState], bundle: Bundle) -> dict[str, Any]:
    found = [dict(state.summary) for state in states]
    best = [value for s in found if (value := s.get("best_metric")) is not None]
    values = best or [value for s in found if (value := s.get("last_dice")) is not None]
    dice = f", Dice {np.mean(values):.4f} ({min(values):.4f} to {max(values):.4f})" if values else ""
    first = found[0]
    same = ("precision", "precision_reason", "threads", "start")
    return {
        "text": f"{len(found)} folds{dice}",
        "weights_sha256": bundle.weights_sha256,
        "bundle_weights_sha256": bundle.weights_sha256,
        "best_metric": float(np.mean(best)) if best else None,
        "best_epoch": None,
        "epochs": max(s["epochs"] for s in found),
        "updates": sum(s["updates"] for s in found),
        "seconds": sum(s["seconds"] for s in found),
        "images_per_second": _mean([s["images_per_second"] for s in found]),
        **{name: first[name] for name in same if name in first},
        "folds": [
            {
                name: s.get(name)
                for name in ("text", "weights_sha256", "best_metric", "last_dice", "epochs", "seconds")
            }
            for s in found
        ],
    }


def _mean(values: Sequence[float]) -> float:
    # A fold that had nothing left to do trained no image in this process.
    busy = [value for value in values if value > 0]
    return float(np.mean(busy)) if busy else 0.0
