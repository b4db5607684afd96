"""The stage `train` on a few cases and steps, in a process of its own: what memory and time it takes."""

from __future__ import annotations

import json
import math
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from medseg.config.schema import RunConfig
from medseg.data.manifest import Case, Split
from medseg.memory import PeakMemory, peak_memory_bytes
from medseg.pipeline.context import Context
from medseg.pipeline.epoch_budget import resolved_training
from medseg.pipeline.progress import SilentReporter
from medseg.pipeline.run_folder import RunFolder
from medseg.planning.cost import ProbeResult
from medseg.planning.probe import in_child
from medseg.training.records import Progress

EPOCHS = 2
# A few steps that take longer than the whole training may, or than this, are no way to measure anything.
_LEAST_LIMIT_S = 600.0
# The first updates are slow: memory is taken from the system, kernels are chosen.
_WARM_UP = 2
_MOST_STEPS = 6
_LEAST_STEPS = 3
_STEP_VOXELS = 6_000_000
_TRAINING_CASES = 4
_VALIDATION_CASES = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeCases:
    """The cases of a probe, the largest of each split among them, and what they stand for.

    Parameters
    ----------
    cases : tuple of Case
        With their splits.
    facts : mapping
        Of the stage `check`.
    validation_voxels, source_voxels : float
        Voxels shown in their validation, voxels of all their source images.
    """

    cases: tuple[Case, ...]
    facts: Mapping[str, Mapping[str, Any]]
    validation_voxels: float
    source_voxels: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeRequest:
    """What the process of a probe is told."""

    config: RunConfig
    cases: ProbeCases
    folder: Path
    record: Mapping[str, Any]
    steps: int


