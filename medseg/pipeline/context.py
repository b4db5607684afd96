"""What every stage of a run is handed: settings, label table, run folder, the cases, who listens."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from medseg.config.schema import PipelineConfig, RunConfig
from medseg.data.manifest import Case, Split
from medseg.errors import ConfigError
from medseg.labels import LabelTable
from medseg.pipeline.kept_images import ROOM_BYTES, KeptImages
from medseg.pipeline.progress import Reporter
from medseg.pipeline.run_folder import RunFolder, StageState
from medseg.planning.cost import Prediction
from medseg.privacy import pseudonym
from medseg.training.records import Progress as TrainingProgress


@dataclass(slots=True, kw_only=True)
class CaseFailure:
    """A case that a stage could not do, and why; the run goes on without it."""

    case_id: str
    stage: str
    text: str


@dataclass(kw_only=True)
class Context:
    """One run.

    Parameters
    ----------
    settings : PipelineConfig
        As the YAML says them; the stage `plan` puts the decided ones in their place.
    run : RunFolder
    reporter : Reporter
    cases : tuple of Case
        Usable cases, set by the stage `check`.
    splits : dict
        Case id -> train, validation or test; set by the stage `check`.
    facts : dict
        Case id -> what `check` found out: shape, spacing, file hashes.
    failures : list of CaseFailure
        Grows; a run that has any ends with exit code 1.
    resuming : bool
        Whether the stage that runs was begun with the same key and not ended; set by the runner.
    prediction : Prediction or None
        What the stage `plan` expects the training to take.
    on_progress : callable (Progress) or None
        Told of every update of the training, besides the reporter.
    stage_key : str
        Key of the stage that runs; set by the runner.
    folds : dict
        Case id -> fold, in a run that tests every fold in its turn; set by the stage `check`. Empty otherwise.
    fold : int or None
        In the part of such a run that trains one fold, that fold.
    parallel_folds : int or None
        Folds trained at the same time, instead of those of the settings.
    core_share : int
        Processes that the threads of the settings are divided among.
    """

    settings: PipelineConfig
    run: RunFolder
    reporter: Reporter
    cases: tuple[Case, ...] = ()
    splits: dict[str, Split] = field(default_factory=dict)
    facts: dict[str, dict[str, Any]] = field(default_factory=dict)
    failures: list[CaseFailure] = field(default_factory=list)
    resuming: bool = False
    prediction: Prediction | None = None
    on_progress: Callable[[TrainingProgress], None] | None = None
    stage_key: str = ""
    folds: dict[str, int] = field(default_factory=dict)
    fold: int | None = None
    parallel_folds: int | None = None
    core_share: int = 1

    @property
    def config(self) -> RunConfig:
        """The settings with everything decided, for the stages after `plan`."""
        if not isinstance(self.settings, RunConfig):
            raise RuntimeError(f"not decided yet: {', '.join(self.settings.autos)}; run the stage plan first")
        return self.settings

    @cached_property
    def table(self) -> LabelTable:
        """Label table of the settings."""
        return self.settings.label_table()

    @cached_property
    def kept_images(self) -> KeptImages:
        """Images that a later stage of this process asks for again; none below a ceiling of memory."""
        return KeptImages(ROOM_BYTES if self.settings.predict.max_ram is None else 0)

    @cached_property
    def threads(self) -> int:
        """Processor threads for the numeric libraries."""
        wanted = self.settings.compute.threads
        found = len(os.sched_getaffinity(0)) if wanted == "auto" else int(wanted)
        return max(1, found // self.core_share)

    def section(self, name: str) -> Any:
        """One section of the settings as JSON, for keys and records."""
        return self.settings.model_dump(mode="json", include={name})[name]

    def in_split(self, *splits: str) -> tuple[Case, ...]:
        """Usable cases of the named splits; where every fold is tested in its turn, all train and are tested."""
        if self.every_fold:
            return self.cases if {"train", "test"} & set(splits) else ()
        return tuple(case for case in self.cases if self.splits.get(case.case_id) in splits)

    @property
    def every_fold(self) -> bool:
        """Whether this is the whole of a run that tests every fold in its turn, not the part of one fold."""
        return bool(self.folds) and self.fold is None

    def labelled(self, cases: Sequence[Case]) -> tuple[Case, ...]:
        """Those that name a mask."""
        return tuple(case for case in cases if case.label is not None)

    def chosen(self, which: str) -> tuple[Case, ...]:
        """Cases of a split, or ``all``."""
        return self.cases if which == "all" else self.in_split(which)

    def fail(self, case_id: str, stage: str, text: str) -> None:
        """Leave one case out of the rest of the run and remember why."""
        self.failures.append(CaseFailure(case_id=case_id, stage=stage, text=text))
        self.cases = tuple(case for case in self.cases if case.case_id != case_id)
        self.run.log("case failed", stage=stage, case=pseudonym(case_id))
        self.reporter.note(f"{case_id}: {text}")

    def recall_failures(self, stage: str, state: StageState) -> None:
        """Leave out the cases that a stage could not do when it ran, now that its result is used again."""
        for case_id, text in state.summary.get("failed", {}).items():
            self.fail(case_id, stage, text)

    def upstream_of(self, key: str, state: StageState) -> str:
        """What later stages depend on: this stage's key and the hash of what it found or made."""
        return (
            f"{key}:{state.summary.get('inputs_sha256', '')}{state.summary.get('bundle_weights_sha256', '')}"
        )

    def device(self) -> str:
        """The torch device of the settings; `auto` takes a CUDA device where there is one."""
        wanted = self.settings.compute.device
        import torch

        if wanted == "cuda" and not torch.cuda.is_available():
            raise ConfigError("compute.device is cuda, but torch sees no CUDA device; use auto or cpu")
        if wanted == "auto":
            return "cuda" if torch.cuda.is_available() else "cpu"
        return wanted

    @property
    def model_folder(self) -> Path:
        """Where the bundle of this run lies."""
        return self.run.path / "model"
