"""The training run: epochs, validation, best weights, early stop, checkpoints, interruption, resume.

Everything random in a step follows from (seed, epoch, step, process), so a run that was killed and
continued ends in the same weights, bit for bit, as one that was not.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors.torch import load_file
from torch import nn

from medseg.errors import ConfigError, Interrupted, StorageError, TrainingError
from medseg.training import distributed
from medseg.training.checkpoint import (
    load_checkpoint,
    remove_damaged,
    save_checkpoint,
    save_named_weights,
    save_weights,
    weights_intact,
)
from medseg.training.curves import TensorboardCurves, require_tensorboard, write_curves
from medseg.training.ema import MovingAverage
from medseg.training.loop import (
    Stepper,
    TrainingBatch,
    explained_errors,
    grouped,
    place_network,
    step_seed,
)
from medseg.training.optim import build_optimiser, learning_rate_at, set_frozen
from medseg.training.options import NOT_IN_DIGEST, TrainingOptions
from medseg.training.precision import choose_precision
from medseg.training.records import Progress, RunState, TrainingResult
from medseg.training.surroundings import StopRequest, determinism, stop_request

_LOG = logging.getLogger(__name__)
FINAL_WEIGHTS = "final.safetensors"
Validate = Callable[[nn.Module], dict[str, float]]


class Loader(Protocol):
    """What the trainer needs of a `BatchLoader`."""

    @property
    def steps(self) -> int: ...
    def epoch(self, epoch: int, start_step: int = 0) -> Iterator[TrainingBatch]: ...


def train(
    *,
    network: nn.Module,
    loader: Loader,
    validate: Validate | None,
    options: TrainingOptions,
    loss: nn.Module,
    folder: Path,
    progress: Callable[[Progress], None] | None = None,
    resume: bool = True,
    device: torch.device | None = None,
    settings: Mapping[str, Any] | None = None,
    on_validation: Callable[[int, Mapping[str, float]], None] | None = None,
) -> TrainingResult:
    """Train a network, or go on where the folder's checkpoint stands; the result is the same.

    Under torch.distributed every process calls this with its own part of the batches and a folder
    they share; process 0 writes. Every process validates, and the values of process 0 count.

    Parameters
    ----------
    network : nn.Module
        Initialised by the caller, on any device; ends with the final weights, in evaluation mode.
    loader : BatchLoader
        Has `steps` and `epoch(epoch, start_step)`.
    validate : callable (network) -> dict of float, or None
        Called without gradients, with the network (its moving average where `ema` is set) in
        evaluation mode. None only with ``keep: last`` and no early stop.
    options : TrainingOptions
    loss : nn.Module
        forward(logits or list of logits, label) -> scalar.
    folder : Path
        Checkpoints, curves and `final.safetensors` are written here.
    progress : callable (Progress), optional
        Called after every update and validation.
    resume : bool, optional
        False removes the checkpoints of the folder first.
    device : torch.device, optional
        CPU unless given.
    settings : mapping, optional
        JSON values that decide the result besides `options`, such as data hashes and preprocessing;
        a checkpoint made with others is refused.
    on_validation : callable (epoch, values), optional
        Called in every process after each validation, before its checkpoint is written, with the epoch
        counted from 1; after a kill perhaps twice for one epoch. What it raises ends the training.

    Returns
    -------
    TrainingResult

    Raises
    ------
    ConfigError
        Settings that do not fit network, device, or the checkpoint in the folder.
    TrainingError
        Loss, gradient or weights are not finite, or the metric never is.
    Interrupted
        SIGINT or SIGTERM; the state is saved.
    StorageError
        A file cannot be written or read.
    MissingPackageError
        TensorBoard was asked for and is not installed.
    """
    _check(validate, options)
    device = device or torch.device("cpu")
    if not resume and distributed.processes().rank == 0 and folder.is_dir():
        _clear(folder)
    distributed.barrier()
    with determinism(options.deterministic):
        run = _Run(
            network=network,
            loader=loader,
            validate=validate,
            options=options,
            loss=loss,
            folder=folder,
            progress=progress,
            device=device,
            settings=settings or {},
            on_validation=on_validation,
        )
        run.restore()
        with stop_request() as stop, contextlib.closing(run):
            while run.state.stopped_by is None:
                run.one_epoch(stop)
        return run.result()


def _check(validate: Validate | None, options: TrainingOptions) -> None:
    if validate is None and (options.keep == "best" or options.early_stop is not None):
        raise ConfigError(
            "without validation cases there is no best epoch and no early stop; "
            "add validation cases, or set training.keep: last and training.early_stop: null"
        )
    if options.tensorboard:
        require_tensorboard()


def _clear(folder: Path) -> None:
    for pattern in ("state-*.pt", "best-*.safetensors", FINAL_WEIGHTS, "metrics.csv", "metrics.jsonl"):
        for path in folder.glob(pattern):
            path.unlink()


class _Run:
    """One call of `train`: the objects that change while it runs."""

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
        device: torch.device,
        settings: Mapping[str, Any],
        on_validation: Callable[[int, Mapping[str, float]], None] | None = None,
    ) -> None:
        self.options, self.loader, self.validate = options, loader, validate
        self.on_validation = on_validation
        self.folder, self.device, self.progress = folder, device, progress
        self.state = RunState()
        self.processes = distributed.processes()
        self.network = place_network(network, device, options.memory_format)
        self.settings = _digest_settings(options, loader, network, settings)
        self.updates_per_epoch = -(-loader.steps // options.accumulate)
        precision = choose_precision(options.precision, device)
        _LOG.info("precision: %s", precision.reason)
        set_frozen(self.network, options.freeze, frozen=self._frozen(0))
        self.stepper = Stepper(
            network=distributed.wrap(self.network, device),
            optimiser=build_optimiser(network, options.optimiser, learning_rate=options.learning_rate),
            loss=loss.to(device),
            precision=precision,
            scaler=precision.scaler(device),
            device=device,
            clip_norm=options.clip_norm,
            memory_format=options.memory_format,
        )
        # After the wrap, which gives every process the weights of the first.
        self.average = MovingAverage(self.network, decay=options.ema) if options.ema else None
        self._boards: TensorboardCurves | None = None
        self._skipped: tuple[str, ...] = ()
        self._previous_best: str | None = None
        self._begin = time.perf_counter()
        self._busy_s, self._samples, self._done = 0.0, 0, 0

    # -- state ------------------------------------------------------------------------------------

    def restore(self) -> None:
        """Take the newest intact checkpoint of the folder, if there is one; write its curves again."""
        found = load_checkpoint(self.folder, settings=self.settings)
        if found is not None:
            self._load(found.state)
            self._skipped = found.skipped
            _LOG.info("training goes on from %s, update %d", found.path.name, self.state.update)
        if self.processes.rank == 0:
            if self.state.history:
                write_curves(self.folder, self.state.history)
            if self.options.tensorboard:
                self._boards = TensorboardCurves(self.folder, self.state.history)

    def _load(self, saved: dict[str, Any]) -> None:
        self.state = RunState(**saved["state"])
        self.network.load_state_dict(saved["network"])
        self.stepper.optimiser.load_state_dict(saved["optimiser"])
        self.stepper.scaler.load_state_dict(saved["scaler"])
        self.stepper.skipped = int(saved["skipped_updates"])
        if self.average is not None:
            self.average.load_state_dict(saved["average"])
        torch.set_rng_state(saved["torch_rng"])
        best = self.state.best_file
        if best is not None and not weights_intact(self.folder / best):
            raise StorageError(
                f"the best weights {self.folder / best} are missing or damaged; "
                "remove the state-*.pt files of that folder to train from the start"
            )
        self._previous_best = best

    def save(self) -> None:
        """Write a checkpoint and remove weight files that none refers to."""
        self._check_weights()
        self.state.seconds += time.perf_counter() - self._begin
        self._begin = time.perf_counter()
        if self.processes.rank != 0:
            return
        content = {
            "state": self.state.plain(),
            "network": self.network.state_dict(),
            "optimiser": self.stepper.optimiser.state_dict(),
            "scaler": self.stepper.scaler.state_dict(),
            "skipped_updates": self.stepper.skipped,
            "average": None if self.average is None else self.average.state_dict(),
            "torch_rng": torch.get_rng_state(),
        }
        save_checkpoint(self.folder, content, update=self.state.update, settings=self.settings)
        remove_damaged(self.folder, self._skipped)
        self._skipped = ()
        for path in self.folder.glob("best-*.safetensors"):
            if path.name not in (self.state.best_file, self._previous_best):
                path.unlink()
        self._previous_best = self.state.best_file

    def _check_weights(self) -> None:
        for name, tensor in self.network.state_dict().items():
            if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
                raise TrainingError(
                    f"the weights {name} are not finite at {self._where()}; "
                    f"lower training.learning_rate; the last good checkpoint in {self.folder} is kept"
                )

    # -- one epoch --------------------------------------------------------------------------------

    def one_epoch(self, stop: StopRequest) -> None:
        """Train to the end of the current epoch, validate, save."""
        self._train_mode()
        start = time.perf_counter()
        for group in grouped(self.loader.epoch(self.state.epoch, self.state.step), self.options.accumulate):
            self._update(group)
            self._busy_s += time.perf_counter() - start
            self._report()
            self._stop_if_asked(stop)
            every = self.options.checkpoint_every_steps
            if every is not None and self.state.update % every == 0 and self.state.step < self.loader.steps:
                self.save()
            start = time.perf_counter()
        self._end_epoch()
        if self.state.stopped_by is None:
            self._stop_if_asked(stop, saved=True)

    def _train_mode(self) -> None:
        state, options = self.state, self.options
        self.network.train()
        if not options.freeze:
            return
        thaws = state.epoch > 0 and self._frozen(state.epoch - 1) and not self._frozen(state.epoch)
        set_frozen(self.network, options.freeze, frozen=self._frozen(state.epoch))
        if thaws or self._done == 0:
            self.stepper.network = distributed.wrap(self.network, self.device)

    def _frozen(self, epoch: int) -> bool:
        options = self.options
        return bool(options.freeze) and (options.freeze_epochs is None or epoch < options.freeze_epochs)

    def _update(self, group: list[TrainingBatch]) -> None:
        state = self.state
        seeds = [
            step_seed(self.options.seed, state.epoch, state.step + number, self.processes.rank)
            for number in range(len(group))
        ]
        try:
            with explained_errors(self._where()):
                outcome = self.stepper.update(group, rate=self._rate(), seeds=seeds, where=self._where())
        except TrainingError as err:
            raise TrainingError(f"{err}; {self._last_good()}") from err
        if self.average is not None:
            self.average.update(self.network)
        state.step += len(group)
        state.update += 1
        state.loss_sum += outcome.loss * len(group)
        state.loss_count += len(group)
        self._samples += outcome.samples * self.processes.world_size
        self._done += len(group)

    def _last_good(self) -> str:
        newest = max(self.folder.glob("state-*.pt"), default=None)
        return f"the last good checkpoint is {newest}" if newest else "there is no checkpoint yet"

    def _where(self) -> str:
        return f"epoch {self.state.epoch + 1}, step {self.state.step + 1} of {self.loader.steps}"

    def _rate(self) -> float:
        return learning_rate_at(
            self.options.schedule,
            peak=self.options.learning_rate,
            step=self.state.update,
            steps=self.updates_per_epoch * self.options.epochs,
            steps_per_epoch=self.updates_per_epoch,
        )

    def _report(self) -> None:
        if self.progress is None or self.processes.rank != 0:
            return
        state, options = self.state, self.options
        # After the validation of an epoch the state already stands at the start of the next.
        finished = state.loss_count == 0
        mean_s = (time.perf_counter() - self._begin + state.seconds) / max(1, self._steps_so_far())
        loss = state.history[-1]["loss"] if finished else state.loss_sum / state.loss_count
        self.progress(
            Progress(
                epoch=state.epoch if finished else state.epoch + 1,
                epochs=options.epochs,
                step=self.loader.steps if finished else state.step,
                steps=self.loader.steps,
                loss=loss,
                learning_rate=float(self.stepper.optimiser.param_groups[0]["lr"]),
                metrics=dict(state.metrics),
                images_per_second=self._samples / self._busy_s if self._busy_s else 0.0,
                seconds_left=mean_s * (options.epochs * self.loader.steps - self._steps_so_far()),
            )
        )

    def _steps_so_far(self) -> int:
        return self.state.epoch * self.loader.steps + self.state.step

    def _stop_if_asked(self, stop: StopRequest, *, saved: bool = False) -> None:
        if not distributed.any_of(stop.signal is not None, self.device):
            return
        if not saved:
            self.save()
        done = (
            f"epoch {self.state.epoch}"
            if saved
            else f"step {self.state.step} of epoch {self.state.epoch + 1}"
        )
        raise Interrupted(
            f"stopped by {stop.signal or 'a signal to another process'} after {done}; the state is saved in "
            f"{self.folder}, and the same command goes on from there"
        )

    # -- end of an epoch --------------------------------------------------------------------------

    def _end_epoch(self) -> None:
        state = self.state
        row: dict[str, float] = {
            "epoch": state.epoch + 1,
            "step": state.update,
            "learning_rate": float(self.stepper.optimiser.param_groups[0]["lr"]),
            "loss": state.loss_sum / state.loss_count,
        }
        if self._due():
            state.metrics = self._validated()
            row |= state.metrics
            if self.on_validation is not None:
                self.on_validation(state.epoch + 1, dict(state.metrics))
            self._judge()
        state.epoch, state.step, state.loss_sum, state.loss_count = state.epoch + 1, 0, 0.0, 0
        row["seconds"] = round(state.seconds + time.perf_counter() - self._begin, 3)
        state.history.append(row)
        self._decide_to_stop()
        self.save()
        if self.processes.rank == 0:
            write_curves(self.folder, state.history)
            if self._boards is not None:
                self._boards.add(row)
        self._report()

    def _due(self) -> bool:
        number = self.state.epoch + 1
        return self.validate is not None and (
            number % self.options.validate_every == 0 or number == self.options.epochs
        )

    def _scored(self) -> nn.Module:
        return self.network if self.average is None else self.average.network

    def _validated(self) -> dict[str, float]:
        if self.validate is None:
            return {}
        with torch.no_grad():
            values = self.validate(self._scored().eval())
        metrics = distributed.from_first({name: float(value) for name, value in values.items()})
        needed = self.options.keep == "best" or self.options.early_stop is not None
        if needed and self.options.metric not in metrics:
            raise ConfigError(
                f"training.metric {self.options.metric!r} is not among the validation values: "
                f"{', '.join(sorted(metrics))}"
            )
        return metrics

    def _judge(self) -> None:
        """Keep the weights where the metric is better than ever; NaN never is."""
        value = self.state.metrics.get(self.options.metric, math.nan)
        if self.state.judge(value, self.options) and self.options.keep == "best":
            self._check_weights()
            self.state.best_file = self._save_best()

    def _save_best(self) -> str:
        name = ""
        if self.processes.rank == 0:
            stem = f"best-{self.state.epoch + 1:05d}"
            name = save_named_weights(self.folder, stem, self._scored().state_dict()).name
        return distributed.from_first(name)

    def _decide_to_stop(self) -> None:
        seconds = self.state.seconds + time.perf_counter() - self._begin
        late = distributed.any_of(self.state.is_late(seconds, self.options), self.device)
        self.state.stopped_by = self.state.reason_to_stop(self.options, late=late)

    # -- result -----------------------------------------------------------------------------------

    def result(self) -> TrainingResult:
        """Load the final weights into the network and write them."""
        state = self.state
        distributed.barrier()
        self._load_final()
        self.network.eval().requires_grad_(True)
        path = self.folder / FINAL_WEIGHTS
        digest = save_weights(path, self.network.state_dict()) if self.processes.rank == 0 else ""
        distributed.barrier()
        return TrainingResult(
            weights=path,
            weights_sha256=digest,
            best_metric=state.best_value,
            best_epoch=state.best_epoch,
            epochs_run=state.epoch,
            updates=state.update,
            seconds=state.seconds,
            images_per_second=self._samples / self._busy_s if self._busy_s else 0.0,
            precision=self.stepper.precision.name,
            precision_reason=self.stepper.precision.reason,
            threads=torch.get_num_threads(),
            stopped_by=state.stopped_by or "epochs",
            history=tuple(dict(row) for row in state.history),
        )

    def _load_final(self) -> None:
        if self.options.keep == "last":
            self.network.load_state_dict(self._scored().state_dict())
            return
        name = self.state.best_file
        if name is None:
            raise TrainingError(
                f"training.metric {self.options.metric!r} was never a finite number, so no epoch is the "
                "best; look at metrics.csv, or set training.keep: last"
            )
        self.network.load_state_dict(load_file(self.folder / name))

    def close(self) -> None:
        """Finish the TensorBoard file."""
        if self._boards is not None:
            self._boards.close()


def _digest_settings(
    options: TrainingOptions, loader: Loader, network: nn.Module, settings: Mapping[str, Any]
) -> dict[str, Any]:
    """What decides the result, as plain values: options, batches, network shapes, the caller's settings."""
    shapes = "\n".join(f"{name} {tuple(value.shape)}" for name, value in network.state_dict().items())
    describe = getattr(loader, "describe", None)
    return {
        "training": options.model_dump(mode="json", exclude=set(NOT_IN_DIGEST)),
        "batches": describe() if describe is not None else {"steps": loader.steps},
        "network": hashlib.sha256(shapes.encode()).hexdigest()[:16],
        "run": dict(settings),
    }
