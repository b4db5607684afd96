"""A training as it stands: network, optimiser, state, files; one update, one checkpoint."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn

from medseg.errors import TrainingError
from medseg.provenance import sha256_json
from medseg.training import distributed
from medseg.training.curves import TensorboardCurves, write_curves
from medseg.training.ema import MovingAverage
from medseg.training.loop import (
    Stepper,
    TrainingBatch,
    UpdateOutcome,
    explained_errors,
    place_network,
    step_seed,
)
from medseg.training.optim import build_optimiser, learning_rate_at, set_frozen
from medseg.training.options import NOT_IN_DIGEST, TrainingOptions
from medseg.training.precision import choose_precision
from medseg.training.records import Progress, RunState
from medseg.training.run_files import RunFiles
from medseg.training.stopwatch import Stopwatch
from medseg.training.surroundings import StopRequest
from medseg.training.timetable import Timetable

_LOG = logging.getLogger(__name__)
Validate = Callable[[nn.Module], dict[str, float]]


class Loader(Protocol):
    """What the trainer needs of a `BatchLoader`."""

    @property
    def steps(self) -> int: ...
    def epoch(self, epoch: int, start_step: int = 0) -> Iterator[TrainingBatch]: ...


class Session:
    """The objects of one call of `train` that change while it runs."""

    def __init__(
        self,
        *,
        network: nn.Module,
        loader: Loader,
        validate: Validate | None,
        options: TrainingOptions,
        loss: nn.Module,
        folder: Path,
        progress: Callable[[Progress], None] | None,
        tell: Callable[[str], None] | None,
        on_validation: Callable[[int, Mapping[str, float]], None] | None,
        device: torch.device,
        settings: Mapping[str, Any],
    ) -> None:
        self.options, self.loader, self.validate = options, loader, validate
        self.device, self.progress, self._tell = device, progress, tell
        self.on_validation = on_validation
        self.state = RunState(timetable=Timetable.of(options.target_epochs))
        self.watch = Stopwatch(self.state)
        self.processes = distributed.processes()
        self.network = place_network(network, device, options.memory_format)
        self.files = RunFiles(folder, _digest_settings(options, loader, network, settings))
        self.updates_per_epoch = -(-loader.steps // options.accumulate)
        precision = choose_precision(options.precision, device)
        _LOG.info("precision: %s", precision.reason)
        set_frozen(self.network, options.freeze, frozen=self.frozen(0))
        self.stepper = Stepper(
            network=distributed.wrap(self.network, device),
            optimiser=build_optimiser(
                network,
                options.optimiser,
                learning_rate=options.learning_rate,
                factors=options.learning_rates,
            ),
            loss=loss.to(device),
            precision=precision,
            scaler=precision.scaler(device),
            device=device,
            clip_norm=options.clip_norm,
            memory_format=options.memory_format,
            adversarial=options.adversarial,
        )
        # After the wrap, which gives every process the weights of the first.
        self.average = MovingAverage(self.network, decay=options.ema) if options.ema else None
        self.boards: TensorboardCurves | None = None
        self._saved_at = time.monotonic()
        self._samples, self._busy_s, self._done = 0, 0.0, 0

    def restore(self) -> None:
        """Take the newest intact checkpoint of the folder, if there is one; write its curves again."""
        found = self.files.load()
        if found is not None:
            self._load(found.state)
            for sentence in found.damage:
                self.say(f"{sentence}; the one before it, {found.path.name}, is used")
            self.say(f"the training goes on in {self.where()}")
        self._require_same()
        if self.processes.rank == 0:
            if self.state.history:
                write_curves(self.files.folder, self.state.history)
            if self.options.tensorboard:
                self.boards = TensorboardCurves(self.files.folder, self.state.history)

    def say(self, text: str) -> None:
        """Tell the user one sentence, from process 0."""
        _LOG.info("%s", text)
        if self._tell is not None and self.processes.rank == 0:
            self._tell(text)

    def _load(self, saved: dict[str, Any]) -> None:
        self.state = RunState.restored(saved["state"])
        self.watch = Stopwatch(self.state)
        self.network.load_state_dict(saved["network"])
        self.stepper.optimiser.load_state_dict(saved["optimiser"])
        self.stepper.scaler.load_state_dict(saved["scaler"])
        self.stepper.skipped = int(saved["skipped_updates"])
        if self.average is not None:
            self.average.load_state_dict(saved["average"])
        torch.set_rng_state(saved["torch_rng"])

    def _require_same(self) -> None:
        """All processes must stand at the same update of the same training."""
        mine = (self.state.update, sha256_json(self.files.settings))
        first = distributed.from_first(mine)
        if distributed.any_of(mine != first):
            which = "this process" if mine != first else "another process"
            raise TrainingError(
                f"{which} found other settings, cases or checkpoints than process 0 (it stands at update "
                f"{first[0]}, this one at {mine[0]}); all machines need the same data and must share the folder "
                f"{self.files.folder}"
            )

    def save(self) -> None:
        """Write a checkpoint."""
        with self.watch.part("saving"):
            self.check_weights()
            self._saved_at = time.monotonic()
            self.watch.settle()
            if self.processes.rank == 0:
                self.files.save(self._content(), update=self.state.update, best_file=self.state.best_file)

    def _content(self) -> dict[str, Any]:
        return {
            "state": self.state.plain(),
            "network": self.network.state_dict(),
            "optimiser": self.stepper.optimiser.state_dict(),
            "scaler": self.stepper.scaler.state_dict(),
            "skipped_updates": self.stepper.skipped,
            "average": None if self.average is None else self.average.state_dict(),
            "torch_rng": torch.get_rng_state(),
        }

    def check_weights(self) -> None:
        """Refuse weights that are not finite; one wait for the device.

        Raises
        ------
        TrainingError
            Names the first such weights, and the checkpoint that is kept.
        """
        tensors = {n: t for n, t in self.network.state_dict().items() if t.is_floating_point()}
        finite = torch.stack([torch.isfinite(tensor).all() for tensor in tensors.values()]).tolist()
        for name, is_finite in zip(tensors, finite, strict=True):
            if not is_finite:
                raise TrainingError(
                    f"the weights {name} are not finite at {self.where()}; "
                    f"lower training.learning_rate; {self.files.last_good()}"
                )

    def frozen(self, epoch: int) -> bool:
        """Whether `training.freeze` holds in an epoch, counted from 0."""
        options = self.options
        return bool(options.freeze) and (options.freeze_epochs is None or epoch < options.freeze_epochs)

    def update(self, group: list[TrainingBatch], stop: StopRequest) -> UpdateOutcome:
        """Make one update; its votes say whether to stop, and whether a checkpoint is due."""
        state, where = self.state, self.where()
        seeds = [
            step_seed(self.options.seed, state.epoch, state.step + number, self.processes.rank)
            for number in range(len(group))
        ]
        state.rate = self._rate_now()
        votes = (stop.signal is not None, self.processes.rank == 0 and self.save_due())
        try:
            with explained_errors(where):
                outcome = self.stepper.update(group, rate=state.rate, seeds=seeds, where=where, votes=votes)
        except TrainingError as err:
            raise TrainingError(f"{err}; {self.files.last_good()}") from err
        if self.average is not None:
            self.average.update(self.network)
        state.step += len(group)
        state.update += 1
        state.loss_sum += outcome.loss * len(group)
        state.loss_count += len(group)
        self._samples += outcome.samples * self.processes.world_size
        self._done += len(group)
        return outcome

    def save_due(self) -> bool:
        """Whether a checkpoint within the epoch is due; it changes no result when one is written."""
        options = self.options
        by_steps = options.checkpoint_every_steps is not None and (
            self.state.update % options.checkpoint_every_steps == 0
        )
        by_time = options.checkpoint_every is not None and (
            time.monotonic() - self._saved_at >= options.checkpoint_every
        )
        return by_steps or by_time

    def where(self) -> str:
        """Epoch and step, for messages."""
        return f"epoch {self.state.epoch + 1}, step {self.state.step + 1} of {self.loader.steps}"

    def _rate_now(self) -> float:
        timetable = self.state.timetable
        return learning_rate_at(
            self.options.schedule,
            peak=self.options.learning_rate,
            step=timetable.step_at(self.state.update, updates_per_epoch=self.updates_per_epoch),
            steps=self.updates_per_epoch * timetable.planned,
            steps_per_epoch=self.updates_per_epoch,
        )

    def scored(self) -> nn.Module:
        """The network that is validated and kept: the moving average where there is one."""
        return self.network if self.average is None else self.average.network


def _digest_settings(
    options: TrainingOptions, loader: Loader, network: nn.Module, settings: Mapping[str, Any]
) -> dict[str, Any]:
    """What decides the result, as plain values: options, batches, network shapes, the caller's settings."""
    shapes = {name: "x".join(map(str, value.shape)) for name, value in network.state_dict().items()}
    describe = getattr(loader, "describe", None)
    return {
        "training": options.model_dump(mode="json", exclude=set(NOT_IN_DIGEST)),
        "batches": describe() if describe is not None else {"steps": loader.steps},
        "network": shapes,
        "run": dict(settings),
    }