def spread(cases: Sequence[tuple[Case, int]], count: int) -> list[Case]:
    """Up to `count` cases evenly over the order of their sizes, the largest among them."""
    ordered = [case for case, _ in sorted(cases, key=lambda pair: (-pair[1], pair[0].case_id))]
    return ordered[:: max(1, -(-len(ordered) // count))][:count] if ordered else []


def choose_cases(sizes: Mapping[Split, Sequence[tuple[Case, int]]]) -> tuple[Case, ...]:
    """The cases of the probe, of (case, prepared voxels) by split."""
    training = [with_split(case, "train") for case in spread(sizes["train"], _TRAINING_CASES)]
    validation = [with_split(case, "validation") for case in spread(sizes["validation"], _VALIDATION_CASES)]
    return (*training, *validation)


def measure(
    config: RunConfig, cases: ProbeCases, *, run: RunFolder, sample_voxels: int, waiting: Any = None
) -> ProbeResult:
    """Train a few steps as the run will; the run's folder is left as it is.

    Parameters
    ----------
    config : RunConfig
        As decided, whatever its number of epochs.
    sample_voxels : int
        Of one batch; fewer steps are made of larger ones.
    waiting : callable, optional
        Called while the probe works.

    Raises
    ------
    MedsegError
        What the training would raise.
    EnvironmentFailure
        The process of the probe died, or took longer than the time of the budget and ten minutes.
    """
    steps = max(_LEAST_STEPS, min(_MOST_STEPS, math.ceil(_STEP_VOXELS / sample_voxels)))
    run.cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="probe-", dir=run.cache) as folder:
        request = ProbeRequest(
            config=_shortened(config, steps, validated=_validated(cases)),
            cases=cases,
            folder=Path(folder),
            record=run.record,
            steps=steps,
        )
        return in_child(
            run_probe,
            request,
            what="the probe, a training of a few steps,",
            advice="set a smaller budget.ram or training.batch_size, or budget.probe: false",
            limit_s=max(_LEAST_LIMIT_S, config.budget.time),
            waiting=waiting,
        )


def _validated(cases: ProbeCases) -> bool:
    return any(case.split == "validation" and case.label is not None for case in cases.cases)


def _shortened(config: RunConfig, steps: int, *, validated: bool) -> RunConfig:
    training = resolved_training(config)
    changed = training.model_dump() | {
        "epochs": EPOCHS,
        "time": None,
        "samples_per_epoch": steps * training.batch_size * training.accumulate,
        "validate_every": EPOCHS,
        "early_stop": None,
        "tensorboard": False,
        "checkpoint_every": None,
        "checkpoint_every_steps": None,
    }
    # A structure that the few cases lack gives no metric to choose by.
    changed |= {"keep": "last"}
    data = config.data.model_dump() | {"split": {"use": "manifest"}}
    return RunConfig.model_validate(config.model_dump() | {"training": changed, "data": data})


@dataclass(slots=True)
class _Timeline:
    """When which progress was made, by `time.perf_counter`."""

    moments: list[tuple[float, Progress]] = field(default_factory=list)

    def note(self, progress: Progress) -> None:
        self.moments.append((time.perf_counter(), progress))

    def step_s(self) -> float:
        """Seconds of an update, the first ones and the slowest left out."""
        gaps = [
            (later - earlier) / max(1, after.step - before.step)
            for (earlier, before), (later, after) in zip(self.moments, self.moments[1:], strict=False)
            if after.epoch == before.epoch and after.step > before.step
        ]
        gaps = gaps[min(_WARM_UP, len(gaps) - 1) :]
        kept = sorted(gaps)[: max(1, len(gaps) - 1)]
        return sum(kept) / len(kept)

    def epoch_ends_s(self) -> list[float]:
        """Seconds between the last update of each epoch and the end of its validation and checkpoint."""
        return [
            later - earlier
            for (earlier, before), (later, after) in zip(self.moments, self.moments[1:], strict=False)
            if after.epoch == before.epoch and after.step == before.step == after.steps
        ]

    def span_s(self) -> float:
        """From the first progress to the last."""
        return self.moments[-1][0] - self.moments[0][0]


def run_probe(request: ProbeRequest) -> ProbeResult:
    """The work of the process: train as the request says, and measure."""
    import torch

    from medseg.pipeline.fit import fit, prepare

    timeline = _Timeline()
    context = _context(request, timeline)
    start_bytes = peak_memory_bytes()
    with PeakMemory() as peak:
        torch.set_num_threads(context.threads)
        begin = time.perf_counter()
        prepare(context, "train")
        prepare(context, "validation")
        preparation_s = time.perf_counter() - begin
        begin = time.perf_counter()
        fit(context)
        whole_s = time.perf_counter() - begin
        ram_bytes = peak.total_bytes
    step_s = timeline.step_s()
    return ProbeResult(
        step_s=step_s,
        epoch_end_s=min(timeline.epoch_ends_s()),
        validation_s=_validation_s(request.folder / "training" / "metrics.jsonl"),
        validation_voxels=request.cases.validation_voxels,
        preparation_s=preparation_s,
        preparation_voxels=request.cases.source_voxels,
        other_s=max(0.0, whole_s - timeline.span_s() - step_s),
        ram_bytes=ram_bytes,
        start_bytes=start_bytes,
        gpu_bytes=_gpu_peak(context.device()),
        steps=request.steps * EPOCHS,
    )


def _validation_s(curves: Path) -> float:
    """Seconds of the validation of the last epoch, as the training itself measured them."""
    row = json.loads(curves.read_text(encoding="utf-8").splitlines()[-1])
    return float(row["validation_s"])


def _context(request: ProbeRequest, timeline: _Timeline) -> Context:
    run = RunFolder(request.folder)
    run.record = dict(request.record)
    run.path.mkdir(parents=True, exist_ok=True)
    splits: dict[str, Split] = {case.case_id: case.split or "train" for case in request.cases.cases}
    return Context(
        settings=request.config,
        run=run,
        reporter=SilentReporter(),
        cases=request.cases.cases,
        splits=splits,
        facts={case_id: dict(fact) for case_id, fact in request.cases.facts.items()},
        on_progress=timeline.note,
    )


def _gpu_peak(device: str) -> int | None:
    if not device.startswith("cuda"):
        return None
    import torch

    free, total = torch.cuda.mem_get_info(torch.device(device))
    reserved = torch.cuda.max_memory_reserved(torch.device(device))
    # The context of CUDA itself is in no count of torch.
    outside = max(0, total - free - torch.cuda.memory_reserved(torch.device(device)))
    return reserved + min(outside, 10**9)


def with_split(case: Case, split: Split) -> Case:
    """A case whose record says its split."""
    return replace(case, split=split)
